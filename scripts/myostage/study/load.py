"""A study, read and checked with everything it names before anything runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from myostage.study.check import (
    check_files,
    check_groups,
    check_look,
    check_models,
    check_names,
    check_slide_level,
    check_slide_proportions,
    check_sources,
    missing_models,
)
from myostage.study.expand import applied, expand
from myostage.study.inputs import commented, read_proportions, read_quoted, read_slides
from myostage.study.parse import parse
from myostage.study.sections.study import Study
from myostage.study.worlds import Worlds


def load_study(
    source: str | Path | Mapping[str, Any], *, where: str = "study file", files: bool = True
) -> Study:
    """Read and check a study with everything it names, without opening a slide.

    Parameters
    ----------
    source : path, or mapping
        The YAML file, or the mapping that Snakemake read from it; paths are relative to where it runs.
    where : str
        What messages call a mapping.
    files : bool
        Whether the files that the tables name must exist, be non-empty and whole, and `slide_proportions`
        (which may be counted on them) be there.

    Raises
    ------
    UserError
        Anything wrong with the study or its tables, in one sentence that says where and how to mend it.
    """
    study, where = parse(source, where)
    if study.world is not None:
        check_names(study, where)
        Worlds(study).check(where)
        check_look(study, where, [], list(expand(study)))
        return study
    check_sources(study, where)
    check_names(study, where)
    experiments = expand(study)
    proportions = read_proportions(study)
    rows = read_slides(study)
    check_groups(study, where, rows, proportions)
    read_quoted(study)
    check_slide_level(study, rows, experiments)
    check_look(study, where, rows, list(experiments))
    if study.apply is not None:
        applied(study)
    if files:
        check_models(study, where, experiments)
        check_slide_proportions(study, rows)
        check_files(study, where, rows)
    return study


def notes(study: Study) -> list[str]:
    """What to know beforehand: rows that # leaves out, columns carried along, models to be fetched."""
    tables = [study.proportions, study.slide_proportions, study.slides, study.crops, study.quoted]
    said = []
    for table in [table for table in tables if table is not None and Path(table).exists()]:
        left_out = commented(table)
        if left_out:
            listed = ", ".join(map(str, left_out[:5])) + (", ..." if len(left_out) > 5 else "")
            said.append(f"{table}: {len(left_out)} rows that start with # are left out (row {listed})")
    carried = dict.fromkeys(name for row in read_slides(study) for name in row.carried)
    if carried:
        said.append(f"{study.slides}: columns {', '.join(carried)} are carried along, and used by nothing")
    return said + missing_models(study)

"""The study as the rules see it: its slides, the files it starts from, its runs in batches.

Read whenever the Snakefile is: no torch, no slide is opened, no folder is listed.
"""

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from myostage.errors import UserError
from myostage.paths import Paths
from myostage.study.config import applied, left_out, runnable
from myostage.study.inputs import (
    SlideRow,
    read_proportions,
    read_slide_proportions,
    read_slides,
    read_training_images,
    slide_classes,
    slide_scores,
)
from myostage.study.run import RunSpec
from myostage.study.sections.study import Study
from myostage.study.sections.training import EXPECTED_STAGE
from myostage.study.terms import REGRESSION_TERMS

RUN_FILES = ("model.safetensors", "history.parquet", "predictions.parquet", "outcome.parquet")
# what a model of slide labels leaves beside them
ATTENTION = "attention.parquet"
# rule -> what it makes of each slide of its batch, by what the study starts from
MADE_BY = {
    "slides": (("tile", "tiles.parquet"), ("segment", "cells.parquet"), ("crop", "crops.parquet")),
    "features": (("features", "positions.parquet"), ("features", "labels.parquet")),
    "crops": (),
}
_UNUSUAL = re.compile(r"[^A-Za-z0-9.-]+")


def batches(members: Iterable[str], size: int, name: str) -> dict[str, list[str]]:
    """Cut members into even batches of at most ``size``; a batch of one bears its member's name."""
    listed = list(members)
    count = -(-len(listed) // size)
    edges = [i * len(listed) // count for i in range(count + 1)] if count else []
    cut = [listed[start:end] for start, end in itertools.pairwise(edges)]
    return {part[0] if len(part) == 1 else f"{name}{i}": part for i, part in enumerate(cut, start=1)}


def run_batches(experiments: dict[str, list[RunSpec]], size: int) -> dict[str, list[RunSpec]]:
    """Runs cut into jobs. A run that two experiments ask for belongs to the first.

    Runs of one job are of one experiment and one point of its grid, so that another changes no job that is
    there. The points of a grid of models of slide labels, which train in seconds, share jobs, and so do the
    baselines, which learn nothing. Names of jobs are made of letters, digits, ``.``, ``_``, ``-``.
    """
    seen: set[str] = set()
    named: dict[str, dict[str, RunSpec]] = {}
    for label, specs in experiments.items():
        own = {spec.id: spec for spec in specs if spec.id not in seen}
        seen |= own.keys()
        spec = specs[0]
        name = (label.partition("[")[0] if spec.method == "slide" else label) if spec.trained else ""
        named.setdefault(name, {}).update(own)
    cut: dict[str, list[RunSpec]] = {}
    for name, own in named.items():
        if name:
            job_name = _plain(name, {known.rpartition("-")[0] for known in cut})
            for job, ids in batches(own, size, f"{job_name}-").items():
                cut[_UNUSUAL.sub("_", job)] = [own[run] for run in ids]
        elif own:
            cut["baselines"] = list(own.values())
    return cut


def _plain(label: str, taken: Collection[str]) -> str:
    """``label`` as a name that no command line or file system minds, other than those ``taken``."""
    name = plain = _UNUSUAL.sub("_", label).strip("_")
    number = 2
    while name in taken:
        name, number = f"{plain}_{number}", number + 1
    return name


def receipts(
    paths: Paths,
    start: str,
    slide_batches: Mapping[str, Sequence[str]],
    slides: Iterable[str],
    encoders: Iterable[str],
    run_batches: Mapping[str, Sequence[RunSpec]],
) -> dict[str, str]:
    """The receipt that stands for each file which a job of several slides or runs makes.

    Parameters
    ----------
    paths
        Of the study.
    start
        What the study starts from: slides, crops or features.
    slide_batches
        Batch -> slides.
    slides
        All slides.
    encoders
        Ids of the encoders.
    run_batches
        Batch -> runs.
    """
    found = {
        paths.slide(slide, name): paths.receipt(rule, batch)
        for batch, members in slide_batches.items()
        for slide in members
        for rule, name in MADE_BY[start]
    }
    encoders = list(encoders)
    for slide in slides:
        found |= {paths.tokens(slide, encoder): paths.receipt("tokens", encoder) for encoder in encoders}
    for batch, specs in run_batches.items():
        receipt = paths.receipt("train", batch) if specs[0].trained else paths.receipt("baselines", "all")
        for spec in specs:
            found |= {paths.run(spec.id, name): receipt for name in run_files(spec)}
    return found


def run_files(spec: RunSpec) -> tuple[str, ...]:
    """What a run leaves."""
    return (*RUN_FILES, ATTENTION) if spec.method == "slide" else RUN_FILES


def of_cells(experiments: Mapping[str, list[RunSpec]]) -> dict[str, list[RunSpec]]:
    """The experiments that stage cells."""
    return {label: specs for label, specs in experiments.items() if specs[0].method != "slide"}


def of_slides(experiments: Mapping[str, list[RunSpec]]) -> dict[str, list[RunSpec]]:
    """The experiments that learn labels of slides."""
    return {label: specs for label, specs in experiments.items() if specs[0].method == "slide"}


def attended(study: Study, structure: Mapping[str, Any]) -> list[str]:
    """The experiments whose attention is looked at: those named, or the reference and the first with Sm.

    ``structure`` is that of :func:`myostage.study.structure.slide_structure`.
    """
    references, smoothed = structure["references"], list(structure["points"])
    named = [label for label in study.look.attention if label in references]
    first = next(iter(references.values()), None)
    like = [label for label in smoothed if references[label] == first and label != first]
    return named or [label for label in [first, *like[:1]] if label is not None]


def seen(study: Study, labelled: Sequence[str], slides: Mapping[str, SlideRow], most: int = 3) -> list[str]:
    """The slides whose attention is drawn: those named, or injured ones, of each kind of border."""
    healthy = study.healthy.groups if study.healthy else ()
    injured = [name for name in labelled if slides[name].group not in healthy]
    of_kind = {slides[name].border: name for name in reversed(injured) if slides[name].border}
    chosen = [name for name in study.look.slides if name in labelled] or list(of_kind.values())
    return (chosen or injured)[:most]


def scores(study: Study, specs: Sequence[RunSpec]) -> dict[str, dict[str, float]]:
    """Column -> score of every slide, in stages, of the columns that runs learn from."""
    learning = [spec.training.score for spec in specs if spec.losses.keys() & REGRESSION_TERMS]
    names = sorted(set(learning) - {EXPECTED_STAGE})
    return {name: slide_scores(study, name, read_slides(study)) for name in names}


def classes(study: Study, specs: Sequence[RunSpec]) -> dict[str, dict[str, int]]:
    """Label of slides -> class of every slide, of the labels that runs learn."""
    labels = {str(spec.mil.label): spec.label for spec in specs if spec.mil and spec.label}
    return {name: slide_classes(study, label, read_slides(study)) for name, label in sorted(labels.items())}


def bags(experiments: Mapping[str, Sequence[RunSpec]]) -> list[tuple[str, int]]:
    """What bags of proportions are drawn from (``slide`` or ``group``) and their cells; each pair once."""
    return list(
        dict.fromkeys(
            (specs[0].training.bags, specs[0].training.bag_size)
            for specs in experiments.values()
            if specs[0].method == "proportions"
        )
    )


def proportions(study: Study) -> dict[str, list[float]]:
    """Proportions of every group as plain lists; none where the study learns nothing."""
    return (
        {group: share.tolist() for group, share in read_proportions(study).items()}
        if study.proportions
        else {}
    )


def slide_proportions(study: Study) -> dict[str, list[float]]:
    """Proportions of single slides as plain lists; none where the study has no such table."""
    return {slide: share.tolist() for slide, share in read_slide_proportions(study).items()}


def as_arrays(shares: dict[str, list[float]]) -> dict[str, np.ndarray]:
    return {group: np.array(share) for group, share in shares.items()}


def training_images(study: Study) -> list[str]:
    """Images, masks and weights that Cellpose is trained from."""
    training = study.segmentation.train
    assert training
    files = [file for row in read_training_images(training.images) for file in (row.image, row.masks)]
    return files + ([training.start_file] if training.start_file else [])


def shown(study: Study) -> str | None:
    """The experiment that figures show and that stages every cell.

    Raises
    ------
    UserError
        It, or the one that others are compared with, is left out (:func:`config.left_out`).
    """
    without = left_out(study)
    for key, name in (
        ("look.experiment", study.look.experiment),
        ("compare.reference", study.compare.reference),
    ):
        if name in without:
            raise UserError(
                f"study {study.study}: {key} {name} is left out because {without[name]}; mend that, or name "
                "another experiment"
            )
    experiments = of_cells(runnable(study))
    named = study.look.experiment
    return named if named in experiments else next(iter(experiments), None)


def before_and_after(
    untrained: Sequence[str], experiments: dict[str, list[RunSpec]], name: str
) -> dict[str, str]:
    """Experiments whose embeddings show what training ``name`` does, with captions.

    Before: one that leaves the same encoder as it was. None where there is no such experiment.
    """
    encoder = experiments[name][0].encoder
    before = next((label for label in untrained if experiments[label][0].encoder == encoder), None)
    captions = {before: f"before training ({before})"} if before else {}
    return {**captions, name: f"after training ({name})"}


def staging_runs(study: Study) -> list[RunSpec]:
    """The runs that stage every cell: of the shown experiment, or of the study that `apply` names."""
    if study.apply:
        return applied(study)[1]
    name = shown(study)
    return runnable(study)[name] if name else []


def applied_models(study: Study) -> list[str]:
    """The models of the study that `apply` names, in the order of :func:`staging_runs`."""
    other, specs = applied(study)
    paths = Paths.of(other.results, other.study)
    return [paths.run(spec.id, "model.safetensors") for spec in specs]


def tuned(study: Study) -> dict[str, str]:
    """The weights of every encoder that is fine-tuned, by its id; of those applied, the other study's.

    Raises
    ------
    UserError
        This study and the one that `apply` names both fine-tune an encoder of the same settings, each on its
        own crops.
    """
    own = Paths.of(study.results, study.study)
    runs = [spec for specs in runnable(study).values() for spec in specs if spec.trained]
    files = {spec.encoder.id: own.tuned(spec.encoder.id) for spec in runs if spec.encoder.dino}
    if study.apply is None:
        return files
    other, specs = applied(study)
    elsewhere = Paths.of(other.results, other.study)
    for spec in specs:
        if spec.encoder.id in files:
            raise UserError(
                f"study {study.study}: its encoder {spec.encoder.id} is fine-tuned here and in "
                f"{study.apply.study}; give encoder.dino another seed here"
            )
    return files | {spec.encoder.id: elsewhere.tuned(spec.encoder.id) for spec in specs if spec.encoder.dino}


def flat(files: object) -> list[str]:
    """The file names in a value, a list or a mapping, nested or not; empty names are left out."""
    if isinstance(files, str):
        return [files] if files else []
    inner = files.values() if isinstance(files, dict) else files
    assert isinstance(inner, Iterable)
    return [name for part in inner for name in flat(part)]

"""The study as the rules see it: its slides, the files it starts from, its runs in batches.

Read whenever the Snakefile is: no torch, no slide is opened, no folder is listed.
"""

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from myostage.config import RunSpec, Study, applied, left_out, runnable
from myostage.errors import UserError
from myostage.inputs import read_proportions, read_slide_proportions, read_training_images
from myostage.paths import Paths

RUN_FILES = ("model.safetensors", "history.parquet", "predictions.parquet", "outcome.parquet")
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

    Runs of one job are of one experiment, so that another experiment changes no job that is there; the
    baselines, which learn nothing, share one. Names of jobs are made of letters, digits, ``.``, ``_``, ``-``.
    """
    seen: dict[str, RunSpec] = {}
    cut: dict[str, list[RunSpec]] = {}
    for label, specs in experiments.items():
        own = {spec.id: spec for spec in specs if spec.id not in seen}
        seen.update(own)
        if specs[0].trained:
            name = _plain(label, {known.rpartition("-")[0] for known in cut})
            for job, ids in batches(own, size, f"{name}-").items():
                cut[_UNUSUAL.sub("_", job)] = [own[run] for run in ids]
        elif own:
            cut.setdefault("baselines", []).extend(own.values())
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
    slide_batches
        Batch -> slides that start from an image.
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
        for rule, name in (("tile", "tiles.parquet"), ("segment", "cells.parquet"), ("crop", "crops.parquet"))
    }
    encoders = list(encoders)
    for slide in slides:
        found |= {paths.tokens(slide, encoder): paths.receipt("tokens", encoder) for encoder in encoders}
    for batch, specs in run_batches.items():
        receipt = paths.receipt("train", batch) if specs[0].trained else paths.receipt("baselines", "all")
        for spec in specs:
            found |= {paths.run(spec.id, name): receipt for name in RUN_FILES}
    return found


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
    experiments = runnable(study)
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

"""What no single section can know: what must stand together in a study, its tables and its files."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from myostage.errors import UserError, raise_all
from myostage.learning.options import EXPECTED_STAGE
from myostage.learning.term import which
from myostage.schema import WILDCARDS, nearest
from myostage.study.cell_table import read_cells
from myostage.study.expand import expand
from myostage.study.files import copies, file_faults
from myostage.study.inputs import (
    SlideRow,
    read_crops,
    read_slide_proportions,
    read_training_images,
    slide_classes,
    slide_scores,
)
from myostage.study.methods import LABEL_LEARNERS
from myostage.study.model_names import (
    cellpose_absent,
    cellpose_fault,
    cellpose_names,
    hub_absent,
    timm_fault,
)
from myostage.study.run import RunSpec
from myostage.study.sections.slide_label import SlideLabel
from myostage.study.sections.study import Study


def check_sources(study: Study, where: str) -> None:
    """What must stand together: the input and its table, phantoms and slides, experiments and proportions."""
    problems = []
    needed = {"slides": ("slides",), "crops": ("crops",), "features": ("slides", "features")}[study.input]
    if study.features and study.features.table:
        needed = ("features",)
    for name in ("slides", "crops", "features"):
        if name in needed and getattr(study, name) is None:
            problems.append(f"input is {study.input} and `{name}` is missing; name it")
        if name not in needed and getattr(study, name) is not None:
            problems.append(f"input is {study.input} and `{name}` is named too; remove one")
    if study.phantom is not None and study.input != "slides":
        problems.append(
            f"phantom draws slides and input is {study.input}; set input: slides or remove phantom"
        )
    if study.input == "features" and study.apply is not None:
        problems.append("apply stages cells, and ready-made features have no crops to stage; remove it")
    if not study.experiments and study.apply is None:
        problems.append("no experiments; add some, or `apply` those of another study")
    staging = [experiment.name for experiment in study.experiments if experiment.method != "slide"]
    if study.proportions is None and (staging or study.phantom):
        reason = "experiments learn from" if staging else "phantom draws by"
        problems.append(f"{reason} proportions and the table `proportions` is missing; name it")
    if any(experiment.method == "slide" for experiment in study.experiments):
        problems += [
            f"experiments of method slide need `{name}`; add it"
            for name in ("slide_labels", "healthy")
            if not getattr(study, name)
        ]
    if study.healthy:
        problems += [
            f"healthy.stages names {stage}, which is no stage{nearest(stage, study.stages)}"
            for stage in study.healthy.stages
            if stage not in study.stages
        ]
        if set(study.healthy.stages) >= set(study.stages):
            problems.append("healthy.stages names every stage, so that no cell is injured; leave some out")
    raise_all(where, problems)


def check_names(study: Study, where: str) -> None:
    """Names and seeds that must stand once."""
    raise_all(
        where,
        [
            f"{key} name {name} {count} times; keep one or rename the others"
            for key, names in (
                ("experiments", [experiment.name for experiment in study.experiments]),
                ("stages", study.stages),
                ("seeds", study.seeds),
            )
            for name, count in Counter(names).items()
            if count > 1
        ],
    )


def check_groups(
    study: Study, where: str, rows: Sequence[SlideRow], proportions: Mapping[str, np.ndarray]
) -> None:
    table = study.table
    problems = []
    from_labels = [experiment.name for experiment in study.experiments if experiment.method in LABEL_LEARNERS]
    if from_labels and not any(row.group and row.labelled for row in rows):
        column = {"slides": "annotations", "crops": "label", "features": "stage"}[study.input]
        problems.append(
            f"{', '.join(from_labels)} learns from labels and no row with a group has {column}; "
            f"fill the column, or remove {', '.join(from_labels)}"
        )
    used: dict[str, list[str]] = {}
    for row in rows:
        if row.group:
            used.setdefault(row.group, []).append(row.slide)
    if study.proportions is not None:
        for group in [group for group in used if group not in proportions]:
            slides = used[group]
            shown = ", ".join(slides[:3]) + (f" and {len(slides) - 3} more" if len(slides) > 3 else "")
            problems.append(
                f"group {group} of {shown} has no row in {study.proportions}{nearest(group, proportions)}; "
                "add the row, or empty the group to have them staged only"
            )
    if study.phantom is not None:
        problems += [
            f"slide {row.slide} has no group, whose proportions a phantom is drawn by; give it one"
            for row in rows
            if not row.group
        ]
        problems += [
            f"slide {row.slide} has no annotations, where a phantom's truth is written; name a file"
            for row in rows
            if not row.annotations
        ]
        problems += [
            f"slide {row.slide} is drawn into {file}, with {{, }}, < or >, which Snakemake takes for a "
            "wildcard; rename it"
            for row in rows
            for file in (row.path, row.annotations or "")
            if WILDCARDS & set(file)
        ]
        problems += [
            f"slide {row.slide} is drawn into {row.path}, which must end in .tif or .tiff; rename it"
            for row in rows
            if not row.path.endswith((".tif", ".tiff"))
        ]
    problems += [
        f"slide {row.slide} has a border, and the study says not which stages lie outside the region; add "
        "`healthy`"
        for row in rows
        if row.border and study.phantom is not None and study.healthy is None
    ]
    raise_all(str(table), problems)
    groups = set(used)
    if study.healthy:
        raise_all(
            where,
            [
                f"healthy.groups names {group}, which no slide of {table} has{nearest(group, groups)}"
                for group in study.healthy.groups
                if group not in groups
            ],
        )
    animals = {row.animal for row in rows if row.group}
    if study.experiments and len(animals) < study.folds:
        raise UserError(
            f"{where}: folds is {study.folds}, more than the {len(animals)} animals with a group in {table}; "
            f"lower folds{f' to {len(animals)}' if len(animals) > 1 else ''} or add animals"
        )
    learnt = len(animals) - math.ceil(len(animals) / study.folds)
    raise_all(
        where,
        [
            f"{name} holds in {choose.parts} parts (training.choose.parts) of the {learnt} animals that a "
            "run learns from; lower parts or add animals"
            for name, specs in expand(study).items()
            if (choose := specs[0].training.choose) and choose.parts > learnt
        ],
    )


def check_slide_proportions(study: Study, rows: Sequence[SlideRow]) -> None:
    """Every slide that is learnt from has proportions of its own, where a run asks for them."""
    asking = [
        name
        for name, specs in expand(study).items()
        if any(spec.trained and spec.training.proportions == "slide" for spec in specs)
    ]
    if not asking:
        return
    if study.slide_proportions is None:
        raise UserError(
            f"study {study.study}: {', '.join(asking)} learns from the proportions of slides and the table "
            "slide_proportions is missing; name it"
        )
    given = read_slide_proportions(study)
    raise_all(
        study.slide_proportions,
        [
            f"slide {row.slide} has no row{nearest(row.slide, given)}; add it"
            for row in rows
            if row.group and row.slide not in given
        ],
    )


def check_slide_level(
    study: Study, rows: Sequence[SlideRow], experiments: Mapping[str, Sequence[RunSpec]]
) -> None:
    """Scores that runs learn from are numbers, and labels of slides tell at least two classes."""
    specs = [listed[0] for listed in experiments.values()]
    for name in dict.fromkeys(spec.training.score for spec in specs if which(spec.losses, regression=True)):
        if name != EXPECTED_STAGE:
            slide_scores(study, name, rows)
    for label in dict.fromkeys(spec.label.model_dump_json() for spec in specs if spec.label):
        slide_classes(study, SlideLabel.model_validate_json(label), rows)


def check_look(study: Study, where: str, rows: Sequence[SlideRow], labels: list[str]) -> None:
    labels = labels + ([study.apply.experiment] if study.apply else [])
    problems = []
    if study.look.experiment is not None and study.look.experiment not in labels:
        problems.append(
            f"look.experiment is {study.look.experiment}, none of {', '.join(labels)}"
            + nearest(study.look.experiment, labels)
        )
    named = [("compare.reference", study.compare.reference)] + [
        (f"experiments[{experiment.name}].against", experiment.against) for experiment in study.experiments
    ]
    named += [("look.compared", name) for name in study.look.compared]
    problems += [
        f"{key} is {name}, none of {', '.join(labels)}{nearest(name, labels)}"
        for key, name in named
        if name is not None and name not in labels
    ]
    of_slides = [label for label, specs in expand(study).items() if specs[0].method == "slide"]
    problems += [
        f"{key} is {name}, no experiment of method slide ({', '.join(of_slides) or 'there is none'})"
        + nearest(name, of_slides)
        for key, name in (
            *(("look.attention", name) for name in study.look.attention),
            ("compare.slides", study.compare.slides),
        )
        if name is not None and name not in of_slides
    ]
    slides = [row.slide for row in rows]
    table = study.table
    problems += [
        f"look.slides names {slide}, which is no slide of {table}{nearest(slide, slides)}"
        for slide in study.look.slides
        if slide not in slides
    ]
    raise_all(where, problems)


def check_models(study: Study, where: str, experiments: Mapping[str, Sequence[RunSpec]]) -> None:
    """Models that Cellpose and timm fetch by name are models that they have."""
    problems = []
    for name, key in _cellpose_names(study).items():
        problems += cellpose_fault(key, name)
    for name, key in _timm_names(study, experiments).items():
        problems += timm_fault(key, name)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        problems += [f"HF_HUB_OFFLINE is set and {said}" for said in _missing_encoders(study, experiments)]
    raise_all(where, problems)


def missing_models(study: Study) -> list[str]:
    """What Cellpose and timm would fetch, and where it is put where there is no network."""
    said = []
    for name, key in _cellpose_names(study).items():
        if name in cellpose_names() and (file := cellpose_absent(name)):
            said.append(
                f"{key} {name} is fetched when it is needed; without a network, fetch it elsewhere and bring "
                f"it to {file}"
            )
    return said + _missing_encoders(study, expand(study))


def _missing_encoders(study: Study, experiments: Mapping[str, Sequence[RunSpec]]) -> list[str]:
    return [
        f"{key} {name} is fetched when it is needed; without a network, fetch model.safetensors of "
        f"{repository} elsewhere and name it as encoder.weights"
        for name, key in _timm_names(study, experiments, fetched=True).items()
        if (repository := hub_absent(name))
    ]


def _cellpose_names(study: Study) -> dict[str, str]:
    """Networks of Cellpose's that a study names -> their keys."""
    segmentation = study.segmentation
    if study.input != "slides" or study.world:
        return {}
    if segmentation.train is None:
        name = segmentation.model
        return {} if name is None or segmentation.model_file else {name: "segmentation.model"}
    start = segmentation.train.start
    return {} if start is None or segmentation.train.start_file else {start: "segmentation.train.start"}


def _timm_names(
    study: Study, experiments: Mapping[str, Sequence[RunSpec]], *, fetched: bool = False
) -> dict[str, str]:
    """Encoders that runs name -> their keys; all, or those whose weights are ``fetched``."""
    if study.input == "features" or study.world:
        return {}
    used = [("encoder.model", study.encoder)] if any(s[0].trained for s in experiments.values()) else []
    used += [
        (f"experiments[{label}].encoder.model", specs[0].encoder)
        for label, specs in experiments.items()
        if specs[0].trained
    ]
    named: dict[str, str] = {}
    for key, encoder in used:
        if encoder.model is not None and (encoder.weights == "pretrained" or not fetched):
            named.setdefault(encoder.model, key)
    return named


def check_files(study: Study, where: str, rows: Sequence[SlideRow]) -> None:
    """Every file that must be there before the first job: missing, empty, half-written ones, all at once."""
    problems = []
    # a model that another study trains lies below results and may not be there yet
    made = str(Path(study.results)) + os.sep
    if study.input == "slides" and study.segmentation.model_file and study.segmentation.train is None:
        named = study.segmentation.model_file
        problems += [] if str(Path(named)).startswith(made) else file_faults("segmentation.model", named)
    if study.encoder.weights_file:
        problems += file_faults("encoder.weights", study.encoder.weights_file)
    raise_all(where, problems)
    if study.input == "slides" and study.segmentation.train is not None:
        table = study.segmentation.train.images
        images = read_training_images(table)
        raise_all(
            table,
            [p for row in images for file in (row.image, row.masks) for p in file_faults("image", file)],
        )
    if study.phantom is not None:
        return
    if study.input == "crops":
        crops = read_crops(study)
        raise_all(str(study.crops), [p for row in crops for p in file_faults(f"crop {row.crop}", row.path)])
        animals = {f"crop {row.crop} ({row.path})": row.animal for row in crops}
        pairs = copies({f"crop {row.crop} ({row.path})": row.path for row in crops})
        _refuse_copies(
            str(study.crops),
            [pair for pair in pairs if pair[2] == "the same file as" or animals[pair[0]] != animals[pair[1]]],
        )
        return
    if study.features and study.features.table:
        _check_places(study, where)
        return
    for row in rows:
        # with `skip` a broken slide is `check`'s to name and leave out
        whole = study.on_bad_slide == "fail"
        problems += file_faults(f"slide {row.slide}", row.path, whole=whole)
        if row.annotations:
            problems += file_faults(f"annotations of slide {row.slide}", row.annotations, whole=True)
    raise_all(str(study.slides), problems)
    there = {f"slide {row.slide} ({row.path})": row.path for row in rows if Path(row.path).is_file()}
    _refuse_copies(str(study.slides), copies(there))


def _check_places(study: Study, where: str) -> None:
    """A table of cells says where they lie, for runs that are spatial."""
    assert study.features and study.features.table
    spatial = [name for name, specs in expand(study).items() if specs[0].spatial]
    cells = read_cells(study.features.table, study.features.columns, study.stages)
    if spatial and (cells.places is None or not np.isfinite(cells.places).all()):
        lacking = (
            "has no x_um and y_um"
            if cells.places is None
            else f"lacks x_um or y_um of {(~np.isfinite(cells.places).all(1)).sum()} cells"
        )
        raise UserError(
            f"{where}: {', '.join(spatial)} needs to know where cells lie, and {study.features.table} "
            f"{lacking}; give them, or remove what is spatial"
        )


def _refuse_copies(table: str, pairs: Iterable[tuple[str, str, str]]) -> None:
    """The same image in two rows would be trained on and held out at once."""
    raise_all(
        table,
        [
            f"{name} is {how} {other}, and would be trained on and held out; keep one row"
            for name, other, how in pairs
        ],
    )

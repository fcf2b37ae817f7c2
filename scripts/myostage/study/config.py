"""The study: read, checked with everything it names, and expanded into the grid of runs it asks for.

``load_study`` reads everything that can be known without opening a slide, so that a mistake costs a second
and not an hour. Nothing here imports torch. The sections stand in sections/, the tables in inputs.py.

``python -m myostage.study.config`` prints config/README.md, which a test compares with the file.
"""

import importlib.util
import itertools
import os
import re
import types
import typing
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import ValidationError

from myostage.errors import UserError
from myostage.learning.options import EXPECTED_STAGE
from myostage.learning.term import TERMS, implied, names, which
from myostage.schema import Section, nearest
from myostage.study import reference
from myostage.study.inputs import (
    SlideRow,
    raise_all,
    read_crops,
    read_proportions,
    read_quoted,
    read_slide_proportions,
    read_slides,
    read_training_images,
    slide_classes,
    slide_scores,
)
from myostage.study.methods import LEARNING
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.experiment import PRESETS, Experiment
from myostage.study.sections.graph import Graph
from myostage.study.sections.mil import ONE_LOGIT, Mil
from myostage.study.sections.slide_label import SlideLabel
from myostage.study.sections.study import Study
from myostage.study.sections.training import Training


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
    study, where = _parse(source, where)
    _check_sources(study, where)
    _check_names(study, where)
    experiments = expand(study)
    proportions = read_proportions(study)
    rows = read_slides(study)
    _check_groups(study, where, rows, proportions)
    read_quoted(study)
    _check_slide_level(study, rows, experiments)
    _check_look(study, where, rows, list(experiments))
    if study.apply is not None:
        applied(study)
    if files:
        _check_slide_proportions(study, rows)
        _check_files(study, where, rows)
    return study


def _parse(source: str | Path | Mapping[str, Any], where: str = "study file") -> tuple[Study, str]:
    """The study, checked within itself only, and what messages call it."""
    if isinstance(source, Mapping):
        return _validate(Study, source, where), where
    where = str(source)
    try:
        data = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{where}: no such study file; correct the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: not a readable YAML file ({reason}); correct it there") from None
    if not isinstance(data, dict):
        raise UserError(f"{where}: no keys in it; write `key: value` lines, config/README.md names the keys")
    return _validate(Study, data, where), where


S = typing.TypeVar("S", bound=Section)


def _validate(section: type[S], data: Mapping[Any, Any], where: str) -> S:
    """``data`` as a section; UserError with every problem, unknown keys with the nearest valid one."""
    try:
        return section.model_validate(dict(data))
    except ValidationError as error:
        raise_all(where, [_sentence(section, data, details) for details in error.errors()])
        raise


def _sentence(section: type[Section], data: Any, details: Any) -> str:
    """One problem that pydantic found, in words: key by its path, experiments by their name."""
    location: tuple[int | str, ...] = details["loc"]
    kind, value = details["type"], details["input"]
    if location and location[-1] == "[key]":
        location, kind = location[:-1], "extra_forbidden"
    words = _location(location, data)
    if kind == "extra_forbidden":
        valid = _valid_keys(section, location[:-1])
        hint = nearest(str(location[-1]), valid) or f"; the keys are {', '.join(valid)}"
        return f"unknown key {words}{hint}"
    if kind == "missing":
        return f"key {words} is missing; add it"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind == "value_error":
        return f"{words}: {message}" if words else message
    if kind == "model_type":
        return f"{words} is {value!r}; give it keys of its own"
    message = message[0].lower() + message[1:]
    if kind == "literal_error" and isinstance(value, str):
        message += nearest(value, re.findall(r"'([^']*)'", details["ctx"]["expected"]))
    return f"{words} is {_shown(value)}: {message}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _location(location: Sequence[int | str], data: Any) -> str:
    """``experiments[combined].training.sigma`` of ``("experiments", 0, "training", "sigma")``."""
    words = ""
    for part in location:
        data = (
            data[part]
            if isinstance(data, Mapping) and part in data
            else (
                data[part]
                if isinstance(part, int) and isinstance(data, Sequence) and part < len(data)
                else None
            )
        )
        if isinstance(part, int):
            name = data.get("name") if isinstance(data, Mapping) else None
            words += f"[{name or part + 1}]"
        else:
            words += f".{part}" if words else part
    return words


def _valid_keys(section: type[Section], location: Sequence[int | str]) -> list[str]:
    """The keys that may stand at ``location`` within ``section``."""
    annotation: Any = section
    for part in location:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            annotation = annotation.model_fields[str(part)].annotation
        else:
            annotation = typing.get_args(annotation)[0]
        if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
            annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return list(annotation.model_fields)
    return [str(word) for word in typing.get_args(typing.get_args(annotation)[0])]


def _check_sources(study: Study, where: str) -> None:
    """What must stand together: the input and its table, phantoms and slides, experiments and proportions."""
    problems = []
    needed = {"slides": ("slides",), "crops": ("crops",), "features": ("slides", "features")}[study.input]
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
    if study.input == "features" and staging:
        problems.append(
            f"{', '.join(staging)} would train an encoder, of which ready-made features have none; use "
            "method: slide"
        )
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


def _check_names(study: Study, where: str) -> None:
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


def _check_groups(
    study: Study, where: str, rows: Sequence[SlideRow], proportions: Mapping[str, np.ndarray]
) -> None:
    table = study.table
    problems = []
    supervised = [experiment.name for experiment in study.experiments if experiment.method == "supervised"]
    if supervised and not any(row.group and row.labelled for row in rows):
        column = "annotations" if study.input == "slides" else "label"
        problems.append(
            f"{', '.join(supervised)} learns from labels and no row with a group has {column}; "
            f"fill the column, or remove {', '.join(supervised)}"
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


def _check_slide_proportions(study: Study, rows: Sequence[SlideRow]) -> None:
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


def _check_slide_level(
    study: Study, rows: Sequence[SlideRow], experiments: Mapping[str, Sequence[RunSpec]]
) -> None:
    """Scores that runs learn from are numbers, and labels of slides tell at least two classes."""
    specs = [listed[0] for listed in experiments.values()]
    for name in dict.fromkeys(spec.training.score for spec in specs if which(spec.losses, regression=True)):
        if name != EXPECTED_STAGE:
            slide_scores(study, name, rows)
    for label in dict.fromkeys(spec.label.model_dump_json() for spec in specs if spec.label):
        slide_classes(study, SlideLabel.model_validate_json(label), rows)


def _check_look(study: Study, where: str, rows: Sequence[SlideRow], labels: list[str]) -> None:
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


def _check_files(study: Study, where: str, rows: Sequence[SlideRow]) -> None:
    """Every file that must be there before the first job: missing, empty, half-written ones, all at once."""
    problems = []
    # a model that another study trains lies below results and may not be there yet
    made = str(Path(study.results)) + os.sep
    if study.input == "slides" and study.segmentation.model_file and study.segmentation.train is None:
        named = study.segmentation.model_file
        problems += [] if str(Path(named)).startswith(made) else _faults("segmentation.model", named)
    if study.encoder.weights_file:
        problems += _faults("encoder.weights", study.encoder.weights_file)
    raise_all(where, problems)
    if study.input == "slides" and study.segmentation.train is not None:
        table = study.segmentation.train.images
        images = read_training_images(table)
        raise_all(
            table, [p for row in images for file in (row.image, row.masks) for p in _faults("image", file)]
        )
    if study.phantom is not None:
        return
    if study.input == "crops":
        raise_all(
            str(study.crops), [p for row in read_crops(study) for p in _faults(f"crop {row.crop}", row.path)]
        )
        return
    for row in rows:
        # with `skip` a broken slide is `check`'s to name and leave out
        whole = study.on_bad_slide == "fail"
        problems += _faults(f"slide {row.slide}", row.path, whole=whole)
        if row.annotations:
            problems += _faults(f"annotations of slide {row.slide}", row.annotations, whole=True)
    raise_all(str(study.slides), problems)


def runnable(study: Study) -> dict[str, list[RunSpec]]:
    """The experiments of :func:`expand` without those :func:`left_out`."""
    without = left_out(study)
    return {label: specs for label, specs in expand(study).items() if label not in without}


def left_out(study: Study) -> dict[str, str]:
    """Experiments that cannot run here, and why: a package or a weights file of their own is missing.

    A fault of what all experiments share stops the study instead (:func:`load_study`).
    """
    reasons = {}
    for label, specs in expand(study).items():
        encoder = specs[0].encoder
        own = encoder.weights_file if specs[0].trained else None
        faults = _faults("encoder.weights", own) if own and own != study.encoder.weights_file else []
        if specs[0].trained and encoder.dino and importlib.util.find_spec("lightly") is None:
            faults.append("package lightly is missing; install it with `make install`")
        if faults:
            reasons[label] = "; ".join(faults)
    return reasons


def _faults(what: str, path: str, *, whole: bool = False) -> list[str]:
    """What is wrong with a file as a file: missing, a folder, empty, or (if ``whole``) cut short."""
    file = Path(path)
    try:
        size = file.stat().st_size
        if file.is_dir():
            return [f"{what}: {path} is a folder; name a file"]
        if size == 0:
            return [f"{what}: {path} is empty; copy it again"]
        if whole and _cut_short(file, size):
            return [f"{what}: {path} is half-written (its end is missing); copy it again"]
    except FileNotFoundError:
        return [f"{what}: {path} does not exist; correct the path"]
    except OSError as error:
        return [f"{what}: {path} cannot be read ({error.strerror}); check its permissions"]
    return []


def _cut_short(file: Path, size: int) -> bool:
    """Whether a TIFF's first directory, a PNG's last chunk or a JSON's last brace is past the file's end."""
    with file.open("rb") as stream:
        head = stream.read(16)
        stream.seek(max(0, size - 64))
        tail = stream.read()
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return int.from_bytes(head[4:8], order) >= size
    if head[:4] in (b"II+\0", b"MM\0+"):
        return int.from_bytes(head[8:16], order) >= size
    if head[:4] == b"\x89PNG":
        return b"IEND" not in tail
    if file.suffix.lower() in (".geojson", ".json"):
        return not tail.rstrip().endswith((b"}", b"]"))
    return False


def expand(study: Study) -> dict[str, list[RunSpec]]:
    """The runs of every experiment.

    Returns
    -------
    dict[str, list[RunSpec]]
        Label -> runs over folds x seeds. The label is the experiment's name, with the point of the grid where
        `vary` names one: ``combined[sigma=0.1,bins=6]``. Baselines learn nothing, so they run with seed 0 and
        default `training` and `encoder`. Equal runs of two experiments have one id.

    Raises
    ------
    UserError
        An experiment whose method, losses, overrides or grid do not fit together.
    """
    if id(study) not in _EXPANDED:
        _EXPANDED[id(study)] = (study, _expand(study))
    return dict(_EXPANDED[id(study)][1])


# A study of thousands of runs is expanded once, and asked for often. Studies never change, and those that are
# here stay, so that no other gets their id.
_EXPANDED: dict[int, tuple[Study, dict[str, list[RunSpec]]]] = {}


def _expand(study: Study) -> dict[str, list[RunSpec]]:
    problems: list[str] = []
    labels: dict[str, list[RunSpec]] = {}
    for experiment in study.experiments:
        try:
            labels.update(_points(study, experiment))
        except _Misfit as misfit:
            problems += misfit.problems
    raise_all(f"study {study.study}", problems)
    return labels


class _Misfit(Exception):
    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _points(study: Study, experiment: Experiment) -> dict[str, list[RunSpec]]:
    """Label -> runs of one experiment."""
    where = f"experiments[{experiment.name}]"
    if experiment.method not in LEARNING:
        given = [
            name
            for name in ("losses", "training", "encoder", "mil", "graph", "vary")
            if getattr(experiment, name)
        ]
        given += ["preset"] if experiment.preset != "none" else []
        if given:
            raise _Misfit(
                [f"{where} learns nothing ({experiment.method}) and takes no {', '.join(given)}; remove them"]
            )
        return {
            experiment.name: [
                RunSpec(
                    method=experiment.method,
                    losses={},
                    training=Training(),
                    encoder=Encoder(),
                    folds=study.folds,
                    fold=fold,
                    seed=0,
                )
                for fold in range(study.folds)
            ]
        }
    _check_vary(experiment, where)
    preset = PRESETS[experiment.preset]
    overrides = {**preset["encoder"], **experiment.encoder}
    base = study.encoder.model_dump()
    # naming one geometry replaces the other
    for one, other in (("model", "architecture"), ("architecture", "model")):
        if overrides.get(one) is not None and overrides.get(other) is None:
            base[other] = None
    encoder = ready_made(study) or _override(Encoder, base, overrides, f"{where}.encoder")
    labels = {}
    names = list(experiment.vary)
    for values in itertools.product(*experiment.vary.values()):
        point = dict(zip(names, values, strict=True))
        of = {
            section: {
                name.removeprefix(f"{section}."): value
                for name, value in point.items()
                if name.startswith(f"{section}.")
            }
            for section in ("losses", "mil", "graph")
        }
        settings = {name: value for name, value in point.items() if "." not in name}
        training = _override(
            Training,
            study.training.model_dump(),
            {**preset["training"], **experiment.training, **settings},
            f"{where}.training",
        )
        graph = _override(
            Graph, study.graph.model_dump(), {**experiment.graph, **of["graph"]}, f"{where}.graph"
        )
        mil = None
        if experiment.method == "slide":
            mil = _override(Mil, study.mil.model_dump(), {**experiment.mil, **of["mil"]}, f"{where}.mil")
            mil = mil.model_copy(update={"label": _label(study, mil, where)})
        weights = (
            experiment.losses or preset["losses"] or implied(experiment.method, mil.model if mil else None)
        )
        losses = _override(
            Experiment, experiment.model_dump(), {"losses": {**weights, **of["losses"]}}, where
        ).losses
        _check_losses(experiment.method, losses, training, where)
        _check_order(study, training, where)
        _check_spatial(study, experiment, losses, training, mil, where)
        # the validated values, so that 1e-1 and 0.1 make one label
        validated = {
            **training.model_dump(),
            **{f"losses.{term}": weight for term, weight in losses.items()},
            **{f"graph.{name}": value for name, value in graph.model_dump().items()},
            **{f"mil.{name}": value for name, value in (mil.model_dump() if mil else {}).items()},
        }
        shown = [
            f"{name.removeprefix('mil.').removeprefix('graph.')}={_short(validated[name])}" for name in names
        ]
        spatial = mil is not None or _spatial(losses, training)
        for control, wanted in _controls(graph, losses, {*experiment.graph, *of["graph"]}).items():
            points = [*shown, *([control] if control else [])]
            label = f"{experiment.name}[{','.join(points)}]" if points else experiment.name
            if label in labels:
                raise _Misfit([f"{where}.vary makes {label} twice; remove the repeated value"])
            labels[label] = [
                RunSpec(
                    method=experiment.method,
                    losses=losses,
                    training=training,
                    encoder=encoder,
                    mil=mil,
                    label=study.slide_labels[str(mil.label)] if mil else None,
                    graph=wanted if spatial else None,
                    healthy=study.healthy if any(TERMS[name].healthy for name in losses) else None,
                    folds=study.folds,
                    fold=fold,
                    seed=seed,
                )
                for fold in range(study.folds)
                for seed in study.seeds
            ]
    return labels


PERMUTED = "coordinates=permuted"


def _controls(graph: Graph, losses: Mapping[str, float], named: Collection[str]) -> dict[str, Graph]:
    """The graph as it is; where cells are reconstructed from neighbours, the permuting control too."""
    if not which(losses, spatial=True) or "coordinates" in named or graph.coordinates == "permuted":
        return {"": graph}
    return {"": graph, PERMUTED: graph.model_copy(update={"coordinates": "permuted"})}


def control_of(label: str) -> str:
    """The label of the control that permutes the coordinates of experiment ``label``."""
    return f"{label[:-1]},{PERMUTED}]" if label.endswith("]") else f"{label}[{PERMUTED}]"


def _spatial(losses: Iterable[str], training: Training) -> bool:
    """Whether a loss or Sm needs to know where cells lie."""
    return training.smooth != "none" or bool(which(losses, spatial=True))


def _label(study: Study, mil: Mil, where: str) -> str:
    """The name of the label that a model learns."""
    name = mil.label or next(iter(study.slide_labels), None)
    if name not in study.slide_labels:
        known = ", ".join(study.slide_labels) or "there are none"
        raise _Misfit(
            [
                f"{where}.mil.label is {name}, none of slide_labels "
                f"({known}){nearest(str(name), study.slide_labels)}"
            ]
        )
    return str(name)


def ready_made(study: Study) -> Encoder | None:
    """What stands for the encoder where features are ready-made, so that their tables say whose they are."""
    if study.features is None:
        return None
    return Encoder(model=f"{study.features.dataset}/{study.features.features}", weights="none")


def _check_spatial(
    study: Study,
    experiment: Experiment,
    losses: Mapping[str, float],
    training: Training,
    mil: Mil | None,
    where: str,
) -> None:
    """What needs coordinates, uninjured tissue or several logits has them."""
    problems = []
    if study.input == "crops" and (mil or _spatial(losses, training)):
        problems.append(
            f"{where} needs to know where cells lie, which ready-made crops do not say; remove it"
        )
    if study.healthy is None:
        problems += [
            f"{where}: {name} needs to know uninjured tissue; add `healthy` to the study"
            for name in which(losses, healthy="needed")
        ]
    if experiment.method == "supervised" and training.smooth != "none" and training.smooth_at != "prediction":
        problems.append(
            f"{where} draws labelled cells of any slide, which are no neighbours; set smooth_at: prediction"
        )
    if experiment.mil and mil is None:
        problems.append(f"{where}.mil is of models of slide labels; set method: slide, or remove it")
    if mil is not None:
        label = study.slide_labels[str(mil.label)]
        if label.kind == "multiclass" and mil.model in ONE_LOGIT:
            problems.append(
                f"{where}: {mil.model} gives one logit and {mil.label} is multiclass; use "
                "smap, smtap, "
                "srmil, mean or max, or an ordinal label"
            )
        extra = sorted(losses.keys() - {"slide"})
        if extra and mil.model != "srmil":
            problems.append(f"{where}: {', '.join(extra)} is a term of srmil alone; remove it")
    elif (experiment.graph or any(name.startswith("graph.") for name in experiment.vary)) and not _spatial(
        losses, training
    ):
        problems.append(f"{where}.graph changes nothing, as nothing in it is spatial; remove it")
    if problems:
        raise _Misfit(problems)


def _check_vary(experiment: Experiment, where: str) -> None:
    """Every key of the grid is one of `training` or a loss weight, and is not set beside the grid too."""
    terms = [f"losses.{name}" for name in names()]
    valid = [*Training.model_fields, *terms, *(f"graph.{name}" for name in Graph.model_fields)]
    valid += [f"mil.{name}" for name in Mil.model_fields] if experiment.method == "slide" else []
    problems = [
        f"unknown key {where}.vary.{name}{nearest(name, valid) or '; the keys are ' + ', '.join(valid)}"
        for name in experiment.vary
        if name not in valid
    ]
    problems += [
        f"{where} sets {name} by itself and in vary; keep one"
        for name in experiment.vary
        if name in experiment.training
        or name.removeprefix("mil.") in (experiment.mil if name.startswith("mil.") else ())
        or name.removeprefix("graph.") in (experiment.graph if name.startswith("graph.") else ())
    ]
    if problems:
        raise _Misfit(problems)


def _override(section: type[S], base: Mapping[str, Any], override: Mapping[str, Any], where: str) -> S:
    """``base`` with the keys of ``override``, validated; _Misfit with every problem, located at ``where``."""
    data = {**base, **override}
    try:
        return section.model_validate(data)
    except ValidationError as error:
        found = []
        for details in error.errors():
            sentence = _sentence(section, data, details)
            prefix = "unknown key "
            found.append(
                f"{prefix}{where}.{sentence.removeprefix(prefix)}"
                if sentence.startswith(prefix)
                else f"{where}{'.' if details['loc'] else ' '}{sentence}"
            )
        raise _Misfit(found) from None


def _check_losses(method: str, losses: Mapping[str, float], training: Training, where: str) -> None:
    """Every loss is of the method, has something to teach and what it needs for that."""
    own = names(method)
    foreign = [name for name in losses if name not in own]
    problems = []
    if not losses:
        problems.append(
            f"{where} learns from proportions and has no losses; add losses: {{simprop: 1, prop: 1}}"
        )
    elif foreign:
        others = dict.fromkeys(other for name in foreign for other in TERMS[name].compute)
        problems.append(
            f"{where} has {', '.join(foreign)}, no loss of method {method}, whose losses are "
            f"{', '.join(own)}; "
            f"remove {', '.join(foreign)}, or set method: {' or '.join(others)}"
        )
    elif not which(losses, teaches="head") and not which(losses, teaches="embedding"):
        problems.append(f"{where}: {', '.join(losses)} teaches no stage; add prop: 1 or mse: 1")
    elif method == "slide" and "slide" not in losses:
        problems.append(f"{where} learns labels of slides and has no loss slide; add slide: 1")
    if method == "proportions":
        frozen = which(losses, encoder_only=True)
        if training.unfreeze == "none" and frozen:
            problems.append(
                f"{where}: {', '.join(frozen)} trains the encoder, of which `unfreeze: none` leaves nothing "
                f"to learn; remove {', '.join(frozen)}, or unfreeze attention or block"
            )
        if training.proportions == "slide" and training.bags == "group":
            problems.append(f"{where}: proportions of slides need bags: slide; a bag of a group has several")
    for name in own:
        problems += [f"{where}: {fault}" for fault in TERMS[name].faults(training, name in losses)]
    if problems:
        raise _Misfit(problems)


def _check_order(study: Study, training: Training, where: str) -> None:
    """`training.order` is a permutation of the stages."""
    if training.order and Counter(training.order) != Counter(study.stages):
        raise _Misfit(
            [
                f"{where}.training.order is {', '.join(training.order)}, where each of "
                f"{', '.join(study.stages)} must stand once"
            ]
        )


def _short(value: Any) -> str:
    """A value as a label shows it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "x".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def runs(study: Study) -> dict[str, RunSpec]:
    """Every run of the study by id, each once."""
    return {run.id: run for specs in expand(study).values() for run in specs}


def encoders(study: Study) -> dict[str, Encoder]:
    """Every encoder whose tokens are needed, by id: those of runs that learn, and of the runs applied."""
    specs = [run for specs in runnable(study).values() for run in specs]
    if study.apply is not None:
        specs += applied(study)[1]
    return {run.encoder.id: run.encoder for run in specs if run.trained}


def applied(study: Study) -> tuple[Study, list[RunSpec]]:
    """The study that `apply` names and the runs of its experiment.

    Raises
    ------
    UserError
        No such experiment, one that learns nothing, or stages or a resolution of crops that differ: its
        models would answer, but to another question.
    """
    assert study.apply is not None
    other, where = _parse(study.apply.study)
    experiments = expand(other)
    name = study.apply.experiment
    if name not in experiments:
        raise UserError(
            f"study {study.study}: apply.experiment is {name}, which {where} does not have "
            f"({', '.join(experiments) or 'it has none'}){nearest(name, experiments)}"
        )
    specs = experiments[name]
    problems = []
    if not specs[0].trained:
        problems.append(f"apply.experiment {name} has no model ({specs[0].method}); name one that learns")
    if specs[0].method == "slide":
        problems.append(f"apply.experiment {name} stages no cell (it learns labels of slides); name another")
    if specs[0].spatial and study.input != "slides":
        problems.append(f"apply.experiment {name} needs to know where cells lie; start from slides")
    if other.stages != study.stages:
        problems.append(
            f"stages are {', '.join(study.stages)} and {', '.join(other.stages)} in {where}; make them equal"
        )
    if other.crop_mpp != study.crop_mpp:
        problems.append(
            f"crops are at {study.crop_mpp:g} um/px and at {other.crop_mpp:g} in {where}; set crop.mpp so"
        )
    raise_all(f"study {study.study}", problems)
    return other, specs


if __name__ == "__main__":
    print(reference.readme(), end="")

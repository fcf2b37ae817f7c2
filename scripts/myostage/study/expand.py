"""The grid of runs that the experiments of a study ask for, and the models that it applies."""

import importlib.util
import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any

from myostage.errors import UserError, raise_all
from myostage.learning.term import TERMS, implied, which
from myostage.schema import nearest
from myostage.study.files import file_faults
from myostage.study.fit import (
    Misfit,
    check_choose,
    check_losses,
    check_order,
    check_spatial,
    check_unfreeze,
    check_vary,
    needs_positions,
    override,
)
from myostage.study.methods import LEARNING
from myostage.study.parse import parse
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import PROJECTION, Encoder
from myostage.study.sections.experiment import PRESETS, Experiment
from myostage.study.sections.graph import Graph
from myostage.study.sections.mil import Mil
from myostage.study.sections.study import Study
from myostage.study.sections.training import Training


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
        faults = file_faults("encoder.weights", own) if own and own != study.encoder.weights_file else []
        if specs[0].trained and encoder.dino and importlib.util.find_spec("lightly") is None:
            faults.append("package lightly is missing; install it with `make install`")
        if faults:
            reasons[label] = "; ".join(faults)
    return reasons


# a grid beyond is a slip, and would fill memory while it is expanded
MOST_RUNS = 100_000


def expand(study: Study) -> dict[str, list[RunSpec]]:
    """The runs of every experiment.

    Returns
    -------
    dict[str, list[RunSpec]]
        Label -> runs over folds x seeds. The label is the experiment's name, with the point of the grid where
        `vary` names one: ``combined[sigma=0.1,bins=6]``. Baselines learn nothing, so they run with seed 0 and
        default `training` and `encoder`; a probe, which no seed shapes, has default `training`.
        Equal runs of two experiments have one id.

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
    sizes = {
        experiment.name: math.prod(map(len, experiment.vary.values())) * study.folds * len(study.seeds)
        for experiment in study.experiments
    }
    if sum(sizes.values()) > MOST_RUNS:
        name = max(sizes, key=lambda name: sizes[name])
        raise UserError(
            f"study {study.study}: {sum(sizes.values()):,} runs, more than {MOST_RUNS:,}; {sizes[name]:,} "
            f"are those of experiments[{name}], so shorten its vary, or lower folds or seeds"
        )
    problems: list[str] = []
    labels: dict[str, list[RunSpec]] = {}
    for experiment in study.experiments:
        try:
            labels.update(_points(study, experiment))
        except Misfit as misfit:
            problems += misfit.problems
    raise_all(f"study {study.study}", problems)
    return labels


def _points(study: Study, experiment: Experiment) -> dict[str, list[RunSpec]]:
    """Label -> runs of one experiment."""
    where = f"experiments[{experiment.name}]"
    probed = experiment.method == "probe"
    if experiment.method not in LEARNING or probed:
        taken = () if probed else ("encoder",)
        given = [
            name
            for name in ("losses", "training", *taken, "mil", "graph", "vary")
            if getattr(experiment, name)
        ]
        given += ["preset"] if experiment.preset != "none" else []
        if given:
            how = "learns by no network" if probed else "learns nothing"
            raise Misfit(
                [f"{where} {how} ({experiment.method}) and takes no {', '.join(given)}; remove them"]
            )
        encoder = _encoder_of(study, experiment, where) if probed else Encoder()
        return {
            experiment.name: [
                RunSpec(
                    method=experiment.method,
                    losses={},
                    training=Training(),
                    encoder=encoder.of_fold(fold, study.folds),
                    folds=study.folds,
                    fold=fold,
                    seed=0,
                )
                for fold in range(study.folds)
            ]
        }
    check_vary(experiment, where)
    preset = PRESETS[experiment.preset]
    encoder = _encoder_of(study, experiment, where)
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
        training = override(
            Training,
            study.training.model_dump(),
            {**preset["training"], **experiment.training, **settings},
            f"{where}.training",
        )
        graph = override(
            Graph, study.graph.model_dump(), {**experiment.graph, **of["graph"]}, f"{where}.graph"
        )
        mil = None
        if experiment.method == "slide":
            mil = override(Mil, study.mil.model_dump(), {**experiment.mil, **of["mil"]}, f"{where}.mil")
            mil = mil.model_copy(update={"label": _label(study, mil, where)})
        weights = (
            experiment.losses or preset["losses"] or implied(experiment.method, mil.model if mil else None)
        )
        losses = override(
            Experiment, experiment.model_dump(), {"losses": {**weights, **of["losses"]}}, where
        ).losses
        check_losses(experiment.method, losses, training, where)
        check_unfreeze(encoder, training, where)
        check_choose(experiment, losses, training, where)
        check_order(study, training, where)
        check_spatial(study, experiment, losses, training, mil, where)
        # the validated values, so that 1e-1 and 0.1 make one label
        validated = {
            **training.model_dump(),
            **{f"losses.{term}": weight for term, weight in losses.items()},
            **{f"graph.{name}": value for name, value in graph.model_dump().items()},
            **{f"mil.{name}": value for name, value in (mil.model_dump() if mil else {}).items()},
        }
        shown = [
            f"{name.removeprefix('mil.').removeprefix('graph.')}={show_value(validated[name])}"
            for name in names
        ]
        spatial = mil is not None or needs_positions(losses, training)
        for control, wanted in _controls(graph, losses, {*experiment.graph, *of["graph"]}).items():
            points = [*shown, *([control] if control else [])]
            label = f"{experiment.name}[{','.join(points)}]" if points else experiment.name
            if label in labels:
                raise Misfit([f"{where}.vary makes {label} twice; remove the repeated value"])
            labels[label] = [
                RunSpec(
                    method=experiment.method,
                    losses=losses,
                    training=training,
                    encoder=encoder.of_fold(fold, study.folds),
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


def _encoder_of(study: Study, experiment: Experiment, where: str) -> Encoder:
    """The encoder of the study with what a preset and the experiment change of it."""
    overrides = {**PRESETS[experiment.preset]["encoder"], **experiment.encoder}
    base = study.encoder.model_dump()
    # naming one geometry replaces the other
    for one, other in (("model", "architecture"), ("architecture", "model")):
        if overrides.get(one) is not None and overrides.get(other) is None:
            base[other] = None
    encoder = override(Encoder, base, overrides, f"{where}.encoder")
    if study.features is not None or study.world is not None:
        return _ready_made(study, experiment, encoder, where)
    if encoder.projection and study.world is None:
        raise Misfit(
            [f"{where}: encoder.projection is of ready-made features, and there are none; remove it"]
        )
    if encoder.dino and encoder.dino.crops == "all" and TRANSDUCTIVE not in experiment.name:
        raise Misfit(
            [
                f"{where}.encoder.dino.crops is all, so that DINO sees the crops of held-out animals; put "
                f"{TRANSDUCTIVE} into the experiment's name, so that every table and figure says so, or set "
                "it to training"
            ]
        )
    return encoder


PERMUTED = "coordinates=permuted"
TRANSDUCTIVE = "transductive"


def _controls(graph: Graph, losses: Mapping[str, float], named: Collection[str]) -> dict[str, Graph]:
    """The graph as it is; where cells are reconstructed from neighbours, the permuting control too."""
    if not which(losses, spatial=True) or "coordinates" in named or graph.coordinates == "permuted":
        return {"": graph}
    return {"": graph, PERMUTED: graph.model_copy(update={"coordinates": "permuted"})}


def control_of(label: str) -> str:
    """The label of the control that permutes the coordinates of experiment ``label``."""
    return f"{label[:-1]},{PERMUTED}]" if label.endswith("]") else f"{label}[{PERMUTED}]"


def _label(study: Study, mil: Mil, where: str) -> str:
    """The name of the label that a model learns."""
    name = mil.label or next(iter(study.slide_labels), None)
    if name not in study.slide_labels:
        known = ", ".join(study.slide_labels) or "there are none"
        raise Misfit(
            [
                f"{where}.mil.label is {name}, none of slide_labels "
                f"({known}){nearest(str(name), study.slide_labels)}"
            ]
        )
    return str(name)


def _ready_made(study: Study, experiment: Experiment, encoder: Encoder, where: str) -> Encoder:
    """What stands for the encoder of features, ready-made or drawn, so that tables say whose they are."""
    name = study.features.name if study.features else "world"
    unused = sorted({*study.encoder.model_fields_set, *experiment.encoder} - {"projection"})
    if unused:
        raise Misfit([f"{where}: encoder.{', '.join(unused)} changes no ready-made features; remove it"])
    trained = experiment.method in ("proportions", "supervised")
    projection = encoder.projection or PROJECTION if trained else None
    return Encoder(model=name, weights="none", projection=projection)


def show_value(value: Any) -> str:
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
    return {run.encoder.id: run.encoder for run in specs if run.trained and not study.world}


def applied(study: Study) -> tuple[Study, list[RunSpec]]:
    """The study that `apply` names and the runs of its experiment.

    Raises
    ------
    UserError
        No such experiment, one that learns nothing, or stages or a resolution of crops that differ: its
        models would answer, but to another question.
    """
    assert study.apply is not None
    other, where = parse(study.apply.study)
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

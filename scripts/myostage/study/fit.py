"""Whether the method, losses, overrides and grid of an experiment fit together."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from myostage.learning.term import TERMS, names, option_keys, which
from myostage.schema import nearest
from myostage.study.parse import S, describe
from myostage.study.run import WEIGHT
from myostage.study.sections.choose import MOST_CANDIDATES, NOT_CHOSEN
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.experiment import Experiment
from myostage.study.sections.graph import Graph
from myostage.study.sections.mil import ONE_LOGIT, Mil
from myostage.study.sections.study import Study
from myostage.study.sections.training import Loop, Training


class Misfit(Exception):
    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def override(section: type[S], base: Mapping[str, Any], changed: Mapping[str, Any], where: str) -> S:
    """``base`` with the keys of ``changed``, validated; Misfit with every problem, located at ``where``."""
    data = {**base, **changed}
    try:
        return section.model_validate(data)
    except ValidationError as error:
        found = []
        for details in error.errors():
            sentence = describe(section, data, details)
            prefix = "unknown key "
            found.append(
                f"{prefix}{where}.{sentence.removeprefix(prefix)}"
                if sentence.startswith(prefix)
                else f"{where}{'.' if details['loc'] else ' '}{sentence}"
            )
        raise Misfit(found) from None


def needs_positions(losses: Iterable[str], training: Training) -> bool:
    """Whether a loss or Sm needs to know where cells lie."""
    return training.smooth != "none" or bool(which(losses, spatial=True))


def check_spatial(
    study: Study,
    experiment: Experiment,
    losses: Mapping[str, float],
    training: Training,
    mil: Mil | None,
    where: str,
) -> None:
    """What needs coordinates, uninjured tissue or several logits has them."""
    problems = []
    if study.input == "crops" and (mil or needs_positions(losses, training)):
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
    elif (
        experiment.graph or any(name.startswith("graph.") for name in experiment.vary)
    ) and not needs_positions(losses, training):
        problems.append(f"{where}.graph changes nothing, as nothing in it is spatial; remove it")
    if problems:
        raise Misfit(problems)


def check_vary(experiment: Experiment, where: str) -> None:
    """Every key of the grid is one of `training` or a loss weight, and is not set beside the grid too."""
    terms = [f"losses.{name}" for name in names()]
    valid = [*(name for name in Training.model_fields if name != "choose"), *terms]
    valid += [f"graph.{name}" for name in Graph.model_fields]
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
        raise Misfit(problems)


def check_choose(experiment: Experiment, losses: Mapping[str, float], training: Training, where: str) -> None:
    """What a run chooses from are settings that it has, at least two of them, each fit to be trained with."""
    choose = training.choose
    if choose is None:
        return
    where = f"{where}.training.choose"
    if experiment.method != "proportions":
        raise Misfit(
            [
                f"{where} chooses by proportions and the method is {experiment.method}; set training: "
                "{choose: null} in this experiment"
            ]
        )
    used = {*Loop.model_fields, *option_keys(losses)} - NOT_CHOSEN
    valid = [
        *(name for name in Training.model_fields if name in used),
        *(f"losses.{name}" for name in losses),
    ]
    problems = [
        f"{where}.vary: {name} is nothing that a run can choose"
        f"{nearest(name, valid) or '; it can choose ' + ', '.join(valid)}"
        for name in choose.vary
        if name not in valid
    ]
    problems += [
        f"{where}.vary and vary both set {name}; keep one" for name in choose.vary if name in experiment.vary
    ]
    problems += [
        f"{where}.vary repeats a value of {name}; remove it"
        for name, values in choose.vary.items()
        if any(value in values[:place] for place, value in enumerate(values))
    ]
    if choose.count == 1:
        problems.append(f"{where}.vary leaves nothing to choose; give a key a second value")
    if choose.count > MOST_CANDIDATES:
        problems.append(
            f"{where}.vary has {choose.count:,} candidates, more than {MOST_CANDIDATES}; remove values"
        )
    if problems:
        raise Misfit(problems)
    for settings in choose.candidates:
        keys = {name: value for name, value in settings.items() if WEIGHT not in name}
        weights = {name.removeprefix(WEIGHT): value for name, value in settings.items() if WEIGHT in name}
        varied = override(Training, training.model_dump(), {**keys, "choose": None}, f"{where}.vary")
        weighed = override(Experiment, experiment.model_dump(), {"losses": {**losses, **weights}}, where)
        check_losses(experiment.method, weighed.losses, varied, f"{where}.vary")


def check_losses(method: str, losses: Mapping[str, float], training: Training, where: str) -> None:
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
    if method == "slide" and training.classifier != "softmax":
        problems.append(
            f"{where} learns labels of slides, which no {training.classifier} classifies; set training: "
            "{classifier: softmax} in this experiment"
        )
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
        raise Misfit(problems)


def check_unfreeze(encoder: Encoder, training: Training, where: str) -> None:
    """Ready-made features have a projection to train, and no attention."""
    if encoder.projection and training.unfreeze == "attention":
        raise Misfit(
            [
                f"{where}: unfreeze is attention, and ready-made features have none; set block, which trains "
                "their projection, or none"
            ]
        )


def check_order(study: Study, training: Training, where: str) -> None:
    """`training.order` is a permutation of the stages."""
    if training.order and Counter(training.order) != Counter(study.stages):
        raise Misfit(
            [
                f"{where}.training.order is {', '.join(training.order)}, where each of "
                f"{', '.join(study.stages)} must stand once"
            ]
        )

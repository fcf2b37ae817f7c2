"""What a loss term declares, and the terms there are: one file each in ``learning/terms``.

Read whenever a study is, so neither this nor the declarations import torch; the functions that compute do.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from myostage.registry import Registry
from myostage.schema import Section


class NoOptions(Section):
    """A term without options."""


def _no_faults(training: Any, used: bool) -> list[str]:
    return []


@dataclass(frozen=True, kw_only=True)
class Term:
    """A loss term.

    Parameters
    ----------
    title, unit
        As figures write them; the unit is that of the unweighted value.
    meaning
        What its weight is a weight of, for the page of the study file.
    source
        The paper it is from (:mod:`myostage.papers`).
    compute
        Method (``proportions``, ``supervised``, ``slide``) -> function of a step
        (:mod:`myostage.learning.steps`) and the term's options that returns the unweighted value, a scalar
        Tensor, or None where the step says nothing about it.
    options
        Its own keys of the section `training`.
    teaches
        ``head``: which stage is which; ``embedding``: how stages lie to one another, so that a head is fitted
        afterwards where no other term teaches it; ``nothing``: no stage.
    encoder_only
        Whether it passes a gradient to the encoder alone.
    place
        Terms are computed and summed in this order, then by name: sums of floating-point numbers and what
        terms draw at random depend on it.
    implied
        Method, or model of slide labels -> weight, where an experiment names no losses.
    regression
        Whether it is of the ordinal regression on bags: it needs scores and the queue of earlier bags.
    healthy
        Whether it needs a study that says what is uninjured, or uses that where it is known; empty: neither.
    spatial
        Whether it needs to know where cells lie.
    helper
        What it learns or remembers beside the model while training: a function of the width of embeddings.
    conflict
        A term whose gradient is compared with its own while both are trained.
    faults
        What is wrong with the keys of `training`, given whether the term is used: the ends of sentences that
        start with the experiment.
    """

    title: str
    meaning: str
    compute: Mapping[str, Callable[[Any, Any], Any]]
    teaches: Literal["head", "embedding", "nothing"]
    unit: str = ""
    source: str = ""
    options: type[Section] = NoOptions
    encoder_only: bool = False
    place: int = 100
    implied: Mapping[str, float] = field(default_factory=dict)
    regression: bool = False
    healthy: Literal["", "used", "needed"] = ""
    spatial: bool = False
    helper: Callable[[int], Any] | None = None
    conflict: str = ""
    faults: Callable[[Any, bool], list[str]] = _no_faults

    @property
    def label(self) -> str:
        """Title and unit, as an axis is labelled."""
        return f"{self.title} ({self.unit.replace('stages2', 'stages²')})" if self.unit else self.title


TERMS: Registry[Term] = Registry("myostage.learning.terms", "TERM")


def ordered(names: Iterable[str]) -> list[str]:
    """Names of terms in the order in which they are computed."""
    return sorted(names, key=lambda name: (TERMS[name].place, name))


def names(method: str | None = None) -> list[str]:
    """All terms, or those of one method, in the order in which they are computed."""
    return [name for name in ordered(TERMS.names()) if method is None or method in TERMS[name].compute]


def which(weights: Iterable[str], **wanted: Any) -> list[str]:
    """Those terms whose records have the ``wanted`` values: ``which(losses, regression=True)``."""
    return [
        name
        for name in ordered(weights)
        if all(getattr(TERMS[name], key) == value for key, value in wanted.items())
    ]


def implied(method: str, model: str | None) -> dict[str, float]:
    """Terms and weights of an experiment that names none; a model's own come before those of its method."""
    for asked in (model, method):
        weights = {name: TERMS[name].implied[str(asked)] for name in names() if asked in TERMS[name].implied}
        if weights:
            return weights
    return {}


def option_keys(terms: Iterable[str]) -> set[str]:
    """The keys of `training` that are options of these terms."""
    return {key for name in terms for key in TERMS[name].options.model_fields}


def options_of(name: str, training: Any) -> Section:
    """A term's own options, picked from the section `training`."""
    options = TERMS[name].options
    return options.model_validate({key: getattr(training, key) for key in options.model_fields})


def values(method: str, terms: Collection[str], step: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The unweighted terms of one step; those about which it says nothing are left out."""
    found = {name: TERMS[name].compute[method](step, options.get(name)) for name in ordered(terms)}
    return {name: value for name, value in found.items() if value is not None}

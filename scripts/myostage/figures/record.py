"""What a figure is: a record in its own file, found by listing this folder.

``figures/{key}.py`` declares ``FIGURE``, a :class:`Record`, and defines ``make``, which reads the files that
the record asks for and returns :class:`Drawn`. Read whenever the Snakefile is: neither pandas nor matplotlib
is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from myostage.study.plan import Plan

FOLDER = Path(__file__).parent
# modules of this folder that are no figure
SHARED = {"__init__", "lazy", "record", "style", "views"}
# theme -> what its notebook shows, in the order of the page
THEMES = {
    "cells": "what became of the cells of every slide",
    "stages": "stages of cells, slides and groups",
    "metrics": "metrics of all methods and their ablations",
    "training": "how training went and what it cost",
    "embedding": "first experiments: gradients, biology, embedding",
    "slide_labels": "labels of slides, spatial models and ordinal regression",
    "worlds": "where a term gains and costs in drawn worlds",
}


@dataclass(frozen=True)
class Scope:
    """What the records ask of a study."""

    plan: Plan

    @property
    def stages(self) -> list[str]:
        return list(self.plan.study.stages)

    @property
    def metric(self) -> str:
        """What experiments that stage cells are compared by."""
        return self.plan.study.compare.metric if self.plan.labelled else "kl"

    @property
    def learning(self) -> list[str]:
        """Experiments of the main table that train a network."""
        main = self.plan.structure["main"]
        return [label for label in main if self.plan.experiments[label][0].network]

    @property
    def attended(self) -> list[str]:
        """Experiments whose attention is looked at, where it can be: first the one without Sm."""
        return self.plan.attended if self.plan.labelled else []

    @property
    def by_stage(self) -> dict[str, Any]:
        """The stages, and whose stages are shown."""
        apply = self.plan.study.apply
        return {"stages": self.stages, "experiment": apply.experiment if apply else self.plan.shown}

    def tables(self, *names: str, prefix: str = "") -> dict[str, str]:
        """Tables of the study by their names."""
        return {name: self.plan.paths.study(f"{prefix}{name}.parquet") for name in names}

    def of_slides(self, name: str, slides: Iterable[str]) -> dict[str, str]:
        """One file of each slide."""
        return {slide: self.plan.paths.slide(slide, name) for slide in slides}


@dataclass(frozen=True)
class Request:
    """One figure that a study has: the files that ``make`` reads and its further arguments, by keyword."""

    files: Mapping[str, Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """The declaration of a figure.

    Parameters
    ----------
    theme : str
        The notebook that draws it, one of THEMES.
    category : str
        Its heading in the report.
    caption : str
        What it shows, for the report.
    requests : callable
        The figures of this kind that a study has, by name; none where it has not what they need.
    tabular : bool
        Whether its numbers are written as a table too, for the web and for LaTeX.
    """

    theme: str
    category: str
    caption: str
    requests: Callable[[Scope], dict[str, Request]]
    tabular: bool = False

    @property
    def endings(self) -> tuple[str, ...]:
        """Endings of the files of a figure, its PNG first."""
        return (".png", ".svg", ".csv", *((".html", ".tex") if self.tabular else ()))


@dataclass(frozen=True)
class Table:
    """What stands in the table of a figure: a title, sentences, and blocks of rows with their captions."""

    title: str
    sentences: Sequence[str]
    blocks: Sequence[tuple[pd.DataFrame, str]]


@dataclass(frozen=True)
class Drawn:
    """A figure with the numbers behind it.

    Parameters
    ----------
    figure : Figure
    numbers : DataFrame
        Written as CSV.
    more_figures, more_numbers : mapping of suffix to Figure or DataFrame
        Written as ``{name}_{suffix}``.
    table : Table, optional
        Of a figure that is ``tabular``.
    """

    figure: Figure
    numbers: pd.DataFrame
    more_figures: Mapping[str, Figure] = field(default_factory=dict)
    more_numbers: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    table: Table | None = None


@cache
def records() -> dict[str, Record]:
    """Every figure by its key, the name of its file; in the order of the themes."""
    keys = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)
    found: dict[str, Record] = {key: import_module(f"myostage.figures.{key}").FIGURE for key in keys}
    order = list(THEMES)
    return dict(sorted(found.items(), key=lambda item: order.index(item[1].theme)))


@dataclass(frozen=True)
class Asked:
    """A figure that a study has: its kind, and what it is drawn from."""

    key: str
    record: Record
    request: Request


def of_study(scope: Scope) -> dict[str, Asked]:
    """The figures of a study by name."""
    return {
        name: Asked(key, record, request)
        for key, record in records().items()
        for name, request in record.requests(scope).items()
    }

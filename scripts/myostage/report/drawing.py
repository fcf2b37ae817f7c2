"""The figures of a theme, drawn by its notebook: one that fails is named and stops no other."""

import json
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from IPython.display import Image, display

from myostage import tables
from myostage.errors import UserError
from myostage.figures import style
from myostage.figures.record import Drawn
from myostage.report import pages
from myostage.runtime.disk import disk_error


class Theme:
    """The figures of one notebook.

    Parameters
    ----------
    figures : mapping of name to mapping
        ``key`` of the record, ``files`` that it reads and further ``parameters`` of its ``make``.
    out : path
        Their folder.
    outcomes : path, optional
        JSON file that says of every figure why it failed; nothing (empty text) of one that is drawn.
    """

    def __init__(self, figures: Mapping[str, Mapping[str, Any]], out: str, outcomes: str = "") -> None:
        self.waiting = dict(figures)
        self._out, self._outcomes = Path(out), outcomes
        self._faults: dict[str, str] = {}

    def draw(self, key: str) -> None:
        """Draw, write and show every figure of a kind; nothing where the study has none."""
        for name in [name for name, figure in self.waiting.items() if figure["key"] == key]:
            figure = self.waiting.pop(name)
            try:
                drawn = make(figure["key"], figure["files"], figure["parameters"])
                display(Image(write(drawn, self._out / name)))
                self._faults[name] = ""
            except Exception as error:
                traceback.print_exc()
                full = disk_error(error, self._out) if isinstance(error, OSError) else None
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                self._faults[name] = str(full or f"{kind}{error}")
            if self._outcomes:
                Path(self._outcomes).write_text(json.dumps(self._faults), encoding="utf-8")

    def draw_others(self) -> None:
        """Draw the figures of the theme that no cell has drawn."""
        for key in dict.fromkeys(figure["key"] for figure in self.waiting.values()):
            self.draw(key)


def make(key: str, files: Mapping[str, Any], parameters: Mapping[str, Any]) -> Drawn:
    """The figure of a record with its numbers, in the style of all."""
    with matplotlib.rc_context(style.STYLE):
        drawn: Drawn = import_module(f"myostage.figures.{key}").make(**files, **parameters)
    return drawn


def write(drawn: Drawn, stem: Path) -> Path:
    """Write a figure as PNG and SVG, its numbers as CSV, and its table, if any, as HTML and LaTeX.

    Returns the path of the PNG.
    """
    for suffix, frame in {"": drawn.numbers, **drawn.more_numbers}.items():
        _write_csv(_beside(stem, suffix, ".csv"), frame)
    for suffix, figure in drawn.more_figures.items():
        style.save(figure, stem.with_name(f"{stem.name}_{suffix}"))
    if drawn.table:
        pages.write_table(f"{stem}.html", drawn.table)
        pages.write_latex(f"{stem}.tex", drawn.table.blocks)
    return style.save(drawn.figure, stem)


def _beside(stem: Path, suffix: str, ending: str) -> Path:
    return stem.with_name(f"{stem.name}_{suffix}{ending}" if suffix else f"{stem.name}{ending}")


def _write_csv(out: Path, frame: pd.DataFrame) -> None:
    with tables.atomic(out) as temporary:
        frame.to_csv(temporary, index=False)

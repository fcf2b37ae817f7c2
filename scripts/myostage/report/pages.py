"""Pages and tables as HTML, by the templates beside this file, and tables for LaTeX."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from myostage import palette, tables
from myostage.evaluation import formatting
from myostage.figures.record import Table

BETTER, WORSE = palette.series_colours(2)


@dataclass(frozen=True)
class Strip:
    """An interval drawn as a line about zero; positions in px."""

    width: float
    low: float
    at: float
    high: float
    colour: str
    fill: str
    label: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table that is more than its text: marked by its verdict, or with an interval drawn."""

    text: str = ""
    verdict: str = ""
    strip: Strip | None = None


@dataclass(frozen=True)
class Grid:
    """A table: its head, its rows of texts and :class:`Cell`, and its caption."""

    head: Sequence[str]
    rows: Iterable[Sequence[str | Cell]]
    caption: str

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str) -> "Grid":
        """Of a DataFrame, whose index is the first column."""
        flat = frame.reset_index()
        return cls([str(name) for name in flat.columns], flat.astype(str).to_numpy().tolist(), caption)


@dataclass(frozen=True)
class Block:
    """A part of a section of a page: of these, those that it has, in this order."""

    heading: str = ""
    points: Sequence[str] = ()
    text: str = ""
    table: Grid | None = None
    figure: "Picture | None" = None


@dataclass(frozen=True)
class Picture:
    """A figure within a page: its title, its PNG in base64, and links to its files by their kind."""

    title: str
    png: str
    links: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A section of a page; one without a title is not in the list of contents."""

    name: str
    title: str
    blocks: Sequence[Block]


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def write_page(out: str | Path, title: str, sections: Sequence[Section], short: Sequence[str] = ()) -> None:
    """Write a page that needs nothing else; ``short`` stands at its top."""
    page = _templates().get_template("page.html.j2")
    text = page.render(title=title, sections=sections, short=short, better=BETTER, worse=WORSE)
    with tables.atomic(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(out: str | Path, table: Table) -> None:
    """Write the table of a figure as a page: sentences, then its blocks."""
    blocks = [Block(points=table.sentences), *(Block(table=Grid.of(*block)) for block in table.blocks)]
    write_page(out, table.title, [Section("", "", blocks)])


_LATEX = {
    "\\": r"\textbackslash{}",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    formatting.SEES_LABELS: r"\dag{}",
    formatting.FITTED_AFTERWARDS: r"\ddag{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def _latex(cell: Any) -> str:
    text = "".join(_LATEX.get(letter, letter) for letter in str(cell))
    # At the start of a row LaTeX would take these for an argument of the line break before.
    return re.sub(r"^(?=[\[*])", "{}", text)


def write_latex(out: str | Path, blocks: Sequence[tuple[pd.DataFrame, str]]) -> None:
    """Write tables with their captions below them for LaTeX (needs the package booktabs)."""
    parts = []
    for frame, caption in blocks:
        flat = frame.reset_index()
        styler = flat.style.hide(axis="index").format(_latex).format_index(_latex, axis="columns")
        markup = styler.to_latex(hrules=True, column_format="l" + "r" * (flat.shape[1] - 1))
        parts.append(f"{markup}\\par\\smallskip\\noindent{{\\footnotesize {_latex(caption)}\\par}}\n")
    with tables.atomic(out) as temporary:
        temporary.write_text("\n\\bigskip\n".join(parts), encoding="utf-8")

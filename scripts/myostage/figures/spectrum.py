"""How much of the attention varies from one adjacent cell to the next, before and after Sm."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.evaluation.numbers import format_number
from myostage.figures.lazy import intervals, mlines, mticker, pd, schemas, style, summaries, tables, verdicts
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from myostage.evaluation.measured import Measured

PANELS = 4  # side by side


def requests(scope: Scope) -> dict[str, Request]:
    return {"spectrum": Request(scope.tables("spectrum"))} if scope.attended else {}


FIGURE = Record(
    theme="slide_labels",
    category="Labels of slides",
    caption=(
        "Power of the attention logits by the eigenvalues of the cell graph's Laplacian (0: alike all over "
        "the slide, 2: opposite in adjacent cells), raw and smoothed by Sm; and per slide the share of low "
        "frequencies against localisation, with Spearman's rho."
    ),
    requests=requests,
)


def make(spectrum: str) -> Drawn:
    table = tables.read(spectrum, schemas.SPECTRUM)
    slides = summaries.summarise_spectra(table)
    return Drawn(draw(table), summaries.average_bands(table), more_numbers={"slides": slides})


def draw(table: pd.DataFrame) -> Figure:
    """Power of attention logits by frequency, raw against smoothed; low frequencies against localisation.

    Parameters
    ----------
    table : DataFrame
        The SPECTRUM table; experiments are drawn as they come.
    """
    if table["share"].notna().sum() == 0:
        return style.page("No spectrum", "No attention of a held-out slide was taken apart into frequencies.")
    bands, slides = summaries.average_bands(table), summaries.summarise_spectra(table)
    experiments = list(dict.fromkeys(bands["experiment"]))
    colours = dict(zip(experiments, palette.series_colours(len(experiments)), strict=True))
    count = len(experiments) + 1
    columns = count if count <= PANELS else 3
    rows = -(-count // columns)
    figure = style.new_figure(max(6.8, 3.0 * columns), 1.6 + 2.6 * rows)
    drawn = np.asarray(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in drawn[count:]:
        axes.set_visible(False)
    top = 1.05 * float(np.nanmax(bands[["share", "share_high"]].to_numpy(dtype=float)))
    for axes, name in zip(drawn, experiments, strict=False):
        for signal, dash in (("raw", "--"), ("smoothed", "-")):
            part = bands[(bands["experiment"] == name) & (bands["signal"] == signal)]
            middle = (part["low"] + part["high"]) / 2
            axes.fill_between(
                middle, part["share_low"], part["share_high"], color=colours[name], alpha=0.16, lw=0
            )
            face = "white" if signal == "raw" else colours[name]
            axes.plot(middle, part["share"], color=colours[name], ls=dash, marker="o", ms=4, mfc=face, lw=1.4)
        axes.axvline(summaries.LOW_FREQUENCY, color=palette.BASELINE, lw=0.8, ls=":")
        axes.set_title("\n".join(textwrap.wrap(name, 34)))
        axes.set_xlabel("eigenvalue of the Laplacian")
        axes.set_xlim(0, 2)
        axes.set_ylim(0, top)
        axes.yaxis.set_major_formatter(mticker.FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    for axes in drawn[: len(experiments) : columns]:
        axes.set_ylabel("share of the power of the logits")
    scatter = drawn[len(experiments)]
    raw = slides[slides["signal"] == "raw"]
    found = {}
    for number, (name, colour) in enumerate(colours.items()):
        part = raw[raw["experiment"] == name]
        marker = style.MARKERS[number % len(style.MARKERS)]
        scatter.plot(part["low_share"], part["instance_auroc"], marker, color=colour, ms=5, alpha=0.8, mew=0)
        found[name] = summaries.correlate(part["low_share"], part["instance_auroc"], part["animal"])
    scatter.axhline(0.5, color=palette.BASELINE, lw=0.8, ls=":")
    scatter.set_title("one point per slide, raw attention")
    scatter.set_xlabel(f"share of power below {summaries.LOW_FREQUENCY:g}")
    scatter.xaxis.set_major_formatter(mticker.FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    scatter.xaxis.set_major_locator(mticker.MaxNLocator(4))
    scatter.set_ylabel("cell AUROC of the attention")
    style.set_legend(
        figure,
        [
            mlines.Line2D([], [], color="black", ls="--", marker="o", mfc="white", ms=4, label="raw"),
            mlines.Line2D([], [], color="black", marker="o", ms=4, label="smoothed by Sm"),
            *(
                mlines.Line2D(
                    [], [], color=colour, ls="", marker=style.MARKERS[number % len(style.MARKERS)], label=name
                )
                for number, (name, colour) in enumerate(colours.items())
            ),
        ],
        3,
    )
    style.set_headline(figure, _frequencies(slides, found), _energies(slides))
    return figure


def _wide(slides: pd.DataFrame, experiment: str, column: str) -> pd.DataFrame:
    """A column of :func:`summaries.summarise_spectra` by slide and animal, and signal (raw, smoothed)."""
    part = slides[slides["experiment"] == experiment]
    wide = part.pivot(index=["slide", "animal"], columns="signal", values=column)
    return wide.reindex(columns=["raw", "smoothed"])


def _frequencies(slides: pd.DataFrame, found: Mapping[str, Measured]) -> str:
    """What Sm does to the low frequencies, and whether slides with more of them are localised better."""
    parts = []
    for name in found:
        wide = _wide(slides, name, "low_share").dropna()
        if len(wide):
            moved = intervals.find_mean(wide["smoothed"] - wide["raw"], wide.index.get_level_values("animal"))
            gap, low, high = (100 * float(one) for one in moved)
            text = f"{gap:+.0f} points" + (f" [{low:+.0f}, {high:+.0f}]" if np.isfinite(low) else "")
            means = " to ".join(f"{100 * share:.0f} %" for share in wide.mean())
            parts.append(
                f"Sm moves the share of power below eigenvalue {summaries.LOW_FREQUENCY:g} from {means} "
                f"({text}, {len(wide)} slides of {name})"
            )
            break
    known = {name: rho for name, rho in found.items() if np.isfinite(rho.value)}
    rhos = ", ".join(f"{name} {rho}" for name, rho in list(known.items())[:3])
    apart = [name for name, rho in known.items() if verdicts.find_side(rho.low, rho.high)]
    if not known:
        parts.append("too few slides to relate it to cell AUROC")
    else:
        rhos += ", …" if len(known) > 3 else ""
        verdict = f"a relation for {', '.join(apart)}" if apart else "no interval on one side of 0"
        parts.append(f"low frequencies against cell AUROC: rho {rhos}, {verdict}")
    return style.capitalised("; ".join(parts))


def _energies(slides: pd.DataFrame) -> str:
    """Mean Dirichlet energy before and after Sm."""
    text = []
    for name in dict.fromkeys(slides["experiment"]):
        means = [
            f"{signal} {format_number(float(value))}"
            for signal, value in _wide(slides, name, "energy").mean().items()
            if np.isfinite(value)
        ]
        text.append(f"{name} {', '.join(means)}")
    return (
        f"Line and band: mean and 95 % interval over animals; dotted: "
        f"{summaries.LOW_FREQUENCY:g}. Dirichlet energy per edge, mean over "
        f"slides: {'; '.join(text)}."
    )

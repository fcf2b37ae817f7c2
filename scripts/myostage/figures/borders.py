"""Where smoothing hurts: cells at the rim of the injured region against those further in and out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage import palette
from myostage.figures.lazy import mlines, mticker, pd, schemas, style, tables
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.attended:
        return {}
    parameters = {"without": scope.attended[0], "experiments": scope.attended[1:]}
    return {"borders": Request(scope.tables("borders"), parameters)}


FIGURE = Record(
    theme="slide_labels",
    category="Labels of slides",
    caption=(
        "Share of cells judged correctly by their distance to the rim of the injured region, for sharp and "
        "for diffuse rims. Below 0: inside the region. Band: 95 % interval over animals."
    ),
    requests=requests,
)


def make(borders: str, without: str, experiments: Sequence[str]) -> Drawn:
    """``without`` is the experiment without Sm."""
    table = tables.read(borders, schemas.BORDERS)
    numbers = table[table["experiment"].isin([without, *experiments])]
    return Drawn(draw(table, without, experiments), numbers)


def draw(table: pd.DataFrame, without: str, experiments: Sequence[str]) -> Figure:
    """Share of cells judged correctly by their distance to the rim of the injured region, by experiment.

    Parameters
    ----------
    table : DataFrame
        The BORDERS table. Sharp and diffuse borders have a panel each; else all have one together.
    without : str
        The experiment without Sm.
    experiments : sequence of str
        Those with Sm.
    """
    order = [without, *(name for name in experiments if name != without)]
    rows = table[table["experiment"].isin(order) & table["correct"].notna()]
    kinds = [kind for kind in ("sharp", "diffuse") if kind in set(rows["border"])] or ["all"]
    rows = rows[rows["border"].isin(kinds)]
    if rows.empty:
        return style.page("No borders", "No held-out slide has an injured region with a border.")
    figure = style.new_figure(max(6.8, 1.0 + 3.7 * len(kinds)), 4.0)
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    present = [name for name in order if name in set(rows["experiment"])]
    colours = dict(zip(order, (palette.CEILING, *palette.series_colours(len(order) - 1)), strict=True))
    for axes, kind in zip(panels, kinds, strict=True):
        part = rows[rows["border"] == kind].sort_values("low_um")
        for number, name in enumerate(present):
            one = part[part["experiment"] == name]
            middle = _middles(one)
            axes.fill_between(
                middle, one["correct_low"], one["correct_high"], color=colours[name], alpha=0.16, lw=0
            )
            marks = {
                "ls": "--" if name == without else "-",
                "marker": style.MARKERS[number % len(style.MARKERS)],
            }
            axes.plot(middle, one["correct"], color=colours[name], lw=1.5, ms=5, **marks)
        axes.axvline(0, color="black", lw=0.8)
        sizes = part.drop_duplicates(["low_um", "high_um"])
        count = f"up to {int(part['slides'].max())} slides, {int(sizes['cells'].sum()):,} cells"
        axes.set_title(f"{'sharp and diffuse' if kind == 'all' else kind} border: {count}")
        axes.set_xlabel("distance to the border (µm); below 0: inside the region")
        axes.yaxis.set_major_formatter(mticker.FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))
        axes.grid(axis="y", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("cells judged correctly")
    style.set_legend(
        figure,
        [
            mlines.Line2D(
                [],
                [],
                color=colours[name],
                ls="--" if name == without else "-",
                marker=style.MARKERS[number % len(style.MARKERS)],
                label=f"{name}, without Sm" if name == without else name,
            )
            for number, name in enumerate(present)
        ],
    )
    note = (
        "Marker and band: mean and 95 % interval over animals. Smoothing hurts (helps) where the "
        "interval with Sm lies wholly below (above) that without."
    )
    style.set_headline(figure, _where_it_hurts(rows, without, order[1:]), note)
    return figure


def _ranges(bands: Iterable[Any]) -> list[str]:
    """Bands (border, low, high) in words; those that touch as one."""
    merged: list[list[Any]] = []
    for kind, low, high in sorted(bands, key=lambda band: (band[0] != "sharp", band[1])):
        if merged and merged[-1][0] == kind and merged[-1][2] == low:
            merged[-1][2] = high
        else:
            merged.append([kind, low, high])
    return [
        f"{_between(low, high)} µm" + ("" if kind == "all" else f" ({kind})") for kind, low, high in merged
    ]


def _between(low: float, high: float) -> str:
    """A range of distances, which may lack either end."""
    if np.isinf(low) and np.isinf(high):
        return "any"
    if np.isinf(low):
        return f"below {high:g}"
    return f"above {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"


def _middles(rows: pd.DataFrame) -> Floats:
    """Where bands are drawn: their middle; one without end is taken as wide as the one beside it."""
    low, high = rows["low_um"].to_numpy(dtype=float), rows["high_um"].to_numpy(dtype=float)
    widths = (high - low)[np.isfinite(high - low)]
    width = float(np.median(widths)) if len(widths) else 1.0
    low = np.where(np.isinf(low), high - width, low)
    return (low + np.where(np.isinf(high), low + width, high)) / 2


def _where_it_hurts(rows: pd.DataFrame, without: str, experiments: Sequence[str]) -> str:
    keys = ["border", "low_um", "high_um"]
    plain = rows[rows["experiment"] == without]
    parts = []
    for name in experiments:
        both = plain.merge(rows[rows["experiment"] == name], on=keys, suffixes=("", "_with"))
        if both.empty:
            continue
        for verb, worse in (
            ("hurts", both["correct_high_with"] < both["correct_low"]),
            ("helps", both["correct_low_with"] > both["correct_high"]),
        ):
            found = _ranges(both.loc[worse, keys].itertuples(index=False))
            if found:
                where = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
                parts.append(f"{name} {verb} in {worse.sum()} of {len(both)} bands: {where}")
            elif verb == "hurts":
                parts.append(f"{name} hurts in no band")
    if not parts:
        return f"Cells judged correctly by their distance to the border; {without} is compared with nothing"
    return f"Smoothing against {without}: {'; '.join(parts)}"

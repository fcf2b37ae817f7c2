"""How every figure looks: fonts, colours, titles, and the parts that several figures draw.

A stage has the colour of :mod:`myostage.palette` in every figure.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from myostage import palette, tables
from myostage.evaluation.checks import Check
from myostage.evaluation.comparisons import Verdict, judge
from myostage.evaluation.metrics.registry import METRICS

STYLE: Any = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    # Ids in an SVG are salted at random by default: a figure drawn again would differ.
    "svg.hashsalt": "myostage",
}
PNG_DPI = 150
# Of the pictures within an SVG.
SVG_DPI = 200
FAINT = "#555555"
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":")
BLUE, ORANGE = palette.series_colours(2)
VERDICT_COLOURS: dict[Verdict, str] = {"better": BLUE, "worse": ORANGE}
# Of a text that stands in place of a value.
ABSENT = "#777"
# Of a check that passes, fails or is not decided.
CHECKED = {True: "#00704f", False: "#b84a00", None: FAINT}


def save(figure: Figure, stem: str | Path) -> Path:
    """Write ``stem``.png (150 dpi) and ``stem``.svg, atomically; returns the path of the PNG."""
    png, svg = Path(f"{stem}.png"), Path(f"{stem}.svg")
    with matplotlib.rc_context(STYLE):
        with tables.atomic(png) as temporary:
            figure.savefig(temporary, format="png", dpi=PNG_DPI)
        # what was laid out stays where it is: it is found once
        figure.set_layout_engine("none")
        with tables.atomic(svg) as temporary:
            figure.savefig(temporary, format="svg", dpi=SVG_DPI, metadata={"Date": None})
    return png


def stage_name(stage: str) -> str:
    """A stage as a reader sees it: ``large_myotube`` is written large myotube."""
    return stage.replace("_", " ")


def new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def set_headline(figure: Figure, finding: str, note: str = "") -> None:
    """The finding as a title at the left, wrapped to the figure, with a line of explanation at the foot."""
    width = figure.get_figwidth()
    # Letters per inch: of bold 11 pt here, of 7.5 pt below.
    lines = textwrap.wrap(finding, max(20, int(width * 10.3)), break_on_hyphens=False)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11, fontweight="bold")
    if not note:
        return
    text = "\n".join(textwrap.wrap(note, max(20, int(width * 16))))
    if figure.legends:
        # A line of its own would lie under the legend.
        figure.legends[0].set_title(text, prop=FontProperties(size=7.5))
        figure.legends[0].get_title().set_color(FAINT)
    else:
        figure.supxlabel(text, x=0.01, ha="left", fontsize=7.5, color=FAINT)


def finding(figure: Figure) -> str:
    """The title of a figure on one line."""
    return figure.get_suptitle().replace("\n", " ")


def set_check(figure: Figure, finding: str, check: Check) -> None:
    """The finding as a title, the check below the figure; a legend outside would lie over it."""
    set_headline(figure, finding)
    text = "\n".join(textwrap.wrap(str(check), max(20, int(figure.get_figwidth() * 11.5))))
    colour = CHECKED[check.passed]
    figure.supxlabel(text, x=0.01, ha="left", fontsize=9, fontweight="bold", color=colour)


def columns_of(panels: int) -> int:
    """Panels side by side: one row of up to four, else rows of three."""
    return panels if panels <= 4 else 3


def bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def page(title: str, text: str) -> Figure:
    """A page that says why there is no figure."""
    figure = new_figure(6.5, 2.2)
    set_headline(figure, title)
    axes = figure.subplots()
    bare(axes)
    axes.text(0, 0.9, "\n".join(textwrap.wrap(text, 90)), ha="left", va="top", transform=axes.transAxes)
    return figure


def set_legend(figure: Figure, handles: Sequence[Any], columns: int = 4) -> None:
    figure.legend(
        handles=handles, loc="outside lower left", ncols=min(columns, len(handles)), alignment="left"
    )


def plot_interval(
    axes: Axes, x: float, y: float, low: float, high: float, upright: bool, **style: Any
) -> None:
    """A point with its interval, which runs along y where ``upright`` and along x else."""
    if np.isfinite(low) and np.isfinite(high):
        line = axes.vlines if upright else axes.hlines
        line(x if upright else y, low, high, color=style["color"], lw=1.8)
    axes.plot(x, y, **{"marker": "o", "ms": 6, **style})


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def draw_section(axes: Axes, image: np.ndarray, width_um: float, height_um: float, wash: float) -> None:
    """The slide in um, washed out towards white by ``wash`` (0 as it is, 1 white)."""
    shown = (255 - (1 - wash) * (255 - image.astype(np.float32))).astype(np.uint8)
    axes.imshow(shown, extent=(0, width_um, height_um, 0), interpolation="antialiased")
    axes.set_xlim(0, width_um)
    axes.set_ylim(height_um, 0)
    bare(axes)


def draw_scale_bar(axes: Axes, width_um: float, height_um: float) -> None:
    """A bar of a round length, about a fifth of the picture, in its lower left corner."""
    target = width_um / 5
    power = 10.0 ** np.floor(np.log10(target))
    length = max(step * power for step in (1, 2, 5) if step * power <= target)
    x, y = 0.03 * width_um, 0.965 * height_um
    thick = 0.012 * height_um
    axes.add_patch(
        Rectangle(
            (x - thick, y - 6.5 * thick),
            length + 2 * thick,
            8.5 * thick,
            color="white",
            alpha=0.8,
            lw=0,
            zorder=8,
        )
    )
    axes.add_patch(Rectangle((x, y), length, thick, color="black", lw=0, zorder=9))
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    axes.text(x + length / 2, y - thick, text, ha="center", va="bottom", fontsize=8, zorder=9)


def shared_value(values: pd.Series, otherwise: str) -> str:
    """The one value there is."""
    found = set(values)
    return str(found.pop()) if len(found) == 1 else otherwise


def judge_row(row: Any, metric: str, alpha: float) -> Verdict:
    """The verdict on a row of COMPARISONS."""
    return judge(metric, row.difference, row.p_holm, alpha)


def describe_differences(rows: Sequence[Any], alpha: float, reference: str) -> str:
    """How many differences of COMPARISONS are significant, and the largest of them; or that none is."""
    compared = [row for row in rows if np.isfinite(row.difference)]
    if not compared:
        return f"nothing was compared with {reference}"
    found = [row for row in compared if judge_row(row, row.metric, alpha) in VERDICT_COLOURS]
    largest = max(found or compared, key=lambda row: abs(row.difference))
    gap = METRICS[largest.metric].format_interval(largest.difference, largest.low, largest.high, sign=True)
    verdict = judge_row(largest, largest.metric, alpha)
    if len(compared) == 1:
        return f"{gap} against {reference}, {'significant' if found else verdict}"
    if not found:
        return f"no significant difference to {reference} ({len(compared)} compared)"
    better = sum(judge_row(row, row.metric, alpha) == "better" for row in found)
    text = f"against {reference} {better or 'none'} of {len(compared)} better"
    text += f", {len(found) - better} worse" if better < len(found) else ""
    return f"{text}, most {largest.experiment}: {gap}"

"""How wrong the table of proportions may be before it hurts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from myostage import palette
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_setting
from myostage.figures.lazy import mlines, mticker, pd, schemas, selection, style, tables, verdicts
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.structure["curves"]:
        return {}
    parameters = {
        "metric": scope.metric,
        "curves": scope.plan.structure["curves"],
        "alpha": scope.plan.study.compare.alpha,
    }
    return {"robustness": Request(scope.tables("metrics", "comparisons"), parameters)}


FIGURE = Record(
    theme="metrics",
    category="Ablations",
    caption=(
        "Learning from wrong proportions: a share t of each vector is replaced by a random draw. Band: 95 %"
        " interval."
    ),
    requests=requests,
)


def make(
    metrics: str,
    comparisons: str,
    curves: Mapping[str, Mapping[float, str]],
    metric: str,
    alpha: float = 0.05,
) -> Drawn:
    table = tables.read(metrics, schemas.METRICS)
    rows = selection.tabulate_noise(table, curves, metric, tables.read(comparisons, schemas.COMPARISONS))
    return Drawn(draw(rows, metric, alpha), rows)


def draw(rows: pd.DataFrame, metric: str, alpha: float = 0.05) -> Figure:
    """A metric against how wrong the proportions are made, with intervals as bands.

    Parameters
    ----------
    rows : DataFrame
        Rows of :func:`myostage.evaluation.selection.tabulate_noise`.
    metric : str
    alpha : float
        Level of the tests.
    """
    known = rows[rows["value"].notna()]
    if known.empty:
        return style.page(
            "No curve of wrong proportions", "No experiment with wrong proportions was measured."
        )
    methods = list(dict.fromkeys(known["method"]))
    figure = style.new_figure(6.8, 4.1)
    axes = figure.subplots()
    handles = []
    for method, colour, marker in zip(
        methods, palette.series_colours(len(methods)), style.MARKERS * len(methods), strict=False
    ):
        part = known[known["method"] == method]
        banded = part[part["low"].notna() & part["high"].notna()]
        axes.fill_between(banded["t"], banded["low"], banded["high"], color=colour, alpha=0.16, lw=0)
        axes.plot(part["t"], part["value"], marker=marker, color=colour, lw=1.6, ms=5)
        first = selection.find_first_harm(part, metric, alpha)
        if first is not None:
            axes.plot(first["t"], first["value"], "o", ms=13, mfc="none", mec=colour, mew=1.6)
        handles.append(mlines.Line2D([], [], color=colour, marker=marker, label=method))
    absent = rows[rows["value"].isna()]
    if known["difference"].notna().any():
        handles.append(
            mlines.Line2D(
                [],
                [],
                ls="",
                marker="o",
                ms=11,
                mfc="none",
                mec="black",
                label="significantly worse from here",
            )
        )
    axes.set_xticks(sorted(set(rows["t"])))
    axes.xaxis.set_major_formatter(mticker.FuncFormatter(lambda t, _: f"{t:g}"))
    axes.set_xlabel("share t of the proportions that is random: (1 − t) given + t drawn")
    axes.set_ylabel(f"{METRICS[metric].label}, {METRICS[metric].direction}")
    axes.grid(axis="y", color="#eee", lw=0.7)
    axes.set_axisbelow(True)
    figure.legend(handles=handles, loc="outside lower left", ncols=3, alignment="left")
    slides, cells = int(known["slides"].max()), int(known["cells"].max())
    note = f"Band: {verdicts.INTERVAL}; {slides:,} slides, {cells:,} cells."
    if known["difference"].notna().any():
        note += f" Circle: first significant fall from t = 0. {verdicts.state_rule(alpha)}"
    if len(absent):
        note += f" Without a value: {', '.join(absent['experiment'])}."
    style.set_headline(figure, _wrong_proportions(known, metric, alpha), note)
    return figure


def _wrong_proportions(known: pd.DataFrame, metric: str, alpha: float) -> str:
    """From which t on each method is hurt."""
    parts = []
    for method, part in known.groupby("method", sort=False):
        first = selection.find_first_harm(part, metric, alpha)
        if first is not None:
            later = part[part["t"] >= first["t"]]
            lasting = bool(selection.find_harm(later, metric, alpha).all())
            gap = METRICS[metric].format_interval(
                first["difference"], first["difference_low"], first["difference_high"], sign=True
            )
            t = f"t = {format_setting(first['t'])}"
            where = f"from {t} on" if lasting else f"first at {t}"
            parts.append(f"{method} {where} ({gap})")
        elif part["difference"].notna().any():
            parts.append(f"{method} not up to t = {format_setting(part['t'].max())}")
        else:
            parts.append(f"{method} is compared with nothing")
    return f"Wrong proportions hurt {METRICS[metric].title}: {'; '.join(parts)}"

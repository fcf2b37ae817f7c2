"""Every metric of every experiment with its interval; published figures in a block of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage import palette
from myostage.evaluation.metrics.registry import METRICS
from myostage.figures.lazy import (
    convergence,
    formatting,
    mticker,
    pd,
    schemas,
    selection,
    style,
    tables,
    verdicts,
)
from myostage.figures.record import Drawn, Record, Request, Scope, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTHING = "No experiment has a held-out slide with a group, so there is nothing to measure."


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.experiments:
        return {}
    parts = scope.plan.structure
    named = ("baselines", "label_learners", "fitted_afterwards", "left_out", "quoted", "study")
    parameters = {
        "experiments": scope.plan.structure["main"],
        "metric": scope.metric,
        **{key: parts[key] for key in named},
    }
    return {"metrics": Request(scope.tables("metrics", "comparisons", "runs"), parameters)}


FIGURE = Record(
    theme="metrics",
    category="Metrics",
    caption=(
        "Metrics of every experiment on held-out slides. 95 % intervals over animals and training runs. "
        "Majorities learn nothing; diamonds learn from cell labels, the best is the ceiling. The table adds "
        "differences to the reference and, in a block of their own, published figures."
    ),
    requests=requests,
    tabular=True,
)


def make(
    metrics: str,
    comparisons: str = "",
    runs: str = "",
    metric: str = "accuracy",
    experiments: Sequence[str] = (),
    baselines: Sequence[str] = (),
    label_learners: Sequence[str] = (),
    fitted_afterwards: Sequence[str] = (),
    left_out: Mapping[str, str] | None = None,
    quoted: Sequence[Mapping[str, Any]] = (),
    study: str = "",
) -> Drawn:
    """Without ``comparisons`` no difference, without ``runs`` no failed run is named."""
    table = tables.read(metrics, schemas.METRICS)
    compared = tables.read(comparisons, schemas.COMPARISONS) if comparisons else None
    ended = tables.read(runs, schemas.RUNS) if runs else None
    metric = selection.choose_metric(table, metric)
    shown = list(experiments) or None
    rows = formatting.tabulate_experiments(table, shown, compared, ended, metric, left_out)
    figure = draw(table, shown, baselines, label_learners, compared, ended, metric)
    sentences = formatting.state_results(
        table[table["experiment"].isin(rows.index)], baselines, label_learners
    )
    ceiling = selection.find_ceiling(table, metric, label_learners)
    late = {} if ended is None else convergence.find_unconverged(ended)
    marks = formatting.collect_marks(label_learners, fitted_afterwards, late)
    notes = formatting.explain_marks(rows.index, label_learners, fitted_afterwards, left_out, ceiling, late)
    blocks = [
        (
            formatting.mark_experiments(rows, marks),
            f"{formatting.CAPTION} {notes}".strip(),
        ),
        *formatting.collect_blocks(compared, metric, rows.index, quoted, ended),
    ]
    return Drawn(figure, selection.take_pooled(table), table=Table(f"{study}: metrics", sentences, blocks))


def draw(
    table: pd.DataFrame,
    experiments: Sequence[str] | None = None,
    baselines: Sequence[str] = ("majority",),
    label_learners: Sequence[str] = ("supervised",),
    comparisons: pd.DataFrame | None = None,
    runs: pd.DataFrame | None = None,
    metric: str = "accuracy",
) -> Figure:
    """Metrics of every experiment as points with 95 % intervals; small dots are single runs.

    Parameters
    ----------
    table : DataFrame
        The METRICS table.
    experiments : sequence of str, optional
        Rows from top to bottom; by default as they come.
    baselines : sequence of str
        Drawn grey; the best of them is a dashed line through each panel.
    label_learners : sequence of str
        Experiments that learn from cell labels, drawn as diamonds; the best is the ceiling.
    comparisons, runs : DataFrame, optional
        The COMPARISONS table, for the title; the RUNS table, which names failed runs.
    metric : str
        What the title speaks of, where it was measured.
    """
    whole = selection.take_pooled(table)
    if whole.empty:
        return style.page("No metrics", NOTHING)
    found = dict.fromkeys(whole["experiment"])
    failed = selection.describe_failures(runs)
    order = [name for name in (experiments or found) if name in found or name in failed]
    table, whole = (rows[rows["experiment"].isin(order)] for rows in (table, whole))
    known = set(whole.loc[whole["value"].notna(), "metric"])
    panels = [name for name in METRICS if name in known]
    columns = style.columns_of(len(panels))
    rows = -(-len(panels) // columns)
    longest = max(len(name) for name in order)
    figure = style.new_figure(2.75 * columns + 0.075 * longest, rows * (0.75 + 0.25 * len(order)) + 1.1)
    grid = np.asarray(figure.subplots(rows, columns, squeeze=False, sharey=True)).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    learnt = palette.series_colours(1)[0]
    for panel, axes in zip(panels, grid, strict=False):
        record = METRICS[panel]
        at = selection.find_measured(table, panel)
        single = table[(table["run"] != "") & (table["metric"] == panel)]
        for place, name in enumerate(order):
            if name not in at or not np.isfinite(at[name].value):
                text = failed.get(name, "undefined")
                axes.text(
                    0.02, place, text, fontsize=7, color=style.ABSENT, va="center", transform=_rows(axes)
                )
                continue
            row = at[name]
            colour = learnt
            if name in baselines or name in label_learners:
                colour = palette.BASELINE if name in baselines else palette.CEILING
            values = single.loc[single["experiment"] == name, "value"]
            axes.plot(values, np.full(len(values), place + 0.25), ".", color=colour, alpha=0.6, ms=4, mew=0)
            if np.isfinite(row.low) and np.isfinite(row.high):
                axes.hlines(place, row.low, row.high, color=colour, lw=1.8)
            axes.plot(row.value, place, "D" if name in label_learners else "o", color=colour, ms=6)
        floors = [at[name].value for name in baselines if name in at and np.isfinite(at[name].value)]
        if floors:
            axes.axvline(
                max(floors) if record.higher_is_better else min(floors),
                color=palette.BASELINE,
                lw=1,
                ls="--",
                zorder=0,
            )
        axes.set_title(record.label)
        axes.set_xlabel(record.direction, fontsize=7.5, color=style.FAINT)
        axes.xaxis.set_major_locator(mticker.MaxNLocator(5))
        axes.grid(axis="x", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    grid[0].set_yticks(range(len(order)), order)
    grid[0].set_ylim(len(order) - 0.4, -0.6)
    note = f"Point and line: value and {verdicts.INTERVAL}; small dots: single runs."
    if set(baselines) & set(order):
        note += " Grey: baselines, dashed the best of them."
    if set(label_learners) & set(order):
        note += " Diamond: learns from cell labels, the best of them the ceiling."
    sizes_of = whole[whole["value"].notna()]
    note += f" n: up to {sizes_of['slides'].max():,} slides and {sizes_of['cells'].max():,} cells."
    spoken = metric if metric in known else panels[0]
    finding = _standing(table, spoken, baselines, label_learners, comparisons)
    style.set_headline(figure, finding, note)
    return figure


def _rows(axes: Axes) -> Any:
    """x in shares of the axes, y in rows."""
    return axes.get_yaxis_transform()


def _standing(
    table: pd.DataFrame,
    metric: str,
    baselines: Sequence[str],
    label_learners: Sequence[str],
    comparisons: pd.DataFrame | None = None,
) -> str:
    """The best experiment by a metric against the best baseline, the ceiling and the reference."""
    record = METRICS[metric]
    at = {name: row for name, row in selection.find_measured(table, metric).items() if np.isfinite(row.value)}

    def best(names: Iterable[str]) -> list[str]:
        known = sorted(
            (name for name in names if name in at),
            key=lambda name: at[name].value,
            reverse=record.higher_is_better,
        )
        return known[:1]

    plain = best(name for name in at if name not in baselines and name not in label_learners)
    parts = [f"{name} {at[name]}" for name in (*plain, *best(baselines))]
    ceiling = selection.find_ceiling(table, metric, label_learners)
    parts += [f"the ceiling ({ceiling}) {at[ceiling]}"] if ceiling else []
    against = "" if comparisons is None else formatting.describe_to_reference(comparisons, metric, *plain)
    if against:
        parts[0] += f", {against}"
    return f"{record.title[0].upper()}{record.title[1:]}: {'; '.join(parts)}"

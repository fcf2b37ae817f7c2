"""Metrics of the experiments of one part with their intervals, each against its control."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from myostage.evaluation.metrics.registry import METRICS
from myostage.figures.lazy import (
    formatting,
    mlines,
    mticker,
    pd,
    schemas,
    selection,
    style,
    tables,
    verdicts,
    views,
)
from myostage.figures.record import Drawn, Record, Request, Scope, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# metrics of the tables
COLUMNS = (
    "bag_auroc",
    "instance_auroc",
    "instance_f1",
    "bag_f1",
    "bag_accuracy",
    "bag_kappa",
    "bag_mae",
    "energy",
)
ORDINAL_COLUMNS = ("stage_mae", "stage_spearman", "stage_w1", "stage_tail_mae", "accuracy", "mae")
PANELS = 4  # side by side


def requests(scope: Scope) -> dict[str, Request]:
    found = {}
    references = {
        name: other for name, other in scope.plan.slide_structure["references"].items() if name != other
    }
    # each against what it changes something of, and else against the reference of its label
    against = references | scope.plan.slide_structure["against"]
    for part, labels in scope.plan.slide_structure["parts"].items():
        metric = scope.plan.study.compare.slide_metric
        found[f"{part}_table"] = _of_part(scope, part, metric, COLUMNS, "slides_", labels, against)
    if scope.plan.structure["regression"] and scope.plan.labelled:
        reference = scope.plan.structure["reference"]
        against = {
            name: reference for name in scope.plan.experiments if name != reference
        } | scope.plan.structure["against"]
        labels = [*scope.plan.structure["main"], *scope.plan.structure["regression"]]
        part = "ordinal regression"
        found["regression_table"] = _of_part(scope, part, "stage_mae", ORDINAL_COLUMNS, "", labels, against)
    return found


def _of_part(
    scope: Scope,
    part: str,
    metric: str,
    columns: Sequence[str],
    prefix: str,
    labels: Sequence[str],
    against: Mapping[str, str],
) -> Request:
    parameters = {
        "experiments": list(labels),
        "columns": list(columns),
        "metric": metric,
        "against": {name: other for name, other in against.items() if name in labels},
        "alpha": scope.plan.study.compare.alpha,
        "study": f"{scope.plan.study.study}, {part}",
    }
    return Request(scope.tables("metrics", "comparisons", "runs", prefix=prefix), parameters)


FIGURE = Record(
    theme="slide_labels",
    category="Labels of slides",
    caption=(
        "Metrics of models of slide labels on held-out slides: value and 95 % interval over animals and "
        "training runs. Coloured where the paired difference to the control is significant: its "
        "Holm-adjusted p is below the level. Cell labels are used here and nowhere in learning."
    ),
    requests=requests,
    tabular=True,
)


def make(
    metrics: str,
    comparisons: str,
    runs: str,
    experiments: Sequence[str],
    columns: Sequence[str],
    against: Mapping[str, str],
    metric: str = "bag_auroc",
    alpha: float = 0.05,
    study: str = "",
) -> Drawn:
    """Of the metrics in ``columns`` up to four are drawn; ``metric`` is what the title speaks of."""
    table = tables.read(metrics, schemas.METRICS)
    compared = tables.read(comparisons, schemas.COMPARISONS)
    ended = tables.read(runs, schemas.RUNS)
    rows = selection.tabulate_metrics(table, experiments, columns, against, compared)
    figure = draw(rows, metric, alpha, selection.describe_failures(ended))
    differences = selection.find_to_controls(compared, metric, against, experiments)
    written = formatting.tabulate_experiments(table, experiments, None, ended, columns=columns)
    written = written.join(views.difference_columns(differences, metric))
    blocks = [(written, f"{formatting.CAPTION} {formatting.DIFFERENCES}")]
    title = f"{study}: {METRICS[metric].label} and others"
    return Drawn(figure, rows, table=Table(title, [style.finding(figure)], blocks))


def draw(
    rows: pd.DataFrame, metric: str, alpha: float = 0.05, failed: Mapping[str, str] | None = None
) -> Figure:
    """Metrics of experiments as points with 95 % intervals, coloured by the difference to their control.

    Parameters
    ----------
    rows : DataFrame
        Rows of :func:`myostage.evaluation.selection.tabulate_metrics`; at most four metrics are
        drawn, ``metric`` among them.
    metric : str
        What the title speaks of.
    alpha : float
        Level of the tests.
    failed : mapping of experiment to text, optional
        What stands in place of an experiment without a value.
    """
    measured = rows[rows["value"].notna()]
    if measured.empty:
        return style.page("No metrics", "No experiment of this part was measured on a held-out slide.")
    known = list(dict.fromkeys(measured["metric"]))
    spoken = metric if metric in known else known[0]
    panels = [spoken, *(name for name in known if name != spoken)][:PANELS]
    order = list(dict.fromkeys(rows["experiment"]))
    controls = set(rows["control"]) - {""}
    longest = max(len(name) for name in order)
    figure = style.new_figure(1.0 + 2.3 * max(2, len(panels)) + 0.07 * longest, 2.4 + 0.27 * len(order))
    drawn = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, name in zip(drawn, panels, strict=True):
        record = METRICS[name]
        part = rows[rows["metric"] == name]
        for place, row in enumerate(selection.iterate_rows(part)):
            one = row.experiment
            if not np.isfinite(row.value):
                text = (failed or {}).get(one, "undefined")
                where = axes.get_yaxis_transform()
                axes.text(0.02, place, text, fontsize=7, color=style.ABSENT, va="center", transform=where)
                continue
            colour = style.VERDICT_COLOURS.get(style.judge_row(row, name, alpha), style.FAINT)
            marker = "D" if one in controls else "o"
            face = colour if colour != style.FAINT else "white"
            marks = {"color": colour, "mfc": face, "marker": marker}
            style.plot_interval(axes, row.value, place, row.value_low, row.value_high, False, **marks)
        axes.set_title("\n".join(textwrap.wrap(record.label, 26)))
        axes.set_xlabel(record.direction, fontsize=7.5, color=style.FAINT)
        axes.xaxis.set_major_locator(mticker.MaxNLocator(4))
        axes.grid(axis="x", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    drawn[0].set_yticks(range(len(order)), order)
    drawn[0].set_ylim(len(order) - 0.4, -0.6)
    style.set_legend(
        figure,
        [
            mlines.Line2D([], [], color=style.BLUE, marker="o", label="better than its control"),
            mlines.Line2D([], [], color=style.ORANGE, marker="o", label="worse"),
            mlines.Line2D(
                [], [], color=style.FAINT, marker="o", mfc="white", label="not significant, or not tested"
            ),
            mlines.Line2D([], [], color=style.FAINT, marker="D", mfc="white", ls="", label="a control"),
        ],
        4 if len(panels) > 2 else 2,
    )
    part = rows[rows["metric"] == spoken]
    best = views.best_row(part, spoken)
    record = METRICS[spoken]
    value = record.format_interval(best.value, best.value_low, best.value_high)
    only = next(iter(controls)) if len(controls) == 1 else "its control"
    finding = f"{style.capitalised(record.title)}: best {best.experiment}, {value}"
    if controls:
        finding += f"; {style.describe_differences(list(selection.iterate_rows(part)), alpha, only)}"
    note = (
        f"Point and line: value and {verdicts.INTERVAL}. "
        f"{verdicts.state_rule(alpha)} n: up to {int(measured['n_slides'].max()):,} slides and "
        f"{int(measured['n_cells'].max()):,} cells."
    )
    style.set_headline(figure, finding, note)
    return figure

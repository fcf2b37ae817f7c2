"""Which stage is taken for which, by experiment, and how many errors are one stage off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage.figures.lazy import mpatches, style, summaries, views
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not (scope.plan.experiments and scope.plan.labelled):
        return {}
    shown = list(scope.plan.study.look.compared) or scope.learning[:4]
    return {"confusions": Request(scope.tables("confusion"), {"stages": scope.stages, "experiments": shown})}


FIGURE = Record(
    theme="metrics",
    category="Metrics",
    caption=(
        "Confusion matrices of held-out cells side by side; outlined: one stage off. Cell labels are used "
        "here and nowhere in learning."
    ),
    requests=requests,
)


def make(confusion: str, stages: Sequence[str], experiments: Sequence[str]) -> Drawn:
    matrices = {experiment: views.confusion(confusion, experiment, len(stages)) for experiment in experiments}
    return Drawn(draw(matrices, stages), summaries.tabulate_errors(matrices, stages))


def draw(matrices: Mapping[str, np.ndarray], stages: Sequence[str]) -> Figure:
    """Confusion matrices side by side, each with its share of errors that are one stage off.

    Parameters
    ----------
    matrices : mapping of experiment to float[K, K]
        Cells (mean over seeds) by annotated (row) and predicted stage; an experiment without any is named.
    stages : sequence of str
    """
    import seaborn

    errors = {name: summaries.Errors.of(matrix) for name, matrix in matrices.items()}
    if not any(one.cells for one in errors.values()):
        return style.page(
            "No confusion matrices", "No held-out cell of these experiments carries an annotated stage."
        )
    count = len(stages)
    # Rows of up to four, as even as may be.
    rows = -(-len(matrices) // 4)
    columns = -(-len(matrices) // rows)
    side = 0.62 * count
    figure = style.new_figure(max(6.5, 1.4 + columns * (side + 0.35)), 1.7 + rows * (side + 0.75))
    panels: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    names = [style.stage_name(stage) for stage in stages]
    for axes in panels.ravel()[len(matrices) :]:
        axes.set_visible(False)
    for (name, matrix), axes in zip(matrices.items(), panels.ravel(), strict=False):
        axes.set_title(f"{name}\n{_one_off(errors[name])}", fontsize=8)
        sums = matrix.sum(axis=1, keepdims=True)
        shares = np.divide(matrix, sums, out=np.zeros_like(matrix, dtype=float), where=sums > 0)
        texts = [
            [
                f"{100 * share:.0f} %\n{cells:,.0f}" if total else "none"
                for share, cells in zip(row, counts, strict=True)
            ]
            for row, counts, total in zip(shares, matrix, sums[:, 0], strict=True)
        ]
        seaborn.heatmap(
            shares,
            ax=axes,
            cmap="Greys",
            vmin=0,
            vmax=1,
            cbar=False,
            annot=np.array(texts),
            fmt="",
            annot_kws={"fontsize": 6.5},
            xticklabels=names,
            yticklabels=names,
        )
        axes.tick_params(length=0, labelsize=8)
        for number in range(count - 1) if errors[name].cells else ():
            for corner in ((number + 1, number), (number, number + 1)):
                axes.add_patch(
                    mpatches.Rectangle(corner, 1, 1, fill=False, ec=style.ORANGE, lw=1.1, zorder=3)
                )
    for axes in panels.ravel():
        for label in axes.get_xticklabels():
            label.set(rotation=35, ha="right", rotation_mode="anchor")
    # The lowest panel of each column carries the stages, where the last row is not full too.
    for number in range(columns):
        lowest = max(row for row in range(rows) if row * columns + number < len(matrices))
        panels[lowest, number].tick_params(labelbottom=True)
        panels[lowest, number].set_xlabel("predicted stage")
    for axes in panels[:, 0]:
        axes.set_ylabel("annotated stage")
    figure.legend(
        handles=[mpatches.Patch(fc="none", ec=style.ORANGE, label="one stage off")],
        loc="outside lower left",
        alignment="left",
    )
    style.set_headline(
        figure,
        _describe_errors(errors),
        "Held-out cells, mean over seeds: share of the annotated stage, below it the cells. Counts carry no "
        "interval; those of the metrics made of them stand in the main table.",
    )
    return figure


def _one_off(errors: summaries.Errors) -> str:
    if not errors.cells:
        return "no annotated cell"
    if not errors.wrong:
        return f"no error among {errors.cells:,.0f} cells"
    of_errors, of_cells = 100 * errors.of_errors, 100 * errors.of_cells
    return f"one off: {of_errors:.0f} % of errors, {of_cells:.0f} % of {errors.cells:,.0f} cells"


def _describe_errors(errors: Mapping[str, summaries.Errors]) -> str:
    """Share of errors and of cells one stage off; of many experiments those with most and least."""
    known = {name: one for name, one in errors.items() if one.wrong}
    if not known:
        return "No annotated cell is staged wrongly"
    named = list(known)
    if len(known) > 4:
        order = sorted(known, key=lambda name: known[name].of_errors, reverse=True)
        named = [order[0], order[-1]]
    parts = [
        f"{100 * known[name].of_errors:.0f} % of the errors of {name} "
        f"({100 * known[name].of_cells:.0f} % of its cells)"
        for name in named
    ]
    return f"One stage off: {', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}"

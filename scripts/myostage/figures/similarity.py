"""Whether cells of adjacent stages lie close together, before training and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage import palette
from myostage.evaluation.numbers import format_number
from myostage.figures.lazy import checks, mpatches, pd, schemas, style, summaries, tables
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not (scope.plan.experiments and scope.plan.labelled):
        return {}
    name = scope.plan.ordered or str(scope.plan.shown)
    experiments = scope.plan.before_and_after(name)
    parameters = {"stages": scope.stages, "experiments": experiments}
    return {"similarity": Request(scope.tables("similarities", "correlations"), parameters)}


FIGURE = Record(
    theme="embedding",
    category="First experiments",
    caption=(
        "Mean cosine of two held-out cells by their annotated stages, within one run and averaged over "
        "runs, beside sim(k, k') = 1 - |k - k'| / (K - 1). Spearman's rho over pairs of stages; 95 % "
        "interval over animals and runs. Passes when the interval after training lies above 0."
    ),
    requests=requests,
)


def make(
    similarities: str, correlations: str, stages: Sequence[str], experiments: Mapping[str, str]
) -> Drawn:
    """``experiments`` maps an experiment to its caption; the first is before training, the last after."""
    table = tables.read(similarities, schemas.SIMILARITIES)
    rho = tables.read(correlations, schemas.CORRELATIONS)
    numbers = table[table["experiment"].isin(list(experiments))].merge(rho, on="experiment")
    return Drawn(draw(table, rho, experiments, stages), numbers)


def draw(
    table: pd.DataFrame, correlations: pd.DataFrame, experiments: Mapping[str, str], stages: Sequence[str]
) -> Figure:
    """Mean cosine of cells of two stages beside sim(k, k'), a matrix per experiment.

    Parameters
    ----------
    table, correlations : DataFrame
        The SIMILARITIES and CORRELATIONS tables.
    experiments : mapping of experiment to caption
        From left to right: the first is before training, the last after. What the table lacks is left out.
    """
    from myostage.learning.stages import similarity

    count = len(stages)
    shown = {name: caption for name, caption in experiments.items() if name in set(table["experiment"])}
    check = checks.follows_similarity(correlations, list(experiments))
    if not shown:
        return style.page("No similarity of stages", str(check))
    matrices = {name: _cosines(table, name, count) for name in shown}
    found = np.concatenate([matrix[np.isfinite(matrix)] for matrix in matrices.values()])
    # One scale for all experiments: what is flat before training is to look flat.
    scale = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
    columns = 1 + len(shown)
    figure = style.new_figure(1.9 + columns * (0.3 + 0.46 * count), 2.6 + 0.46 * count)
    figure.set_layout_engine("compressed")  # squares, which would leave gaps
    row = np.atleast_1d(figure.subplots(1, columns))
    found_rhos = summaries.find_rhos(correlations)
    _matrix(row[0], similarity(count), (0.0, 1.0), stages, "sim(k, k'), expected", named=True)
    for axes, (name, matrix) in zip(row[1:], matrices.items(), strict=True):
        image = _matrix(axes, matrix, scale, stages, f"{shown[name]}\nrho {found_rhos[name]}")
    bar = figure.colorbar(image, ax=row, shrink=0.8)
    bar.set_label("mean cosine of two cells")
    bar.outline.set(visible=False)  # type: ignore[operator]
    last, first = list(shown)[-1], next(iter(shown))
    text = [f"{found_rhos[name]} {shown[name]}" for name in dict.fromkeys((last, first))]
    finding = (
        f"Cosine between stages against sim(k, k'): Spearman's rho is {', '.join(text)} "
        f"({found_rhos[last].cells:,} held-out cells of {found_rhos[last].slides} slides)"
    )
    style.set_check(figure, finding, check)
    return figure


def _cosines(table: pd.DataFrame, experiment: str, count: int) -> np.ndarray:
    rows = table[table["experiment"] == experiment]
    matrix = np.full((count, count), np.nan)
    matrix[rows["stage_a"], rows["stage_b"]] = rows["cosine"]
    return matrix


def _matrix(
    axes: Any,
    matrix: np.ndarray,
    scale: tuple[float, float],
    stages: Sequence[str],
    title: str,
    named: bool = False,
) -> Any:
    """One matrix of stages with its numbers; stages are named at the left of the first only."""
    import seaborn

    count = len(stages)
    low, high = scale
    names = [style.stage_name(stage) for stage in stages]
    seaborn.heatmap(
        matrix,
        ax=axes,
        cmap="Greys",
        vmin=low,
        vmax=max(high, low + 1e-9),
        cbar=False,
        square=True,
        annot=np.vectorize(format_number)(matrix),
        fmt="",
        annot_kws={"fontsize": 7},
        xticklabels=names,
        yticklabels=names if named else False,
    )
    for a, b in np.argwhere(np.isnan(matrix)):
        axes.text(b + 0.5, a + 0.5, format_number(np.nan), ha="center", va="center", fontsize=7)
    for number, colour in enumerate(palette.stage_colours(count)):
        axes.add_patch(mpatches.Rectangle((number, count + 0.04), 1, 0.12, color=colour, clip_on=False, lw=0))
        axes.add_patch(mpatches.Rectangle((-0.16, number), 0.12, 1, color=colour, clip_on=False, lw=0))
    axes.tick_params(length=0, pad=8, labelsize=7.5)
    for label in axes.get_xticklabels():
        label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_title(title, fontsize=8)
    return axes.collections[0]

"""Every figure's drawing code: tables and arrays in, a matplotlib Figure out; nothing is read here.

Titles state what the numbers say and are computed from them. A stage has the colour of
:mod:`myostage.palette` in every figure.
"""

import functools
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from myostage import palette, tables
from myostage.evaluation import formatting, selection, summaries
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
NOTHING = "No experiment has a held-out slide with a group, so there is nothing to measure."


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @functools.wraps(draw)
    def draw_styled(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return draw_styled


def save(figure: Figure, stem: str | Path) -> Path:
    """Write ``stem``.png (150 dpi) and ``stem``.svg, atomically; returns the path of the PNG."""
    png, svg = Path(f"{stem}.png"), Path(f"{stem}.svg")
    with matplotlib.rc_context(STYLE):
        with tables.atomic(png) as temporary:
            figure.savefig(temporary, format="png", dpi=PNG_DPI)
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


def _columns(panels: int) -> int:
    """Panels side by side: one row of up to four, else rows of three."""
    return panels if panels <= 4 else 3


def bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


@styled
def page(title: str, text: str) -> Figure:
    """A page that says why there is no figure."""
    figure = new_figure(6.5, 2.2)
    set_headline(figure, title)
    axes = figure.subplots()
    bare(axes)
    axes.text(0, 0.9, "\n".join(textwrap.wrap(text, 90)), ha="left", va="top", transform=axes.transAxes)
    return figure


@styled
def composition(
    scores: pd.DataFrame, given: Mapping[str, Sequence[float]], stages: Sequence[str], experiment: str
) -> Figure:
    """Share of each stage per group: given (dash) against predicted, one point per animal.

    Parameters
    ----------
    scores : DataFrame
        SCORES rows; those of ``experiment`` are drawn. Slides of an animal are averaged by their cells.
    given : mapping of group to K shares
        In the order of the axis; groups without a slide are left out.
    """
    animals = summaries.animal_composition(scores, stages, experiment)
    groups = [group for group in given if group in set(animals["group"])]
    places = {group: place for place, group in enumerate(groups)}
    if (animals["group"] == "").any():
        places[""] = len(groups)
    known = animals[animals["group"].isin(groups)]
    predicted = known[list(stages)].to_numpy(dtype=float)
    wanted = np.array([given[group] for group in known["group"]], dtype=float).reshape(-1, len(stages))

    figure = new_figure(max(6.5, 1.05 + len(stages) * (0.55 + 0.24 * len(places))), 3.3)
    row = np.atleast_1d(figure.subplots(1, len(stages), sharey=True))
    for number, (stage, colour, axes) in enumerate(
        zip(stages, palette.stage_colours(len(stages)), row, strict=True)
    ):
        for group in groups:
            share = given[group][number]
            axes.bar(places[group], share, width=0.8, color="#ececec", zorder=0)
            axes.hlines(share, places[group] - 0.4, places[group] + 0.4, color="black", lw=1.6, zorder=2)
        for group in places:
            rows = animals[animals["group"] == group]
            spread = np.linspace(-0.22, 0.22, len(rows)) if len(rows) > 1 else np.zeros(1)
            axes.scatter(
                places[group] + spread,
                rows[stage],
                s=26,
                color=colour,
                edgecolor="black",
                linewidth=0.5,
                zorder=3,
            )
        axes.set_title(stage_name(stage))
        axes.set_xticks(list(places.values()), [group or "none" for group in places], rotation=45, ha="right")
        axes.set_xlim(-0.6, len(places) - 0.4)
    row[0].set_ylim(-0.03, 1.03)
    row[0].yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    row[0].set_ylabel("share of cells")
    row[len(row) // 2].set_xlabel("group")
    figure.legend(
        handles=[
            Line2D([], [], color="black", lw=1.6, label="given"),
            Line2D(
                [], [], ls="", marker="o", mfc="#aaa", mec="black", mew=0.5, label="predicted, one animal"
            ),
        ],
        loc="outside lower right",
        ncols=2,
    )
    if len(known):
        gap = 100 * (predicted - wanted)
        by_group = np.stack([gap[(known["group"] == group).to_numpy()].mean(axis=0) for group in groups])
        worst, stage_off = np.unravel_index(np.abs(by_group).argmax(), by_group.shape)
        off = by_group[worst, stage_off]
        where = f"{stage_name(stages[stage_off])} at {groups[worst]} ({off:+.0f} points)"
        finding = (
            f"{experiment}: predicted shares differ from the given ones by "
            f"{np.abs(gap).mean():.1f} points on average, most for {where}"
        )
    else:
        finding = f"{experiment}: predicted shares; no slide belongs to a group with given shares"
    set_headline(figure, finding)
    return figure


def _scale_bar(axes: Axes, width_um: float, height_um: float) -> None:
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


def _section(axes: Axes, image: np.ndarray, width_um: float, height_um: float, wash: float) -> None:
    """The slide in um, washed out towards white by ``wash`` (0 as it is, 1 white)."""
    shown = (255 - (1 - wash) * (255 - image.astype(np.float32))).astype(np.uint8)
    axes.imshow(shown, extent=(0, width_um, height_um, 0), interpolation="antialiased")
    axes.set_xlim(0, width_um)
    axes.set_ylim(height_um, 0)
    bare(axes)


def _fill(axes: Axes, polygons: Sequence[np.ndarray], stage: np.ndarray, colours: Sequence[str]) -> None:
    drawn = [number for number, polygon in enumerate(polygons) if len(polygon) > 2]
    face = [colours[stage[number]] if stage[number] >= 0 else palette.MISSING for number in drawn]
    edge = 0.35 if len(drawn) < 5000 else 0.0
    axes.add_collection(
        PolyCollection(
            [polygons[number] for number in drawn],
            facecolors=face,
            edgecolors="white" if edge else "none",
            linewidths=edge,
            alpha=0.9,
            rasterized=True,
        ),
        autolim=False,
    )


@styled
def stage_map(
    image: np.ndarray,
    width_um: float,
    height_um: float,
    polygons: Sequence[np.ndarray],
    predicted: np.ndarray,
    annotated: np.ndarray | None,
    stages: Sequence[str],
    name: str,
) -> Figure:
    """A slide beside its predicted and, where known, its annotated stages.

    Parameters
    ----------
    image : uint8[h, w, 3]
        The whole slide at any size.
    width_um, height_um : float
        Size of the slide.
    polygons : n arrays float[points, 2]
        Outlines in um.
    predicted, annotated : int[n]
        Stage of each outline; -1 for none (drawn grey). ``annotated`` None: no such panel.
    name : str
        Slide (and experiment) as the title names it.
    """
    predicted = np.asarray(predicted)
    shown = annotated is not None and bool((np.asarray(annotated) >= 0).any())
    panels = 3 if shown else 2
    panel = float(np.clip(4.2 * width_um / height_um, 2.6, 5.5))
    figure = new_figure(panel * panels + 0.3, panel * height_um / width_um + 1.0)
    axes = figure.subplots(1, panels)
    colours = palette.stage_colours(len(stages))
    _section(axes[0], image, width_um, height_um, 0)
    axes[0].set_title("H&E")
    _section(axes[1], image, width_um, height_um, 0.7)
    _fill(axes[1], polygons, predicted, colours)
    axes[1].set_title("predicted stage")
    staged = predicted >= 0
    shares = np.bincount(predicted[staged], minlength=len(stages)) / max(1, int(staged.sum()))
    finding = f"{name}: no cell was staged"
    if staged.any():
        top = int(shares.argmax())
        finding = (
            f"{name}: {100 * shares[top]:.0f} % of {int(staged.sum()):,} cells are {stage_name(stages[top])}"
        )
    if shown:
        annotated = np.asarray(annotated)
        _section(axes[2], image, width_um, height_um, 0.7)
        _fill(axes[2], polygons, annotated, colours)
        axes[2].set_title("annotated stage")
        both = staged & (annotated >= 0)
        if both.any():
            agree = float((predicted == annotated)[both].mean())
            finding += f"; {100 * agree:.0f} % of {int(both.sum()):,} annotated cells are staged rightly"
    for one in axes:
        _scale_bar(one, width_um, height_um)
    handles = [
        Patch(color=colour, label=f"{stage_name(stage)} {100 * share:.0f} %")
        for stage, colour, share in zip(stages, colours, shares, strict=True)
    ]
    if not staged.all() or (shown and (np.asarray(annotated) < 0).any()):
        handles.append(Patch(color=palette.MISSING, label="no stage"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    set_headline(figure, finding)
    return figure


@styled
def outlines(
    image: np.ndarray,
    width_um: float,
    height_um: float,
    polygons: Sequence[np.ndarray],
    border: np.ndarray,
    name: str,
) -> Figure:
    """Outlines of the segmented cells on their slide; cells cut by an edge in another colour."""
    panel = float(np.clip(6.0 * width_um / height_um, 4.5, 9.0))
    figure = new_figure(panel, panel * height_um / width_um + 0.9)
    axes = figure.subplots()
    _section(axes, image, width_um, height_um, 0)
    border = np.asarray(border, dtype=bool)
    colours = np.where(border, palette.series_colours(2)[1], "black")
    keep = [number for number, polygon in enumerate(polygons) if len(polygon) > 2]
    rings = [np.concatenate([polygons[number], polygons[number][:1]]) for number in keep]
    axes.add_collection(
        LineCollection(
            rings, colors=[str(colours[number]) for number in keep], linewidths=0.8, rasterized=True
        ),
        autolim=False,
    )
    _scale_bar(axes, width_um, height_um)
    figure.legend(
        handles=[
            Line2D([], [], color="black", label="cell"),
            Line2D(
                [], [], color=palette.series_colours(2)[1], label="cut by the edge of the slide or its tile"
            ),
        ],
        loc="outside lower center",
        ncols=2,
    )
    area = width_um * height_um / 1e6
    set_headline(
        figure, f"{name}: {len(polygons):,} cells on {area:.2g} mm², {int(border.sum()):,} cut by an edge"
    )
    return figure


@styled
def gallery(
    crops: np.ndarray,
    chosen: pd.DataFrame,
    annotated: np.ndarray | None,
    stages: Sequence[str],
    experiment: str,
    per_stage: int,
) -> Figure:
    """Per predicted stage the most and the least certain crops with their probability.

    Parameters
    ----------
    crops : uint8[n, h, w, 3]
    chosen : DataFrame
        Rows of :func:`myostage.figures.views.pick`, one per crop.
    annotated : int[n], optional
        Annotated stage, -1 for none: the frame of a crop has its colour.
    """
    most = (per_stage + 1) // 2
    count = len(stages)
    figure = new_figure(1.5 + 0.85 * per_stage, 0.9 + 1.03 * count)
    grid: Any = figure.subplots(count, per_stage, squeeze=False)
    colours = palette.stage_colours(count)
    for axes in grid.ravel():
        bare(axes)
    known = None if annotated is None or not (np.asarray(annotated) >= 0).any() else np.asarray(annotated)
    predicted, places = chosen["stage"].to_numpy(dtype=int), chosen["place"].to_numpy(dtype=int)
    for number, probability in enumerate(chosen["probability"].to_numpy(dtype=float)):
        axes = grid[predicted[number], places[number]]
        axes.imshow(crops[number], interpolation="nearest")
        axes.set_xlabel(f"{100 * probability:.0f} %", fontsize=7.5, labelpad=2)
        truth = -1 if known is None else int(known[number])
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_linewidth(2.4)
            spine.set_color(colours[truth] if truth >= 0 else palette.MISSING)
    for stage, colour, axes in zip(stages, colours, grid[:, 0], strict=True):
        axes.text(
            -0.18,
            0.5,
            "\n".join(textwrap.wrap(stage_name(stage), 10)),
            transform=axes.transAxes,
            ha="right",
            va="center",
            bbox={"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.3"},
            color=palette.ink(colour),
        )
    for number, axes in enumerate(grid[:, 0]):
        if not (predicted == number).any():
            axes.text(0.5, 0.5, "no cell", transform=axes.transAxes, ha="center", va="center")
    grid[0, 0].set_title("most certain")
    if per_stage > most:
        grid[0, most].set_title("least certain")
    note = "Below a crop: probability of the predicted stage (row)."
    if known is not None:
        note += " Frame: annotated stage; grey: none."
    kind = chosen["kind"].to_numpy()
    finding = f"{experiment}: crops it is most and least certain of"
    if known is not None:
        right = known == chosen["stage"].to_numpy()
        parts = []
        for wanted in ("most", "least"):
            rows = (kind == wanted) & (known >= 0)
            if rows.any():
                parts.append(f"{int(right[rows].sum())} of {int(rows.sum())} of its {wanted} certain")
        if parts:
            finding = f"{experiment} is right about {' and '.join(parts)} annotated crops"
    elif len(chosen):
        low = chosen.loc[chosen["kind"] == "least", "probability"]
        finding = f"{experiment}: the likeliest stage of a cell has a probability of"
        least = f" from {100 * low.min():.0f} %" if len(low) else ""
        finding += f"{least} up to {100 * chosen['probability'].max():.0f} %"
    set_headline(figure, finding, note)
    return figure


# Terms of the losses that have a curve.
TERM_TITLES = {
    "simprop": "L_SimProp (nats)",
    "prop": "L_prop (nats)",
    "mse": "MSE of the score (stages²)",
    "dist": "Dist (stages)",
    "supcr": "SupCR (nats)",
    "cell": "cell term",
    "spatial_reconstruction": "reconstruction (1 - cosine)",
    "cross_entropy": "cross-entropy, cell labels (nats)",
}


@styled
def training_curves(histories: pd.DataFrame) -> Figure:
    """Loss terms, learning rate and gradient norm by step: median and range over runs, per experiment.

    Parameters
    ----------
    histories : DataFrame
        Rows of :func:`myostage.figures.views.histories`.
    """
    terms = [term for term in TERM_TITLES if histories[term].notna().any()]
    panels = [*terms, "learning_rate", "gradient_norm"]
    titles = TERM_TITLES | {
        "learning_rate": "learning rate of the head",
        "gradient_norm": "gradient norm before clipping",
    }
    if histories.empty:
        return page("No training curves", "No experiment of this study trains anything.")
    experiments = list(dict.fromkeys(histories["experiment"]))
    # Colours repeat after six series; the dashes tell the repetitions apart.
    style = {name: ("-", "--", "-.", ":")[number // 6 % 4] for number, name in enumerate(experiments)}
    columns = _columns(len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.3 * columns, 2.35 * rows + 1.0)
    grid = np.asarray(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for experiment, colour in zip(experiments, palette.series_colours(len(experiments)), strict=True):
        part = histories[histories["experiment"] == experiment]
        runs = part["run"].nunique()
        for panel, axes in zip(panels, grid, strict=False):
            wide = part.pivot(index="step", columns="run", values=panel).dropna(how="all")
            if wide.empty:
                continue
            if panel != "learning_rate":
                window = max(1, len(wide) // summaries.SMOOTHING)
                wide = wide.rolling(window, min_periods=1, center=True).mean()
            if runs > 1:
                axes.fill_between(
                    wide.index, wide.min(axis=1), wide.max(axis=1), color=colour, alpha=0.18, lw=0
                )
            axes.plot(wide.index, wide.median(axis=1), color=colour, lw=1.4, ls=style[experiment])
            axes.set_title(titles[panel])
            if panel != "learning_rate" and (wide.to_numpy() > 0).any():
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
        later = part.loc[part["phase"] > 0, "step"]
        if len(later):
            for axes in grid[: len(panels)]:
                axes.axvline(later.min(), color=colour, lw=0.8, ls=":")
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("step")
    figure.legend(
        handles=[
            Line2D([], [], color=colour, ls=style[experiment], label=experiment)
            for experiment, colour in zip(experiments, palette.series_colours(len(experiments)), strict=True)
        ],
        loc="outside lower left",
        ncols=min(4, len(experiments)),
        alignment="left",
    )
    note = "Line: median over runs; band: their range; smoothed over 1/40 of the steps."
    if (histories["phase"] > 0).any():
        note += " Dotted: from here the head is fitted on the frozen embedding."
    set_headline(figure, _fall(histories, experiments[0]), note)
    return figure


def _fall(histories: pd.DataFrame, experiment: str) -> str:
    """How far an experiment's loss fell, over its first and last tenth of steps."""
    part = histories[(histories["experiment"] == experiment) & (histories["phase"] == 0)]
    steps = int(part["step"].max()) + 1
    tenth = max(1, steps // 10)
    start = part[part["step"] < tenth].groupby("run")["loss"].mean().median()
    end = part[part["step"] >= steps - tenth].groupby("run")["loss"].mean().median()
    verb = "falls" if end < start else "does not fall:"
    runs = part["run"].nunique()
    many = f"median of {runs} runs" if runs > 1 else "one run"
    return f"{experiment}: its loss {verb} from {start:.2g} to {end:.2g} over {steps:,} steps ({many})"


@styled
def metrics(
    table: pd.DataFrame,
    experiments: Sequence[str] | None = None,
    baselines: Sequence[str] = ("majority",),
    ceilings: Sequence[str] = ("supervised",),
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
    ceilings : sequence of str
        Experiments that see cell labels, drawn as diamonds.
    comparisons, runs : DataFrame, optional
        The COMPARISONS table, for the title; the RUNS table, which tells a failed experiment.
    metric : str
        What the title speaks of, where it was measured.
    """
    whole = selection.take_pooled(table)
    if whole.empty:
        return page("No metrics", NOTHING)
    found = dict.fromkeys(whole["experiment"])
    failed = selection.describe_failures(runs)
    order = [name for name in (experiments or found) if name in found or name in failed]
    table, whole = (rows[rows["experiment"].isin(order)] for rows in (table, whole))
    known = set(whole.loc[whole["value"].notna(), "metric"])
    panels = [name for name in METRICS if name in known]
    columns = _columns(len(panels))
    rows = -(-len(panels) // columns)
    longest = max(len(name) for name in order)
    figure = new_figure(2.75 * columns + 0.075 * longest, rows * (0.75 + 0.25 * len(order)) + 1.1)
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
                axes.text(0.02, place, text, fontsize=7, color="#777", va="center", transform=_rows(axes))
                continue
            row = at[name]
            colour = learnt
            if name in baselines or name in ceilings:
                colour = palette.BASELINE if name in baselines else palette.CEILING
            values = single.loc[single["experiment"] == name, "value"]
            axes.plot(values, np.full(len(values), place + 0.25), ".", color=colour, alpha=0.6, ms=4, mew=0)
            if np.isfinite(row.low) and np.isfinite(row.high):
                axes.hlines(place, row.low, row.high, color=colour, lw=1.8)
            axes.plot(row.value, place, "D" if name in ceilings else "o", color=colour, ms=6)
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
        axes.set_xlabel(record.direction, fontsize=7.5, color=FAINT)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    grid[0].set_yticks(range(len(order)), order)
    grid[0].set_ylim(len(order) - 0.4, -0.6)
    note = "Point and line: value and 95 % interval (bootstrap over slides); small dots: single runs."
    if set(baselines) & set(order):
        note += " Grey: baselines, dashed the best of them."
    if set(ceilings) & set(order):
        note += " Diamond: sees cell labels, a ceiling."
    sizes_of = whole[whole["value"].notna()]
    note += f" n: up to {sizes_of['slides'].max():,} slides and {sizes_of['cells'].max():,} cells."
    spoken = metric if metric in known else panels[0]
    finding = _standing(table, spoken, baselines, ceilings, comparisons)
    set_headline(figure, finding, note)
    return figure


def _rows(axes: Axes) -> Any:
    """x in shares of the axes, y in rows."""
    return axes.get_yaxis_transform()


def _standing(
    table: pd.DataFrame,
    metric: str,
    baselines: Sequence[str],
    ceilings: Sequence[str],
    comparisons: pd.DataFrame | None = None,
) -> str:
    """The best experiment by a metric against the best baseline and ceiling, and against the reference."""
    record = METRICS[metric]
    at = {name: row for name, row in selection.find_measured(table, metric).items() if np.isfinite(row.value)}

    def best(names: Iterable[str]) -> list[str]:
        known = sorted(
            (name for name in names if name in at),
            key=lambda name: at[name].value,
            reverse=record.higher_is_better,
        )
        return known[:1]

    plain = best(name for name in at if name not in baselines and name not in ceilings)
    parts = [f"{name} {at[name]}" for name in (*plain, *best(baselines), *best(ceilings))]
    against = "" if comparisons is None else formatting.describe_to_reference(comparisons, metric, *plain)
    if against:
        parts[0] += f", {against}"
    return f"{record.title[0].upper()}{record.title[1:]}: {'; '.join(parts)}"


@styled
def sizes(cells: pd.DataFrame, groups: Sequence[str], stages: Sequence[str]) -> Figure:
    """Cross-sectional area and minimal Feret diameter per group, on shared bins, stacked by stage.

    Parameters
    ----------
    cells : DataFrame
        ``group``, ``stage`` (-1: none), ``area_um2``, ``min_feret_um``, ``border``. Cells cut by an edge
        are left out: their size is not theirs.
    """
    whole = cells[~cells["border"].astype(bool)]
    groups = [group for group in groups if (whole["group"] == group).any()]
    if not groups:
        return page("No sizes", "No slide holds a cell that is not cut by an edge.")
    panels = {"min_feret_um": "minimal Feret diameter (µm)", "area_um2": "cross-sectional area (µm²)"}
    figure = new_figure(7.5, 1.5 + 0.95 * len(groups))
    grid: Any = figure.subplots(len(groups), 2, squeeze=False, sharex="col")
    colours = [*palette.stage_colours(len(stages)), palette.MISSING]
    for column, (name, title) in enumerate(panels.items()):
        top = float(np.quantile(whole[name], 0.995))
        edges = np.linspace(0, top, 31)
        for axes, group in zip(grid[:, column], groups, strict=True):
            part = whole[whole["group"] == group]
            clipped = part[name].clip(upper=top)
            split = [clipped[part["stage"] == stage] for stage in [*range(len(stages)), -1]]
            share = [np.full(len(one), 1 / len(part)) for one in split]
            axes.hist(
                split, bins=edges, weights=share, stacked=True, color=colours, histtype="stepfilled", lw=0
            )
            axes.axvline(part[name].median(), color="black", lw=1.2)
            axes.set_xlim(0, top)
            axes.yaxis.set_major_locator(MaxNLocator(2))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        highest = max(axes.get_ylim()[1] for axes in grid[:, column])
        for axes in grid[:, column]:
            axes.set_ylim(0, highest)
        grid[-1, column].set_xlabel(title)
    for axes, group in zip(grid[:, 1], groups, strict=True):
        text = f"{group or 'no group'}\nn = {(whole['group'] == group).sum():,}"
        axes.text(1.03, 0.5, text, transform=axes.transAxes, ha="left", va="center")
    figure.supylabel("share of cells", fontsize=9)
    handles: list[Patch | Line2D] = [
        Patch(color=colour, label=stage_name(stage)) for stage, colour in zip(stages, colours, strict=False)
    ]
    if (whole["stage"] < 0).any():
        handles.append(Patch(color=palette.MISSING, label="no stage"))
    handles.append(Line2D([], [], color="black", lw=1.2, label="median"))
    figure.legend(handles=handles, loc="outside lower left", ncols=min(4, len(handles)), alignment="left")
    median = {group: float(whole.loc[whole["group"] == group, "min_feret_um"].median()) for group in groups}
    low, high = min(median, key=median.__getitem__), max(median, key=median.__getitem__)
    finding = f"Median minimal Feret diameter: {median[low]:.0f} µm"
    if len(groups) > 1:
        finding += f" at {low} to {median[high]:.0f} µm at {high}"
    cut = int(cells["border"].sum())
    note = f"{cut:,} cells cut by an edge are left out; the last bin holds all larger cells."
    set_headline(figure, finding, note)
    return figure


@styled
def counts(table: pd.DataFrame) -> Figure:
    """What became of the cells of every slide.

    Parameters
    ----------
    table : DataFrame
        ``slide``, ``status``, ``reason``, ``cells`` (segmented), ``border``, ``crops`` (kept), ``dropped``
        (crops of background), one row per slide.
    """
    count = len(table)
    figure = new_figure(7.5, 1.6 + 0.21 * count)
    axes = figure.subplots()
    place = np.arange(count)
    kept, border = palette.series_colours(1)[0], "black"
    axes.barh(place, table["crops"], color=kept, height=0.75)
    axes.barh(place, table["dropped"], left=table["crops"], color=palette.MISSING, height=0.75)
    axes.plot(table["border"], place, "|", color=border, ms=8, mew=1.6, ls="")
    for row, (status, reason) in enumerate(zip(table["status"], table["reason"], strict=True)):
        if status != "ok":
            axes.text(
                0, row, f" skipped: {reason}", va="center", fontsize=7.5, color=palette.series_colours(2)[1]
            )
    axes.set_yticks(place, table["slide"])
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_xlabel("cells")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(
        handles=[
            Patch(color=kept, label="kept"),
            Patch(color=palette.MISSING, label="dropped: background"),
            Line2D([], [], ls="", marker="|", color=border, ms=8, mew=1.6, label="cut by an edge"),
        ],
        loc="outside lower center",
        ncols=3,
    )
    total, dropped = int(table["cells"].sum()), int(table["dropped"].sum())
    skipped = int((table["status"] != "ok").sum())
    finding = f"{total:,} cells on {count - skipped} slides"
    if total:
        finding += f", {100 * dropped / total:.1f} % dropped as background"
    if skipped:
        finding += f"; {skipped} slide{'s' if skipped > 1 else ''} skipped"
    set_headline(figure, finding)
    return figure

"""Numbers in words and tables: metrics with their intervals, as sentences, HTML and LaTeX."""

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from myostage import tables

# name -> (how it is written, unit, whether more is better)
METRICS: dict[str, tuple[str, str, bool]] = {
    "accuracy": ("accuracy", "", True),
    "rmse": ("RMSE", "stages", False),
    "mae": ("MAE", "stages", False),
    "kappa": ("quadratic kappa", "", True),
    "macro_f1": ("macro-F1", "", True),
    "amae": ("AMAE", "stages", False),
    "rps": ("RPS", "", False),
    "kl": ("KL to the given proportions", "nats", False),
    "l1": ("L1 to the given proportions", "", False),
    "stage_mae": ("MAE of a slide's expected stage", "stages", False),
    "stage_spearman": ("Spearman's rho of slides' expected stages", "", True),
    "stage_w1": ("Wasserstein-1 of slides' expected stages", "stages", False),
    "stage_tail_mae": ("MAE of the rarest third of slides", "stages", False),
    "bag_auroc": ("slide AUROC", "", True),
    "bag_accuracy": ("slide accuracy", "", True),
    "bag_f1": ("slide F1", "", True),
    "bag_kappa": ("slide quadratic kappa", "", True),
    "bag_mae": ("slide MAE", "classes", False),
    "instance_auroc": ("cell AUROC of the attention", "", True),
    "instance_f1": ("cell F1 of the attention", "", True),
    "energy": ("Dirichlet energy of the attention", "per edge", False),
}
# column of RUNS -> (how it is written, unit)
COSTS: dict[str, tuple[str, str]] = {
    "seconds": ("wall time", "s"),
    "cpu_seconds": ("CPU time", "s"),
    "joules": ("energy", "J"),
    "peak_memory_mb": ("peak memory", "MB"),
}
# Beside the name of an experiment in a table.
SEES_LABELS = "†"
FITTED_AFTERWARDS = "‡"


def label(metric: str) -> str:
    """A metric as an axis or a column names it, with its unit."""
    text, unit, _ = METRICS.get(metric, (metric, "", True))
    return f"{text} ({unit})" if unit else text


def short(value: float) -> str:
    """Two decimals without the leading zero: .68, 1.07, -.03; an en dash where there is no value."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:.2f}"
    text = "0.00" if text == "-0.00" else text
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def signed(value: float) -> str:
    """As :func:`short`, with a plus before what is above zero: +.07, -.03, .00."""
    text = short(value)
    return f"+{text}" if value > 0 and text != ".00" else text


def probability(p: float) -> str:
    """Three decimals without the leading zero: .012; ``< .001`` below that; an en dash for none."""
    if not np.isfinite(p):
        return "–"
    return "< .001" if p < 0.0005 else f"{p:.3f}".removeprefix("0")


def with_interval(value: float, low: float, high: float, sign: bool = False) -> str:
    """``.68 [.59, .75]``, or ``+.07 [-.02, +.15]``; the value alone where there is no interval."""
    write = signed if sign else short
    if not (np.isfinite(low) and np.isfinite(high)):
        return write(value)
    return f"{write(value)} [{write(low)}, {write(high)}]"


@dataclass(frozen=True)
class Measured:
    """One metric of one experiment with its interval, and on what it was measured."""

    value: float
    low: float
    high: float
    slides: int
    cells: int

    def __str__(self) -> str:
        return with_interval(self.value, self.low, self.high)


def each(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows of a table as named tuples (untyped: pandas' stubs take a cell for anything)."""
    return iter(frame.itertuples(index=False))


def pooled(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of whole experiments: all folds and seeds together."""
    return metrics[metrics["run"] == ""]


def by_experiment(metrics: pd.DataFrame, metric: str) -> dict[str, Measured]:
    """A metric of every whole experiment, in the table's order."""
    rows = pooled(metrics)
    rows = rows[rows["metric"] == metric]
    fields = (rows[name] for name in ("value", "low", "high", "slides", "cells"))
    return {
        str(experiment): Measured(float(value), float(low), float(high), int(slides), int(cells))
        for experiment, value, low, high, slides, cells in zip(rows["experiment"], *fields, strict=True)
    }


def main_metric(metrics: pd.DataFrame, wanted: str = "accuracy") -> str:
    """The metric to speak of: ``wanted`` where it was measured, else the KL to the given proportions."""
    known = pooled(metrics)
    return wanted if (known.loc[known["value"].notna(), "metric"] == wanted).any() else "kl"


def failures(runs: pd.DataFrame | None) -> dict[str, str]:
    """``failed (2 of 15 runs)`` of every experiment with failed runs; ``runs`` is the RUNS table."""
    if runs is None:
        return {}
    failed = (runs["status"] == "failed").groupby(runs["experiment"], sort=False).agg(["sum", "size"])
    return {str(name): f"failed ({bad} of {count} runs)" for name, bad, count in failed.itertuples() if bad}


def differences(comparisons: pd.DataFrame, metric: str, experiments: Iterable[str]) -> pd.DataFrame:
    """One row per experiment: the difference to what it changes something of, else to the reference.

    Parameters
    ----------
    comparisons : DataFrame
        The COMPARISONS table.
    metric : str
    experiments : iterable of str
        Rows and their order; one without a comparison is missing in all columns but its name.
    """
    rows = comparisons[
        (comparisons["metric"] == metric) & comparisons["family"].isin(["against", "reference"])
    ]
    # "against" comes before "reference".
    rows = rows.sort_values("family", kind="stable").drop_duplicates("experiment").set_index("experiment")
    return rows.reindex(pd.Index(list(experiments), name="experiment")).reset_index()


def to_references(comparisons: pd.DataFrame, metric: str, experiments: Iterable[str]) -> pd.DataFrame:
    """The COMPARISONS rows of a metric with the reference and with the best baseline, in that order."""
    rank = {name: place for place, name in enumerate(experiments)}
    rows = comparisons[(comparisons["metric"] == metric) & comparisons["experiment"].isin(rank)]
    rows = rows[rows["family"].isin(["reference", "baseline"])].reset_index(drop=True)
    order = rows["family"].map({"reference": 0, "baseline": 1}) * len(rank) + rows["experiment"].map(rank)
    return rows.loc[order.sort_values(kind="stable").index].reset_index(drop=True)


def against_reference(comparisons: pd.DataFrame, metric: str, experiment: str) -> str:
    """``+.07 [+.02, +.12] against prop (Holm p .012, 15 pairs)``; empty for the reference itself."""
    rows = comparisons[(comparisons["metric"] == metric) & (comparisons["family"] == "reference")]
    rows = rows[(rows["experiment"] == experiment) & rows["difference"].notna()]
    for row in each(rows):
        difference = with_interval(row.difference, row.low, row.high, sign=True)
        p = probability(row.p_holm)
        return f"{difference} against {row.reference} (Holm p {p}, {row.pairs} pairs)"
    return ""


def difference_table(rows: pd.DataFrame, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Rows of COMPARISONS as text, one per row, indexed by experiment; ``runs`` tells which failed."""
    failed = failures(runs)
    known = rows["difference"].notna()
    text = [
        with_interval(row.difference, row.low, row.high, sign=True)
        if found
        else failed.get(row.experiment, "–")
        for row, found in zip(each(rows), known, strict=True)
    ]
    return pd.DataFrame(
        {
            "reference": rows["reference"].fillna("–").tolist(),
            "difference": text,
            "effect size": rows["effect_size"].map(signed).tolist(),
            "p": rows["p"].map(probability).tolist(),
            "p (Holm)": rows["p_holm"].map(probability).tolist(),
            "minimum detectable": rows["minimum_detectable"].map(short).tolist(),
            "pairs": rows["pairs"].map(_count).tolist(),
            "slides": rows["slides"].map(_count).tolist(),
        },
        index=pd.Index(rows["experiment"].tolist(), name="experiment"),
    )


def _count(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else "–"


def table(
    metrics: pd.DataFrame,
    experiments: Sequence[str] | None = None,
    comparisons: pd.DataFrame | None = None,
    runs: pd.DataFrame | None = None,
    metric: str = "accuracy",
    left_out: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row per experiment, one column per metric, ``value [low, high]`` in each, then how many it is of.

    Parameters
    ----------
    metrics : DataFrame
        The METRICS table.
    experiments : sequence of str, optional
        Rows and their order; by default as they come.
    comparisons : DataFrame, optional
        The COMPARISONS table: adds the difference of ``metric`` to the reference, with its Holm-corrected p.
    runs : DataFrame, optional
        The RUNS table: an experiment without a value says how many of its runs failed.
    metric : str
    left_out : mapping of experiment to reason, optional
        Experiments that could not be run.
    columns : sequence of str, optional
        Metrics and their order, of which those that were measured are shown; by default all.

    Raises
    ------
    ValueError
        A column that is no metric.
    """
    if unknown := sorted(set(columns or ()) - METRICS.keys()):
        raise ValueError(f"{', '.join(unknown)}: no metric; there are {', '.join(METRICS)}")
    rows = pooled(metrics)
    order = list(experiments) if experiments is not None else list(dict.fromkeys(rows["experiment"]))
    names = [name for name in (METRICS if columns is None else columns) if name in set(rows["metric"])]
    out = pd.DataFrame(index=pd.Index(order, name="experiment"))
    for name in names:
        measured = by_experiment(metrics, name)
        out[label(name)] = [str(measured.get(experiment, "–")) for experiment in order]
    absent = {**failures(runs), **dict.fromkeys(left_out or (), "left out")}
    for experiment in order:
        # Said once, in the first column; the others keep their dash.
        if (
            names
            and experiment in absent
            and (out.loc[experiment, [label(name) for name in names]] == "–").all()
        ):
            out.loc[experiment, label(names[0])] = absent[experiment]
    if comparisons is not None:
        out = out.join(_to_reference(comparisons, metric, order))
    shown = rows[rows["metric"].isin(names)].groupby("experiment")[["slides", "cells"]]
    most = shown.max().reindex(order).fillna(0).astype(int)
    out["slides"], out["cells"] = most["slides"], most["cells"].map("{:,}".format)
    out["runs"] = _runs(metrics, order, runs)
    return out


def _to_reference(comparisons: pd.DataFrame, metric: str, order: Sequence[str]) -> pd.DataFrame:
    """Difference to the reference and its p, indexed by experiment; no column where nothing is compared."""
    rows = comparisons[(comparisons["metric"] == metric) & (comparisons["family"] == "reference")]
    if rows.empty:
        return pd.DataFrame(index=list(order))
    reference = rows["reference"].iloc[0]
    text = difference_table(rows)[["difference", "p (Holm)"]].reindex(list(order)).fillna("–")
    if reference in text.index:
        text.loc[reference, "difference"] = "reference"
    return text.rename(columns={"difference": f"{METRICS[metric][0]} minus {reference}"})


def _runs(metrics: pd.DataFrame, order: Sequence[str], runs: pd.DataFrame | None) -> list[str]:
    """How many runs an experiment rests on: ``15``, or ``12 of 15`` where others failed."""
    if runs is None:
        single = metrics[metrics["run"] != ""].groupby("experiment")["run"].nunique()
        return [str(single.get(name, 0)) for name in order]
    right = (runs["status"] == "ok").groupby(runs["experiment"]).agg(["sum", "size"])
    count = right.reindex(list(order)).fillna(0).astype(int)
    return [str(ok) if ok == total else f"{ok} of {total}" for ok, total in each(count)]


def marked(
    rows: pd.DataFrame, ceilings: Iterable[str] = (), fitted_afterwards: Iterable[str] = ()
) -> pd.DataFrame:
    """The rows with a mark beside the experiments that :func:`footnotes` explains."""
    marks = dict.fromkeys(ceilings, SEES_LABELS) | dict.fromkeys(fitted_afterwards, FITTED_AFTERWARDS)
    return rows.rename(index={name: f"{name} {mark}" for name, mark in marks.items()})


def footnotes(
    experiments: Iterable[str],
    ceilings: Iterable[str] = (),
    fitted_afterwards: Iterable[str] = (),
    left_out: Mapping[str, str] | None = None,
) -> str:
    """What the marks beside experiments mean, for those that stand in the table; empty where none does."""
    shown = set(experiments)
    notes = []
    if shown & set(ceilings):
        notes.append(f"{SEES_LABELS} learns from cell labels: a ceiling, not a competitor.")
    if shown & set(fitted_afterwards):
        notes.append(
            f"{FITTED_AFTERWARDS} L_SimProp alone trains no classifier: its head was fitted afterwards by "
            "L_prop on the frozen embedding, from the proportions of bags and no cell label."
        )
    notes += [f"{name} was left out: {reason}." for name, reason in (left_out or {}).items() if name in shown]
    return " ".join(notes)


def quoted_table(quoted: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Published figures as they were published, one row per method and source.

    Parameters
    ----------
    quoted : sequence of mapping
        ``method``, ``metric``, ``value``, ``source``.
    """
    frame = pd.DataFrame(list(quoted), columns=["method", "metric", "value", "source"])
    out = pd.DataFrame(index=pd.MultiIndex.from_frame(frame[["method", "source"]].drop_duplicates()))
    for metric in METRICS:
        rows = frame[frame["metric"] == metric].set_index(["method", "source"])["value"]
        if len(rows):
            text = rows.map(lambda value: f"{value:g}".removeprefix("0")).reindex(out.index).fillna("–")
            out[label(metric)] = text
    return out.reset_index("source")[[*out.columns, "source"]]


@dataclass(frozen=True)
class Spread:
    """What a run of an experiment costs: median, smallest and largest over those that tell it."""

    median: float
    low: float
    high: float
    runs: int

    def __str__(self) -> str:
        if not self.runs:
            return "–"
        return f"{amount(self.median)} ({amount(self.low)} to {amount(self.high)}), n {self.runs}"


def amount(value: float) -> str:
    """A duration, an energy or a size: two digits below ten, whole numbers above."""
    return f"{value:.2g}" if abs(value) < 10 else f"{value:,.0f}"


def costs(runs: pd.DataFrame, experiments: Sequence[str]) -> dict[str, dict[str, Spread]]:
    """What a run costs, by experiment and column of COSTS.

    Failed runs are left out, and those that resumed: theirs is the cost of their last job only.
    """
    whole = runs[(runs["status"] == "ok") & ~resumed(runs)]
    out: dict[str, dict[str, Spread]] = {}
    for name in experiments:
        part = whole[whole["experiment"] == name]
        out[name] = {}
        for column in COSTS:
            known = part[column].dropna().to_numpy(dtype=float)
            median, low, high = np.quantile(known, [0.5, 0, 1]).tolist() if len(known) else [np.nan] * 3
            out[name][column] = Spread(median, low, high, len(known))
    return out


def resumed(runs: pd.DataFrame) -> pd.Series:
    """Whether a run was finished by a job that did fewer steps than the others of its experiment."""
    done = runs["steps"].where(runs["status"] == "ok")
    return done < done.groupby(runs["experiment"]).transform("max")


def cost_table(runs: pd.DataFrame, experiments: Sequence[str]) -> pd.DataFrame:
    """``median (smallest to largest), n`` of every cost that a run tells, and what it ran on."""
    found = costs(runs, experiments)
    failed = failures(runs)
    out = pd.DataFrame(index=pd.Index(list(experiments), name="experiment"))
    for column, (text, unit) in COSTS.items():
        out[f"{text} ({unit})"] = [str(found[name][column]) for name in experiments]
    devices = runs.groupby("experiment")["device"].agg(lambda device: ", ".join(sorted(set(device) - {""})))
    out["device"] = devices.reindex(list(experiments)).fillna("–").replace("", "–")
    out["status"] = [
        failed.get(name, "ok" if name in set(runs["experiment"]) else "–") for name in experiments
    ]
    return out


def headline(
    metrics: pd.DataFrame, baselines: Sequence[str] = ("majority",), ceilings: Sequence[str] = ("supervised",)
) -> list[str]:
    """One plain sentence per experiment that learns from proportions, and where it stands.

    Accuracy where cells are labelled; else the KL between predicted and given proportions.

    Parameters
    ----------
    metrics : DataFrame
        The METRICS table.
    baselines, ceilings : sequence of str
        Experiments to compare with; those the table lacks are left out.
    """
    rows = pooled(metrics)
    if rows.empty:
        return ["No experiment has a held-out slide with a group, so there is nothing to measure."]
    metric = main_metric(metrics)
    at = by_experiment(metrics, metric)
    sentences = []
    # Of many baselines the best alone.
    known = [name for name in baselines if name in at and np.isfinite(at[name].value)]
    choose = max if METRICS[metric][2] else min
    best = [choose(known, key=lambda name: at[name].value)] if known else []
    others = [f"{name} {at[name]}" for name in (*best, *(name for name in ceilings if name in at))]
    for name, row in at.items():
        if name in baselines or name in ceilings:
            continue
        ending = f"; {', '.join(others)}" if others else ""
        sentences.append(
            f"{name}: {METRICS[metric][0]} {row} on {row.cells:,} cells of {row.slides} slides{ending}."
        )
    if not sentences:
        sentences = [f"{METRICS[metric][0]}: {', '.join(others)}."]
    return sentences


def slide_headline(metrics: pd.DataFrame, references: Mapping[str, str], metric: str) -> list[str]:
    """One sentence per label of slides: its reference, and the best and the worst of the others.

    Parameters
    ----------
    metrics : DataFrame
        The METRICS table of models of slide labels.
    references : mapping
        Experiment -> the one that all of the same label are compared with.
    metric : str
        What is told of them.
    """
    at = {name: row for name, row in by_experiment(metrics, metric).items() if np.isfinite(row.value)}
    sign = 1 if METRICS[metric][2] else -1
    sentences = []
    for reference in dict.fromkeys(references.values()):
        ranked = sorted(
            (name for name in at if references.get(name) == reference and name != reference),
            key=lambda name: sign * at[name].value,
        )
        ends = [ranked[-1], ranked[0]] if len(ranked) > 1 else ranked
        parts = [f"{name} {at[name]}" for name in (reference, *ends) if name in at]
        sentences.append(
            f"slides, {METRICS[metric][0]}: {', '.join(parts)}"
            + (f" (the best and the worst of {len(ranked)})." if len(ranked) > 1 else ".")
            if parts
            else f"slides, {METRICS[metric][0]}: not defined for {reference} and what is compared with it."
        )
    return sentences


CAPTION = "Value [95 % interval, bootstrap over slides] on held-out slides, all folds and seeds together."
DIFFERENCES = (
    "Differences: paired over folds and seeds (pairs), interval by bootstrap over slides, p by the corrected "
    "resampled t-test over the pairs and after Holm's correction within its family; effect size: mean over "
    "standard deviation of the paired differences."
)
QUOTED = (
    "As published, on other slides and without interval or n: not to be compared with the rows above as if "
    "measured together."
)
COST = (
    "Median over runs (smallest to largest), n: runs that tell it. Failed and resumed runs are left out. "
    "A dash: the machine did not tell."
)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em; color: #222 }}
h1, ul, caption {{ max-width: 80em }}
div {{ overflow-x: auto; margin-bottom: 2em }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .3em .9em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
thead th {{ border-bottom: 2px solid #444; vertical-align: bottom; white-space: normal }}
caption {{ caption-side: bottom; text-align: left; color: #666; padding-top: .6em }}
</style></head><body><h1>{title}</h1>
<ul>{sentences}</ul>
{tables}
</body></html>
"""

# A table and its caption.
Block = tuple[pd.DataFrame, str]


def further_blocks(
    comparisons: pd.DataFrame | None,
    metric: str,
    experiments: Iterable[str],
    quoted: Sequence[Mapping[str, Any]] = (),
    runs: pd.DataFrame | None = None,
) -> list[Block]:
    """What stands below the main table: differences to reference and best baseline, quoted figures."""
    blocks = []
    if comparisons is not None and len(rows := to_references(comparisons, metric, experiments)):
        blocks.append(
            (difference_table(rows, runs), f"{label(metric)}: experiment minus reference. {DIFFERENCES}")
        )
    if quoted:
        blocks.append((quoted_table(quoted), QUOTED))
    return blocks


def write_html(
    out: str | Path,
    title: str,
    sentences: Sequence[str],
    rows: pd.DataFrame,
    caption: str = CAPTION,
    further: Sequence[Block] = (),
) -> None:
    """Write sentences, a table and further tables below it as one page that needs nothing else."""
    points = "\n".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    blocks = []
    for block, text in ((rows, caption), *further):
        markup = block.reset_index().to_html(index=False, border=0)
        markup = markup.replace("<thead>", f"<caption>{html.escape(text)}</caption><thead>", 1)
        blocks.append(f"<div>{markup}</div>")
    page = _PAGE.format(title=html.escape(title), sentences=points, tables="\n".join(blocks))
    with tables.atomic(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


_LATEX = {
    "\\": r"\textbackslash{}",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    SEES_LABELS: r"\dag{}",
    FITTED_AFTERWARDS: r"\ddag{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def _latex(cell: Any) -> str:
    text = "".join(_LATEX.get(letter, letter) for letter in str(cell))
    # At the start of a row LaTeX would take these for an argument of the line break before.
    return re.sub(r"^(?=[\[*])", "{}", text)


def write_latex(
    out: str | Path, rows: pd.DataFrame, caption: str = CAPTION, further: Sequence[Block] = ()
) -> None:
    """Write tables with their captions below them for LaTeX (needs the package booktabs)."""
    parts = []
    for block, text in ((rows, caption), *further):
        cells = block.reset_index().map(_latex)
        cells.columns = [_latex(column) for column in cells.columns]
        markup = cells.to_latex(index=False, escape=False, column_format="l" + "r" * (cells.shape[1] - 1))
        parts.append(f"{markup}\\par\\smallskip\\noindent{{\\footnotesize {_latex(text)}\\par}}\n")
    with tables.atomic(out) as temporary:
        temporary.write_text("\n\\bigskip\n".join(parts), encoding="utf-8")


def write_csv(out: str | Path, frame: pd.DataFrame, index: bool = False) -> None:
    """Write the numbers behind a figure."""
    with tables.atomic(out) as temporary:
        frame.to_csv(temporary, index=index)

"""Tables and headlines of a study as text: metrics with intervals, differences, costs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from myostage.evaluation import cost, selection
from myostage.evaluation.comparisons import INTERVAL
from myostage.evaluation.convergence import Unconverged
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import NOT_TRUSTED, format_count, format_number, format_p, format_setting

# Beside the name of an experiment in a table.
SEES_LABELS = "†"
FITTED_AFTERWARDS = "‡"
UNCONVERGED = "§"


def describe_to_reference(comparisons: pd.DataFrame, metric: str, experiment: str) -> str:
    """``+.071 [+.021, +.125] against prop (Holm p .012, 15 pairs)``; empty for the reference itself."""
    rows = comparisons[(comparisons["metric"] == metric) & (comparisons["family"] == "reference")]
    rows = rows[(rows["experiment"] == experiment) & rows["difference"].notna()]
    for row in selection.iterate_rows(rows):
        difference = METRICS[metric].format_interval(row.difference, row.low, row.high, sign=True)
        p = format_p(row.p_holm)
        return f"{difference} against {row.reference} (Holm p {p}, {row.pairs} pairs)"
    return ""


def tabulate_differences(rows: pd.DataFrame, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Rows of COMPARISONS as text, one per row, indexed by experiment; ``runs`` tells which failed."""
    failed = selection.describe_failures(runs)
    known = rows["difference"].notna()
    text = [
        METRICS[row.metric].format_interval(row.difference, row.low, row.high, sign=True)
        + ("" if row.trusted or not np.isfinite(row.low) else NOT_TRUSTED)
        if found
        else failed.get(row.experiment, "–")
        for row, found in zip(selection.iterate_rows(rows), known, strict=True)
    ]
    detectable = [
        METRICS[row.metric].format(row.minimum_detectable) if found else "–"
        for row, found in zip(selection.iterate_rows(rows), known, strict=True)
    ]
    by_folds = [
        METRICS[row.metric].format_interval(row.difference, row.low_folds, row.high_folds, sign=True)
        if np.isfinite(row.low_folds)
        else "–"
        for row in selection.iterate_rows(rows)
    ]
    return pd.DataFrame(
        {
            "reference": rows["reference"].fillna("–").tolist(),
            "difference": text,
            "effect size": [format_number(size, sign=True) for size in rows["effect_size"]],
            "p": rows["p"].map(format_p).tolist(),
            "p (Holm)": rows["p_holm"].map(format_p).tolist(),
            "tests": rows["tests"].map(format_count).tolist(),
            "minimum detectable": detectable,
            "t over folds": by_folds,
            "p (corrected t)": rows["p_corrected"].map(format_p).tolist(),
            "noise": rows["method"].fillna("").replace("", "–").tolist(),
            "pairs": rows["pairs"].map(format_count).tolist(),
            "animals": rows["animals"].map(format_count).tolist(),
            "slides": rows["slides"].map(format_count).tolist(),
        },
        index=pd.Index(rows["experiment"].tolist(), name="experiment"),
    )


def tabulate_experiments(
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
    rows = selection.take_pooled(metrics)
    order = list(experiments) if experiments is not None else list(dict.fromkeys(rows["experiment"]))
    names = [name for name in (METRICS if columns is None else columns) if name in set(rows["metric"])]
    out = pd.DataFrame(index=pd.Index(order, name="experiment"))
    for name in names:
        measured = selection.find_measured(metrics, name)
        out[METRICS[name].label] = [str(measured.get(experiment, "–")) for experiment in order]
    absent = {**selection.describe_failures(runs), **dict.fromkeys(left_out or (), "left out")}
    for experiment in order:
        # Said once, in the first column; the others keep their dash.
        if (
            names
            and experiment in absent
            and (out.loc[experiment, [METRICS[name].label for name in names]] == "–").all()
        ):
            out.loc[experiment, METRICS[names[0]].label] = absent[experiment]
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
    text = tabulate_differences(rows)[["difference", "p (Holm)"]].reindex(list(order)).fillna("–")
    if reference in text.index:
        text.loc[reference, "difference"] = "reference"
    return text.rename(columns={"difference": f"{METRICS[metric].title} minus {reference}"})


def _runs(metrics: pd.DataFrame, order: Sequence[str], runs: pd.DataFrame | None) -> list[str]:
    """How many runs an experiment rests on: ``15``, or ``12 of 15`` where others failed."""
    if runs is None:
        single = metrics[metrics["run"] != ""].groupby("experiment")["run"].nunique()
        return [str(single.get(name, 0)) for name in order]
    right = (runs["status"] == "ok").groupby(runs["experiment"]).agg(["sum", "size"])
    count = right.reindex(list(order)).fillna(0).astype(int)
    return [str(ok) if ok == total else f"{ok} of {total}" for ok, total in selection.iterate_rows(count)]


def collect_marks(
    label_learners: Iterable[str] = (),
    fitted_afterwards: Iterable[str] = (),
    unconverged: Iterable[str] = (),
) -> dict[str, str]:
    """Experiment -> the marks beside it, which :func:`explain_marks` explains."""
    marks: dict[str, str] = {}
    for mark, names in (
        (SEES_LABELS, label_learners),
        (FITTED_AFTERWARDS, fitted_afterwards),
        (UNCONVERGED, unconverged),
    ):
        marks |= {name: f"{marks.get(name, '')}{mark}" for name in names}
    return marks


def mark_experiments(rows: pd.DataFrame, marks: Mapping[str, str]) -> pd.DataFrame:
    """The rows with their marks beside the experiments."""
    return rows.rename(index={name: f"{name} {mark}" for name, mark in marks.items()})


def explain_marks(
    experiments: Iterable[str],
    label_learners: Iterable[str] = (),
    fitted_afterwards: Iterable[str] = (),
    left_out: Mapping[str, str] | None = None,
    ceiling: str = "",
    unconverged: Mapping[str, Unconverged] | None = None,
) -> str:
    """What the marks beside experiments mean, for those that stand in the table; empty where none does.

    ``ceiling``: see :func:`myostage.evaluation.selection.find_ceiling`.
    """
    shown = set(experiments)
    notes = []
    if shown & set(label_learners):
        best = f" The ceiling, the best that labels give, is {ceiling}." if ceiling else ""
        notes.append(f"{SEES_LABELS} learns from cell labels, no competitor.{best}")
    if shown & set(fitted_afterwards):
        notes.append(
            f"{FITTED_AFTERWARDS} L_SimProp alone trains no classifier: its head was fitted afterwards by "
            "L_prop on the frozen embedding, from the proportions of bags and no cell label."
        )
    late = {name: how for name, how in (unconverged or {}).items() if name in shown}
    if late:
        each = "; ".join(f"{name}: {how}" for name, how in late.items())
        notes.append(f"{UNCONVERGED} not converged, so that a comparison is one at this budget ({each}).")
    notes += [f"{name} was left out: {reason}." for name, reason in (left_out or {}).items() if name in shown]
    return " ".join(notes)


def tabulate_quoted(quoted: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
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
            text = rows.map(format_setting).reindex(out.index).fillna("–")
            out[METRICS[metric].label] = text
    return out.reset_index("source")[[*out.columns, "source"]]


def tabulate_costs(runs: pd.DataFrame, experiments: Sequence[str]) -> pd.DataFrame:
    """``median (smallest to largest), n`` of every cost that a run tells, and what it ran on."""
    found = cost.summarise_costs(runs, experiments)
    failed = selection.describe_failures(runs)
    out = pd.DataFrame(index=pd.Index(list(experiments), name="experiment"))
    for column, (text, unit) in cost.COSTS.items():
        out[f"{text} ({unit})"] = [str(found[name][column]) for name in experiments]
    devices = runs.groupby("experiment")["device"].agg(lambda device: ", ".join(sorted(set(device) - {""})))
    out["device"] = devices.reindex(list(experiments)).fillna("–").replace("", "–")
    out["status"] = [
        failed.get(name, "ok" if name in set(runs["experiment"]) else "–") for name in experiments
    ]
    return out


def state_results(
    metrics: pd.DataFrame,
    baselines: Sequence[str] = ("majority",),
    label_learners: Sequence[str] = ("supervised",),
) -> list[str]:
    """One plain sentence per experiment that learns from proportions, and where it stands.

    Accuracy where cells are labelled; else the KL between predicted and given proportions.

    Parameters
    ----------
    metrics : DataFrame
        The METRICS table.
    baselines, label_learners : sequence of str
        Experiments to compare with, the best of each; those the table lacks are left out.
    """
    rows = selection.take_pooled(metrics)
    if rows.empty:
        return ["No experiment has a held-out slide with a group, so there is nothing to measure."]
    metric = selection.choose_metric(metrics)
    at = selection.find_measured(metrics, metric)
    sentences = []
    # Of many baselines the best alone.
    known = [name for name in baselines if name in at and np.isfinite(at[name].value)]
    choose = max if METRICS[metric].higher_is_better else min
    best = [choose(known, key=lambda name: at[name].value)] if known else []
    ceiling = selection.find_ceiling(metrics, metric, label_learners)
    others = [f"{name} {at[name]}" for name in best]
    others += [f"the ceiling ({ceiling}) {at[ceiling]}"] if ceiling else []
    for name, row in at.items():
        if name in baselines or name in label_learners:
            continue
        ending = f"; {', '.join(others)}" if others else ""
        sentences.append(
            f"{name}: {METRICS[metric].title} {row} on {row.cells:,} cells of {row.slides} slides{ending}."
        )
    if not sentences:
        sentences = [f"{METRICS[metric].title}: {', '.join(others)}."]
    return sentences


def state_slide_results(metrics: pd.DataFrame, references: Mapping[str, str], metric: str) -> list[str]:
    """One sentence per label of slides: its reference, and the best and the worst of the others.

    Parameters
    ----------
    metrics : DataFrame
        The METRICS table of models of slide labels.
    references : mapping
        Experiment -> the one that all of the same label are compared with.
    metric : str
        What the sentences say of them.
    """
    at = {
        name: row for name, row in selection.find_measured(metrics, metric).items() if np.isfinite(row.value)
    }
    record = METRICS[metric]
    sentences = []
    for reference in dict.fromkeys(references.values()):
        ranked = sorted(
            (name for name in at if references.get(name) == reference and name != reference),
            key=lambda name: record.sign * at[name].value,
        )
        ends = [ranked[-1], ranked[0]] if len(ranked) > 1 else ranked
        parts = [f"{name} {at[name]}" for name in (reference, *ends) if name in at]
        sentences.append(
            f"slides, {record.title}: {', '.join(parts)}"
            + (f" (the best and the worst of {len(ranked)})." if len(ranked) > 1 else ".")
            if parts
            else f"slides, {record.title}: not defined for {reference} and what is compared with it."
        )
    return sentences


CAPTION = f"Value [{INTERVAL}] on held-out slides, all folds and seeds together."
DIFFERENCES = (
    f"Differences: paired by animal, fold and seed, [{INTERVAL}]. p is of the same estimate, then after "
    "Holm's correction for so many tests: the study's question alone, baselines, each sweep and the rest of "
    "each part. Label learners, majorities and random features are not tested. Minimum detectable: at the "
    "corrected level. t over folds: plain t interval of the folds' means. Corrected t: p of the corrected "
    "resampled t-test, for comparison with papers. Effect size: difference over the standard deviation of "
    f"the animals' differences. {NOT_TRUSTED}: not to be trusted, of too few animals or folds."
)
QUOTED = (
    "As published, on other slides and without interval or n: not to be compared with the rows above as if "
    "measured together."
)
COST = (
    "Median over runs (smallest to largest), n: runs that tell it. Failed and resumed runs are left out. "
    "A dash: the machine did not tell."
)

# A table and its caption.
Block = tuple[pd.DataFrame, str]


def collect_blocks(
    comparisons: pd.DataFrame | None,
    metric: str,
    experiments: Iterable[str],
    quoted: Sequence[Mapping[str, Any]] = (),
    runs: pd.DataFrame | None = None,
) -> list[Block]:
    """What stands below the main table: differences to reference and best baseline, quoted figures."""
    blocks = []
    if comparisons is not None and len(
        rows := selection.find_to_references(comparisons, metric, experiments)
    ):
        blocks.append(
            (
                tabulate_differences(rows, runs),
                f"{METRICS[metric].label}: experiment minus reference. {DIFFERENCES}",
            )
        )
    if quoted:
        blocks.append((tabulate_quoted(quoted), QUOTED))
    return blocks

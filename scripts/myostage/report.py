"""Numbers in words and tables: metrics with their intervals, as sentences, HTML and LaTeX."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from myostage import schemas

# name -> (how it is written, unit, whether more is better)
METRICS: dict[str, tuple[str, str, bool]] = {
    "accuracy": ("accuracy", "", True),
    "macro_f1": ("macro-F1", "", True),
    "kappa": ("quadratic kappa", "", True),
    "mae": ("MAE", "stages", False),
    "amae": ("AMAE", "stages", False),
    "rmse": ("RMSE", "stages", False),
    "rps": ("RPS", "", False),
    "kl": ("KL to the given proportions", "nats", False),
    "l1": ("L1 to the given proportions", "", False),
}


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


def with_interval(value: float, low: float, high: float) -> str:
    """``.68 [.59, .75]``; the value alone where there is no interval."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return short(value)
    return f"{short(value)} [{short(low)}, {short(high)}]"


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


def table(metrics: pd.DataFrame, experiments: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per experiment, one column per metric, ``value [low, high]`` in each.

    Parameters
    ----------
    metrics : DataFrame
        The METRICS table.
    experiments : sequence of str, optional
        Rows and their order; by default as they come.
    """
    rows = pooled(metrics)
    order = list(experiments) if experiments is not None else list(dict.fromkeys(rows["experiment"]))
    names = [name for name in METRICS if name in set(rows["metric"])]
    out = pd.DataFrame(index=pd.Index(order, name="experiment"))
    for name in names:
        measured = by_experiment(metrics, name)
        out[label(name)] = [str(measured.get(experiment, "–")) for experiment in order]
    most = rows.groupby("experiment")[["slides", "cells"]].max().reindex(order).fillna(0).astype(int)
    out["slides"], out["cells"] = most["slides"], most["cells"].map("{:,}".format)
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
    metric = "accuracy" if (rows["metric"] == "accuracy").any() else "kl"
    at = by_experiment(metrics, metric)
    sentences = []
    others = [f"{name} {at[name]}" for name in (*baselines, *ceilings) if name in at]
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


CAPTION = "Value [95 % interval, bootstrap over slides] on held-out slides, all folds and seeds together."

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em; color: #222; max-width: 80em }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .3em .9em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
thead th {{ border-bottom: 2px solid #444; vertical-align: bottom; white-space: normal }}
caption {{ caption-side: bottom; text-align: left; color: #666; padding-top: .6em }}
</style></head><body><h1>{title}</h1>
<ul>{sentences}</ul>
{table}
</body></html>
"""


def write_html(out: str | Path, title: str, sentences: Sequence[str], rows: pd.DataFrame) -> None:
    """Write sentences and a table as one page that needs nothing else."""
    points = "\n".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    markup = rows.reset_index().to_html(index=False, border=0)
    markup = markup.replace("<thead>", f"<caption>{html.escape(CAPTION)}</caption><thead>", 1)
    page = _PAGE.format(title=html.escape(title), sentences=points, table=markup)
    with schemas.atomic(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_latex(out: str | Path, rows: pd.DataFrame) -> None:
    """Write a table for LaTeX (needs the package booktabs)."""
    text = rows.reset_index().map(lambda cell: str(cell).replace("–", "--"))
    text.columns = [str(column).replace("_", r"\_") for column in text.columns]
    first = text.columns[0]
    text[first] = text[first].str.replace("_", r"\_")
    markup = text.to_latex(index=False, escape=False, column_format="l" + "r" * (text.shape[1] - 1))
    with schemas.atomic(out) as temporary:
        temporary.write_text(markup, encoding="utf-8")


def write_csv(out: str | Path, frame: pd.DataFrame, index: bool = False) -> None:
    """Write the numbers behind a figure."""
    with schemas.atomic(out) as temporary:
        frame.to_csv(temporary, index=index)

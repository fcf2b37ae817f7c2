"""What a study found of ordinal regression: its terms, whether two of them conflict, latent algebra."""

from dataclasses import replace
from typing import Any

import numpy as np

from myostage.evaluation import algebra, selection
from myostage.evaluation.comparisons import find_side
from myostage.evaluation.metrics import expected_stage
from myostage.evaluation.numbers import (
    format_count,
    format_interval,
    format_number,
    join_words,
)
from myostage.evaluation.summaries import (
    summarise_conflicts,
)
from myostage.learning.term import opposed
from myostage.report.by_metric import (
    Section,
    describe_metrics,
    find_to_reference,
    view_metrics,
)
from myostage.report.findings import (
    Facts,
    describe_design,
)


def describe_regression(facts: Facts) -> Section | None:
    """Whether ordinal regression helps, which terms matter, which oppose each other; latent algebra."""
    labels = facts.structure.regression
    if not labels:
        return None
    # without labelled cells a slide's stage is not known
    views = view_metrics(facts, expected_stage.NAMES, slides=False) or [facts]
    sentences = describe_metrics("ordinal regression", labels, views, expected_stage.NAMES)
    against = {label: other for label, other in facts.structure.against.items() if label in labels}
    if against:
        changes = (f"{label} {_changed(facts, label, other)}" for label, other in against.items())
        sentences.append(f"What each changes: {'; '.join(changes)}.")
    for view in views:
        if not view.family("against").keys() & against.keys():
            continue
        chosen = replace(view.structure, design=list(against))
        sentences.append(" ".join(describe_design(replace(view, structure=chosen))))
    sentences += [*_conflict(facts), *_algebra(facts)]
    rows = [row for view in views[:1] for row in find_to_reference(view, labels)]
    return Section("regression", "Does ordinal regression help?", sentences, rows)


def _changed(facts: Facts, label: str, other: str) -> str:
    """``adds dist to mse``."""
    own, theirs = (facts.structure.losses.get(name, {}) for name in (label, other))
    added, left = ([term for term in a if term not in b] for a, b in ((own, theirs), (theirs, own)))
    if not (added or left):
        return f"changes a setting of {other}"
    parts = [f"adds {join_words(added)} to {other}"] if added else []
    return " and ".join([*parts, *([f"leaves out {join_words(left)} of {other}"] if left else [])])


def _conflict(facts: Facts) -> list[str]:
    """Whether the gradients of supcr and cell oppose each other."""
    if facts.histories is None:
        return []
    sentences = []
    table = summarise_conflicts(facts.histories)
    for row in selection.iterate_rows(table):
        known = np.isfinite([row.low, row.high]).all()
        verdict = "the interval holds 0" if known else "one run has no interval"
        if side := find_side(row.low, row.high):
            verdict = "they pull together" if side > 0 else "they oppose each other"
        alone = "" if known else " without interval"
        sentences.append(
            f"Gradients of supcr and cell in {row.experiment}: mean cosine "
            f"{format_interval(row.cosine, row.low, row.high, sign=True)}{alone}, below 0 at "
            f"{100 * row.below:.0f} % of {format_count(row.steps, 'measured step')} "
            f"({format_count(row.runs, 'run')}): {verdict}."
        )
    both = [label for label, terms in facts.structure.losses.items() if opposed(terms.keys())]
    missing = [label for label in both if label not in set(table["experiment"])]
    if missing:
        sentences.append(f"Gradients of supcr and cell were not measured in {join_words(missing)}.")
    return sentences


def _algebra(facts: Facts) -> list[str]:
    """Whether z_W + z_P of a held-out slide ranks its own z_I first, with and without the cell term."""
    if facts.algebra is None:
        return []
    found = {str(row.experiment): row for row in selection.iterate_rows(algebra.summary(facts.algebra))}
    if not found:
        return ["Latent algebra: no run holds out a healthy slide and at least two injured ones."]
    losses = facts.structure.losses
    groups = {
        True: "Latent algebra with the cell term",
        False: "Latent algebra without the cell term, which is the control",
    }
    sentences = []
    for with_cell, words in groups.items():
        rows = [row for name, row in found.items() if ("cell" in losses.get(name, {})) == with_cell]
        if not rows:
            sentences.append(f"{words}: not measured.")
            continue
        beyond = sum(row.reciprocal_rank_low > row.reciprocal_rank_chance for row in rows)
        parts = [
            f"{row.experiment} {_rank(row)} against {format_number(row.reciprocal_rank_chance)} by chance "
            f"({format_count(row.slides, 'slide')})"
            for row in rows
        ]
        sentences.append(
            f"{words}: z_W + z_P ranks z_I of its own slide beyond chance in {beyond or 'none'} of "
            f"{format_count(len(rows), 'experiment')}; mean reciprocal rank: {'; '.join(parts)}."
        )
    for name, other in facts.structure.against.items():
        terms = [losses.get(one, {}).keys() for one in (name, other)]
        if name in found and other in found and terms[0] - terms[1] == {"cell"} and terms[1] <= terms[0]:
            sentences.append(_worth(found[name], found[other]))
    return sentences


def _rank(row: Any) -> str:
    return format_interval(row.reciprocal_rank, row.reciprocal_rank_low, row.reciprocal_rank_high)


def _worth(own: Any, control: Any) -> str:
    """What the cell term alone does to the rank."""
    if own.reciprocal_rank_low > control.reciprocal_rank_high:
        verdict = "raises the mean reciprocal rank: the intervals lie apart"
    elif own.reciprocal_rank_high < control.reciprocal_rank_low:
        verdict = "lowers the mean reciprocal rank: the intervals lie apart"
    else:
        verdict = "makes no difference to the mean reciprocal rank: the intervals overlap"
    return (
        f"The cell term ({own.experiment} against {control.experiment}) {verdict} ({_rank(own)} and "
        f"{_rank(control)}, {format_count(own.slides, 'slide')})."
    )

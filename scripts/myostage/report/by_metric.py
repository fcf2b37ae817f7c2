"""Sentences on experiments, metric by metric: at how many settings they help, and the best and the worst."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from myostage.evaluation.metrics.attention import ENERGY
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import (
    format_count,
    join_words,
)
from myostage.report.findings import (
    DETECTABLE,
    Difference,
    Facts,
    capitalise,
    describe_difference,
    format_sizes,
)

# what models of slide labels are judged by, after the metric that the study names
SLIDE_METRICS = ("bag_auroc", "instance_auroc", "instance_f1")
# how gains, losses, and the ends of a range are called; smoother attention is no gain in itself
WORDS = ("helps", "hurts", "best", "worst")
ENERGY_WORDS = ("lowers it", "raises it", "smoothest", "roughest")


@dataclass(frozen=True)
class Section:
    """One question: sentences, of which the first answers it, and the differences it rests on."""

    name: str
    title: str
    sentences: Sequence[str]
    differences: Sequence[Difference]


def view_metrics(facts: Facts, metrics: Iterable[str], slides: bool = True) -> list[Facts]:
    """The facts in each metric that was measured; of slides the study's own comes first."""
    structure = facts.structure
    if slides:
        assert facts.slide_metrics is not None and facts.slide_comparisons is not None
        facts = replace(facts, metrics=facts.slide_metrics, comparisons=facts.slide_comparisons)
        metrics = (structure.compare["slide_metric"], *metrics)
    views = {
        name: replace(facts, structure=replace(structure, compare={**structure.compare, "metric": name}))
        for name in dict.fromkeys(metrics)
    }
    return [view for name, view in views.items() if view.metric == name]


def find_to_reference(facts: Facts, labels: Iterable[str]) -> list[Difference]:
    rows = facts.family("reference")
    return [rows[label] for label in labels if label in rows]


def find_controlled(facts: Facts, controls: Mapping[str, str]) -> list[Difference]:
    return [row for label, control in controls.items() if (row := facts.between(label, control))]


def describe_metrics(
    what: str, labels: Sequence[str], views: Sequence[Facts], wanted: Sequence[str]
) -> list[str]:
    """At how many settings it helps or hurts significantly, and the best and the worst, metric by metric."""
    compared_in = {view.metric: (view, rows) for view in views if (rows := find_to_reference(view, labels))}
    if not compared_in:
        return [f"Whether {what} helps cannot be said: nothing was measured and compared."]
    sentences = []
    for view, rows in compared_in.values():
        sentences += count_verdicts(view, what, rows)
        for own in group_by_reference(rows):
            sentences += describe_ends(view, own)
    if missing := [METRICS[name].title for name in wanted if name not in compared_in]:
        sentences.append(f"Not measured, or compared with nothing: {join_words(missing)}.")
    return sentences


def group_by_reference(rows: Iterable[Difference]) -> list[list[Difference]]:
    found: dict[str, list[Difference]] = {}
    for row in rows:
        found.setdefault(row.reference, []).append(row)
    return list(found.values())


def count_verdicts(facts: Facts, what: str, rows: Sequence[Difference]) -> list[str]:
    """At how many settings it is better or worse than each reference, in the metric of ``facts``."""
    better, worse, *_ = ENERGY_WORDS if facts.metric == ENERGY.key else WORDS
    sentences = []
    for own in group_by_reference(rows):
        if len(own) == 1:
            sentences.append(describe_difference(own[0], facts.alpha))
            continue
        verdicts = [row.judge(facts.alpha) for row in own]
        known = [row for row, verdict in zip(own, verdicts, strict=True) if verdict != "not tested"]
        counts = Counter(verdicts)
        parts = [
            f"{better} at {counts['better'] or 'none'} of {format_count(len(own), 'setting')}",
            f"{worse} at {counts['worse'] or 'none'}",
            f"makes no significant difference at {counts['not significant'] or 'none'}",
        ]
        if counts["not tested"]:
            parts.append(f"is not tested at {counts['not tested']}")
        sentences.append(
            f"{capitalise(facts.named)}: {what} {join_words(parts)}, against {own[0].reference} "
            f"({format_sizes(known or own)}{describe_detectable(facts, known)})."
        )
    return sentences


def describe_detectable(facts: Facts, rows: Iterable[Difference]) -> str:
    """The minimum detectable effects of differences that are not significant."""
    effects = (row.minimum_detectable for row in rows if row.judge(facts.alpha) == "not significant")
    found = [value for value in effects if np.isfinite(value)]
    ends = dict.fromkeys(METRICS[facts.metric].format(end(found)) for end in (min, max)) if found else {}
    return f"; {DETECTABLE} {' to '.join(ends)}" if ends else ""


def describe_ends(facts: Facts, rows: Iterable[Difference]) -> list[str]:
    """The best and the worst setting."""
    ordered = sorted((row for row in rows if np.isfinite(row.difference)), key=lambda row: row.gain[0])
    if len(ordered) < 2:
        return []
    *_, best, worst = ENERGY_WORDS if facts.metric == ENERGY.key else WORDS
    return [
        f"The {word} setting is {row.experiment}: {row.evidence}."
        for word, row in ((best, ordered[-1]), (worst, ordered[0]))
    ]

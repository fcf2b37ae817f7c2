"""What a study found of cells' neighbours and of ordinal regression, as plain sentences made from its tables.

As in findings.py, but told of the metrics that these questions are about. A question of which a
study has no experiment has no section.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from myostage.evaluation import algebra, selection
from myostage.evaluation.comparisons import Verdict, find_side
from myostage.evaluation.metrics import expected_stage
from myostage.evaluation.metrics.attention import ENERGY
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import (
    format_count,
    format_interval,
    format_number,
    format_setting,
    join_words,
)
from myostage.evaluation.summaries import (
    LOW_FREQUENCY,
    conflicts,
    correlation,
    mean_interval,
    spectrum_slides,
)
from myostage.learning.term import opposed
from myostage.report.findings import (
    DETECTABLE,
    Difference,
    Facts,
    compared,
    design,
    ended,
    grouped,
    sentence,
    sizes,
)
from myostage.study.config import control_of

SMOOTHING = ("smap", "smtap")
RECONSTRUCTION = "spatial_reconstruction"
# what models of slide labels are told by, after the metric that the study names
SLIDE_METRICS = ("bag_auroc", "instance_auroc", "instance_f1")
BORDER_ENDS = ["correct_low", "correct_high", "correct_low_with", "correct_high_with"]
# how gains, losses, and the ends of a range are told; smoother attention is no gain in itself
WORDS = ("helps", "hurts", "best", "worst")
ENERGY_WORDS = ("lowers it", "raises it", "smoothest", "roughest")
# of true minus permuted coordinates
SPACE: dict[Verdict, str] = {
    "better": "uses where cells lie",
    "worse": "worse with true coordinates",
    "not significant": "no significant use of where cells lie",
    "not tested": "not tested",
}
RULES = (
    "What uses neighbours, and ordinal regression, is judged by this rule too, in each metric that is named; "
    "less energy is smoother attention, which is no gain in itself. smtap and srmil differ from a reference "
    "without Sm by their layers too. An experiment uses where cells lie only "
    "where it is better with true than with permuted coordinates. A rho, a "
    "cosine or a rank differs from 0, or from chance, where its interval excludes it."
)


@dataclass(frozen=True)
class Section:
    """One question: sentences, of which the first answers it, and the differences it rests on."""

    name: str
    title: str
    sentences: Sequence[str]
    differences: Sequence[Difference]


def sections(facts: Facts) -> list[Section]:
    """The questions that the study asks."""
    return [
        section for asked in (smoothing, spatial, regression, stages) if (section := asked(facts)) is not None
    ]


def ran(facts: Facts) -> list[str]:
    """What was run on labels of slides, beside what stages cells."""
    if facts.slide_runs is None or not facts.structure.parts:
        return []
    return ended(facts.slide_runs, int(facts.slide_runs["fold"].nunique()), " on labels of slides")


def smoothing(facts: Facts) -> Section | None:
    """Whether smoothing attention helps, by setting; its spectrum; where at a border it errs."""
    labels = [label for label, model in facts.models.items() if model in SMOOTHING]
    if facts.slide_structure is None or not labels:
        return None
    references = facts.slide_structure.references
    blind = {references[label] for label in labels} & set(labels)
    judged = [label for label in labels if references[label] not in blind]
    wanted = (*SLIDE_METRICS, ENERGY.key)
    views = _views(facts, wanted)
    sentences = _by_metric("smoothing attention", judged, views, wanted) if judged else []
    sentences += [
        f"{reference} smooths attention itself, so what is compared with it does not tell whether that helps."
        for reference in sorted(blind)
    ]
    sentences += [*_spectrum(facts), *_borders(facts)]
    rows = [row for view in views[:1] for row in _to_reference(view, judged)]
    return Section("smoothing", "Does smoothing attention help?", sentences, rows)


def spatial(facts: Facts) -> Section | None:
    """Whether spatial regularisation helps, and whether it uses where cells lie."""
    known = facts.slide_structure
    controls = known.controls if known else {}
    learnt = {label for label, terms in facts.structure.losses.items() if RECONSTRUCTION in terms}
    of_cells = {label: control_of(label) for label in facts.structure.losses if control_of(label) in learnt}
    free = [
        label
        for label, model in facts.models.items()
        if model == "srmil" and label not in {*controls, *controls.values()}
    ]
    if not (controls or of_cells):
        return None
    sentences: list[str] = []
    differences: list[Difference] = []
    if controls:
        views = _views(facts, SLIDE_METRICS)
        sentences += _by_metric("spatial regularisation", list(controls), views, SLIDE_METRICS)
        for view in views:
            without = [
                f"Without reconstruction {compared(row, view.alpha)}" for row in _to_reference(view, free)
            ]
            rows = (view.between(one, other) for one in controls for other in free)
            sentences += [*without, *(compared(row, view.alpha) for row in rows if row)]
            sentences += _space(view, "SRMIL", controls)
            differences = differences or [
                *_to_reference(view, list(controls)),
                *_controlled(view, controls),
            ]
    if of_cells:
        sentences += _space(facts, "OSLSP", of_cells)
        start = _without_neighbours(facts)
        for label in of_cells:
            row = facts.between(label, start) if start else None
            sentences.append(
                compared(row, facts.alpha) if row else f"{label} was not compared with L_prop alone."
            )
    title = "Does spatial regularisation help, and does it use space?"
    return Section("spatial", title, sentences, differences)


def regression(facts: Facts) -> Section | None:
    """Whether ordinal regression helps, which terms matter, which oppose each other; latent algebra."""
    labels = facts.structure.regression
    if not labels:
        return None
    # without labelled cells a slide's stage is not known
    views = _views(facts, expected_stage.NAMES, slides=False) or [facts]
    sentences = _by_metric("ordinal regression", labels, views, expected_stage.NAMES)
    against = {label: other for label, other in facts.structure.against.items() if label in labels}
    if against:
        changes = (f"{label} {_changed(facts, label, other)}" for label, other in against.items())
        sentences.append(f"What each changes: {'; '.join(changes)}.")
    for view in views:
        if not view.family("against").keys() & against.keys():
            continue
        chosen = replace(view.structure, design=list(against))
        sentences.append(" ".join(design(replace(view, structure=chosen))))
    sentences += [*_conflict(facts), *_algebra(facts)]
    rows = [row for view in views[:1] for row in _to_reference(view, labels)]
    return Section("regression", "Does ordinal regression help?", sentences, rows)


def stages(facts: Facts) -> Section | None:
    """Whether smoothing stages or embeddings over the graph of cells helps OSLSP."""
    labels = facts.structure.smoothed
    if not labels:
        return None
    rows = [
        row
        for label in labels
        if (row := facts.family("against").get(label) or facts.family("reference").get(label))
    ]
    sentences = _counted(facts, "smoothing stages", rows)
    for own in _by_reference(rows):
        # one alone has been told with its numbers
        sentences += grouped(facts, own) if len(own) > 1 else []
    sentences = sentences or ["Smoothing stages was compared with nothing."]
    return Section("stages", "Does smoothing stages help?", sentences, rows)


def _views(facts: Facts, metrics: Iterable[str], slides: bool = True) -> list[Facts]:
    """The facts as they are told of each metric that was measured; of slides the study's own comes first."""
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


def _to_reference(facts: Facts, labels: Iterable[str]) -> list[Difference]:
    rows = facts.family("reference")
    return [rows[label] for label in labels if label in rows]


def _controlled(facts: Facts, controls: Mapping[str, str]) -> list[Difference]:
    return [row for label, control in controls.items() if (row := facts.between(label, control))]


def _by_metric(what: str, labels: Sequence[str], views: Sequence[Facts], wanted: Sequence[str]) -> list[str]:
    """At how many settings it is better, worse or not told, and the best and the worst, metric by metric."""
    told = {view.metric: (view, rows) for view in views if (rows := _to_reference(view, labels))}
    if not told:
        return [f"Whether {what} helps cannot be said: nothing was measured and compared."]
    sentences = []
    for view, rows in told.values():
        sentences += _counted(view, what, rows)
        for own in _by_reference(rows):
            sentences += _ends(view, own)
    if missing := [METRICS[name].title for name in wanted if name not in told]:
        sentences.append(f"Not measured, or compared with nothing: {join_words(missing)}.")
    return sentences


def _by_reference(rows: Iterable[Difference]) -> list[list[Difference]]:
    found: dict[str, list[Difference]] = {}
    for row in rows:
        found.setdefault(row.reference, []).append(row)
    return list(found.values())


def _counted(facts: Facts, what: str, rows: Sequence[Difference]) -> list[str]:
    """At how many settings it is better or worse than each reference, in the metric of ``facts``."""
    better, worse, *_ = ENERGY_WORDS if facts.metric == ENERGY.key else WORDS
    sentences = []
    for own in _by_reference(rows):
        if len(own) == 1:
            sentences.append(compared(own[0], facts.alpha))
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
            f"{sentence(facts.named)}: {what} {join_words(parts)}, against {own[0].reference} "
            f"({sizes(known or own)}{_detectable(facts, known)})."
        )
    return sentences


def _detectable(facts: Facts, rows: Iterable[Difference]) -> str:
    """The minimum detectable effects of differences that are not significant."""
    told = (row.minimum_detectable for row in rows if row.judge(facts.alpha) == "not significant")
    found = [value for value in told if np.isfinite(value)]
    ends = dict.fromkeys(METRICS[facts.metric].format(end(found)) for end in (min, max)) if found else {}
    return f"; {DETECTABLE} {' to '.join(ends)}" if ends else ""


def _ends(facts: Facts, rows: Iterable[Difference]) -> list[str]:
    """The best and the worst setting."""
    ordered = sorted((row for row in rows if np.isfinite(row.difference)), key=lambda row: row.gain[0])
    if len(ordered) < 2:
        return []
    *_, best, worst = ENERGY_WORDS if facts.metric == ENERGY.key else WORDS
    return [
        f"The {word} setting is {row.experiment}: {row.evidence}."
        for word, row in ((best, ordered[-1]), (worst, ordered[0]))
    ]


def _space(facts: Facts, of: str, controls: Mapping[str, str]) -> list[str]:
    """Whether experiments use where cells lie, against their controls, in the metric of ``facts``."""
    rows = _controlled(facts, controls)
    start = f"{of}, {facts.named}, true minus permuted coordinates"
    sentences = []
    for verdict, words in SPACE.items():
        own = [row for row in rows if row.judge(facts.alpha) == verdict]
        parts = [f"{row.experiment} {row.interval}" for row in own]
        if own:
            sentences.append(f"{start}: {words} ({sizes(own)}{_detectable(facts, own)}): {'; '.join(parts)}.")
    missing = [label for label in controls if label not in {row.experiment for row in rows}]
    return sentences + ([f"{start}: {join_words(missing)} could not be compared."] if missing else [])


def _without_neighbours(facts: Facts) -> str | None:
    """The experiment that learns by L_prop alone, and smooths nothing."""
    structure = facts.structure
    own = structure.losses.get(structure.reference, {}).keys() == {"prop"}
    return (
        structure.reference
        if own and structure.reference not in structure.smoothed
        else structure.ordinal.get("without")
    )


def _changed(facts: Facts, label: str, other: str) -> str:
    """``adds dist to mse``."""
    own, theirs = (facts.structure.losses.get(name, {}) for name in (label, other))
    added, left = ([term for term in a if term not in b] for a, b in ((own, theirs), (theirs, own)))
    if not (added or left):
        return f"changes a setting of {other}"
    parts = [f"adds {join_words(added)} to {other}"] if added else []
    return " and ".join([*parts, *([f"leaves out {join_words(left)} of {other}"] if left else [])])


def _spectrum(facts: Facts) -> list[str]:
    """Share of the power of attention in low frequencies, and how that goes with localisation."""
    if facts.spectrum is None:
        return []
    slides = spectrum_slides(facts.spectrum)
    sentences = []
    for name in dict.fromkeys(slides["experiment"]):
        part = slides[slides["experiment"] == name].set_index("slide")
        shares = part.pivot(columns="signal", values="low_share").reindex(columns=["raw", "smoothed"])
        shares = shares.dropna()
        if shares.empty:
            sentences.append(f"Attention of {name} has no spectrum: it is constant on every slide.")
            continue
        raw, smoothed = shares["raw"], shares["smoothed"]
        sentences.append(
            f"Attention of {name}: the share of its power below eigenvalue "
            f"{format_setting(LOW_FREQUENCY)} is {_mean(raw)} as the model gives it and "
            f"{_mean(smoothed)} smoothed by Sm, a difference of {_mean(smoothed - raw, True)} "
            f"({format_count(len(shares), 'slide')})."
        )
        own = part[part["signal"] == "raw"]
        rho = correlation(own["low_share"], own["instance_auroc"])
        auroc = METRICS["instance_auroc"].title
        of = f"Spearman's rho of that share and {auroc} over slides of {name}"
        told = "its interval excludes 0" if find_side(rho.low, rho.high) else "its interval holds 0"
        sentences.append(
            f"{of} is {rho} ({format_count(rho.slides, 'slide')}), {told}."
            if np.isfinite(rho.value)
            else f"{of} cannot be said ({format_count(rho.slides, 'slide')} with cells of both kinds)."
        )
    return sentences


def _mean(values: pd.Series, sign: bool = False) -> str:
    mean, low, high = (float(one) for one in mean_interval(values))
    return format_interval(mean, low, high, sign=sign)


def _borders(facts: Facts) -> list[str]:
    """In which bands of distance to the border of the injured region smoothing is worse, or better."""
    table = facts.borders
    if table is None:
        return []
    table = table[table["correct"].notna()]
    names = list(dict.fromkeys(table["experiment"]))
    without = next((name for name in names if facts.models.get(name) not in SMOOTHING), None)
    kinds = [kind for kind in ("sharp", "diffuse") if kind in set(table["border"])] or ["all"]
    sentences = []
    for kind in kinds:
        rows = table[table["border"] == kind]
        for name in names:
            if name == without or facts.models.get(name) not in SMOOTHING:
                continue
            start, own = (rows[rows["experiment"] == one] for one in (without, name))
            both = start.merge(own, on=["low_um", "high_um"], suffixes=("", "_with"))
            known = both.dropna(subset=BORDER_ENDS)
            if known.empty:
                continue
            fewer = _bands(known[known["correct_high_with"] < known["correct_low"]])
            more = _bands(known[known["correct_low_with"] > known["correct_high"]])
            sentences.append(
                f"At {kind} borders, by intervals that lie apart, {name} tells fewer cells rightly than "
                f"{without} {fewer}, and more {more} ({len(known)} of "
                f"{format_count(len(both), 'band')} of distance judged, "
                ""
                f"{format_count(int(known['cells'].sum()), 'cell')} of up to "
                f"{format_count(int(known['slides'].max()), 'slide')})."
            )
    return sentences or ["At no border of the injured region could smoothing be compared with its absence."]


def _bands(rows: pd.DataFrame) -> str:
    """``in 1 band (0 to 40 µm: .55 [.50, .60] against .71 [.66, .76])``, or ``in none``; rows of both."""
    if rows.empty:
        return "in none"
    parts = []
    for row in selection.iterate_rows(rows):
        where = f"{row.low_um:g} to {row.high_um:g} µm"
        where = f"beyond {row.low_um:g} µm outside" if np.isinf(row.high_um) else where
        where = f"beyond {abs(row.high_um):g} µm inside" if np.isinf(row.low_um) else where
        own = format_interval(row.correct_with, row.correct_low_with, row.correct_high_with)
        theirs = format_interval(row.correct, row.correct_low, row.correct_high)
        parts.append(f"{where}: {own} against {theirs}")
    return f"in {format_count(len(rows), 'band')} ({'; '.join(parts)})"


def _conflict(facts: Facts) -> list[str]:
    """Whether the gradients of supcr and cell oppose each other."""
    if facts.histories is None:
        return []
    sentences = []
    table = conflicts(facts.histories)
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

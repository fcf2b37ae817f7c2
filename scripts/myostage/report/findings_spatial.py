"""What a study found of adjacent cells: smoothing attention or stages over their graph, regularisation.

A question of which a study has no experiment has no section.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from myostage.evaluation import selection
from myostage.evaluation.comparisons import Verdict, find_side
from myostage.evaluation.intervals import find_mean
from myostage.evaluation.metrics.attention import ENERGY
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import (
    format_count,
    format_interval,
    format_setting,
    join_words,
)
from myostage.evaluation.summaries import (
    LOW_FREQUENCY,
    correlate,
    summarise_spectra,
)
from myostage.report.by_metric import (
    SLIDE_METRICS,
    Section,
    count_verdicts,
    describe_detectable,
    describe_metrics,
    find_controlled,
    find_to_reference,
    group_by_reference,
    view_metrics,
)
from myostage.report.findings import (
    Difference,
    Facts,
    describe_difference,
    describe_differences,
    format_sizes,
)
from myostage.study.expand import control_of

SMOOTHING = ("smap", "smtap")
RECONSTRUCTION = "spatial_reconstruction"
BORDER_ENDS = ["correct_low", "correct_high", "correct_low_with", "correct_high_with"]
# of true minus permuted coordinates
SPACE: dict[Verdict, str] = {
    "better": "uses where cells lie",
    "worse": "worse with true coordinates",
    "not significant": "no significant use of where cells lie",
    "not tested": "not tested",
}


def describe_smoothing(facts: Facts) -> Section | None:
    """Whether smoothing attention helps, by setting; its spectrum; where at a border it errs."""
    labels = [label for label, model in facts.models.items() if model in SMOOTHING]
    if facts.slide_structure is None or not labels:
        return None
    references = facts.slide_structure.references
    blind = {references[label] for label in labels} & set(labels)
    judged = [label for label in labels if references[label] not in blind]
    wanted = (*SLIDE_METRICS, ENERGY.key)
    views = view_metrics(facts, wanted)
    sentences = describe_metrics("smoothing attention", judged, views, wanted) if judged else []
    sentences += [
        f"{reference} smooths attention itself, so what is compared with it does not tell whether that helps."
        for reference in sorted(blind)
    ]
    sentences += [*_spectrum(facts), *_borders(facts)]
    rows = [row for view in views[:1] for row in find_to_reference(view, judged)]
    return Section("smoothing", "Does smoothing attention help?", sentences, rows)


def describe_spatial(facts: Facts) -> Section | None:
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
        views = view_metrics(facts, SLIDE_METRICS)
        sentences += describe_metrics("spatial regularisation", list(controls), views, SLIDE_METRICS)
        for view in views:
            without = [
                f"Without reconstruction {describe_difference(row, view.alpha)}"
                for row in find_to_reference(view, free)
            ]
            rows = (view.between(one, other) for one in controls for other in free)
            sentences += [*without, *(describe_difference(row, view.alpha) for row in rows if row)]
            sentences += _space(view, "SRMIL", controls)
            differences = differences or [
                *find_to_reference(view, list(controls)),
                *find_controlled(view, controls),
            ]
    if of_cells:
        sentences += _space(facts, "OSLSP", of_cells)
        start = _without_neighbours(facts)
        for label in of_cells:
            row = facts.between(label, start) if start else None
            sentences.append(
                describe_difference(row, facts.alpha)
                if row
                else f"{label} was not compared with L_prop alone."
            )
    title = "Does spatial regularisation help, and does it use space?"
    return Section("spatial", title, sentences, differences)


def describe_stage_smoothing(facts: Facts) -> Section | None:
    """Whether smoothing stages or embeddings over the graph of cells helps OSLSP."""
    labels = facts.structure.smoothed
    if not labels:
        return None
    rows = [
        row
        for label in labels
        if (row := facts.family("against").get(label) or facts.family("reference").get(label))
    ]
    sentences = count_verdicts(facts, "smoothing stages", rows)
    for own in group_by_reference(rows):
        # a single experiment was described with its numbers
        sentences += describe_differences(facts, own) if len(own) > 1 else []
    sentences = sentences or ["Smoothing stages was compared with nothing."]
    return Section("stages", "Does smoothing stages help?", sentences, rows)


def _space(facts: Facts, of: str, controls: Mapping[str, str]) -> list[str]:
    """Whether experiments use where cells lie, against their controls, in the metric of ``facts``."""
    rows = find_controlled(facts, controls)
    start = f"{of}, {facts.named}, true minus permuted coordinates"
    sentences = []
    for verdict, words in SPACE.items():
        own = [row for row in rows if row.judge(facts.alpha) == verdict]
        parts = [f"{row.experiment} {row.interval}" for row in own]
        if own:
            detectable = describe_detectable(facts, own)
            sentences.append(f"{start}: {words} ({format_sizes(own)}{detectable}): {'; '.join(parts)}.")
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


def _spectrum(facts: Facts) -> list[str]:
    """Share of the power of attention in low frequencies, and how that goes with localisation."""
    if facts.spectrum is None:
        return []
    slides = summarise_spectra(facts.spectrum)
    sentences = []
    for name in dict.fromkeys(slides["experiment"]):
        part = slides[slides["experiment"] == name].set_index(["slide", "animal"])
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
        rho = correlate(own["low_share"], own["instance_auroc"], own.index.get_level_values("animal"))
        auroc = METRICS["instance_auroc"].title
        of = f"Spearman's rho of that share and {auroc} over slides of {name}"
        told = "its interval excludes 0" if find_side(rho.low, rho.high) else "its interval holds 0"
        told = told if np.isfinite(rho.low) else "without interval"
        sentences.append(
            f"{of} is {rho} ({format_count(rho.slides, 'slide')}), {told}."
            if np.isfinite(rho.value)
            else f"{of} cannot be said ({format_count(rho.slides, 'slide')} with cells of both kinds)."
        )
    return sentences


def _mean(values: pd.Series, sign: bool = False) -> str:
    mean, low, high = (float(one) for one in find_mean(values, values.index.get_level_values("animal")))
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

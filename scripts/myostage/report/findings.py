"""What a study found, as plain sentences made from its tables.

One function per question. A question that the study does not ask, or cannot answer, gets a sentence that says
so; no number stands without its interval and what it was measured on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from myostage.evaluation import cost as costs
from myostage.evaluation import selection
from myostage.evaluation.comparisons import Verdict, judge
from myostage.evaluation.convergence import TOLERATED, Unconverged, find_unconverged
from myostage.evaluation.experiments import GROUP, PRIOR
from myostage.evaluation.intervals import find_lack
from myostage.evaluation.measured import Measured
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import (
    NOT_TRUSTED,
    format_count,
    format_interval,
    format_number,
    format_p,
    format_setting,
    join_words,
)
from myostage.study.structure import SlideStructure, Structure

DETECTABLE = "minimum detectable effect"
# OSLSP, arXiv 2505.04150: sigma; bins of its released code
PAPER = {"sigma": 0.1, "bins": 6}


@dataclass(frozen=True)
class Difference:
    """One row of COMPARISONS: experiment minus reference, with what is needed to judge it."""

    experiment: str
    reference: str
    metric: str
    difference: float
    low: float
    high: float
    pairs: int
    slides: int
    effect_size: float
    p_holm: float
    minimum_detectable: float
    low_folds: float
    high_folds: float
    trusted: bool
    animals: int
    animals_needed: float

    @property
    def turned(self) -> "Difference":
        """The same seen from the reference."""
        return replace(
            self,
            experiment=self.reference,
            reference=self.experiment,
            difference=-self.difference,
            low=-self.high,
            high=-self.low,
            effect_size=-self.effect_size,
            low_folds=-self.high_folds,
            high_folds=-self.low_folds,
        )

    @property
    def gain(self) -> tuple[float, float, float]:
        """Difference, low, high, signed so that more is better."""
        if METRICS[self.metric].higher_is_better:
            return self.difference, self.low, self.high
        return -self.difference, -self.high, -self.low

    def judge(self, alpha: float) -> Verdict:
        return judge(self.metric, self.difference, self.p_holm, alpha)

    @property
    def interval(self) -> str:
        """``+.031 [+.012, +.050]``."""
        text = METRICS[self.metric].format_interval(self.difference, self.low, self.high, sign=True)
        if not np.isfinite([self.low, self.high]).all():
            return f"{text} without interval"
        return text if self.trusted else f"{text}{NOT_TRUSTED}"

    @property
    def by_folds(self) -> str:
        """``[+.004, +.058]`` by the plain t over folds; a dash where there is none."""
        ends = (METRICS[self.metric].format(end, sign=True) for end in (self.low_folds, self.high_folds))
        return f"[{', '.join(ends)}]" if np.isfinite(self.low_folds) else "–"

    @property
    def size(self) -> str:
        """``15 pairs, 31 slides``."""
        return f"{format_count(self.pairs, 'pair')}, {format_count(self.slides, 'slide')}"

    @property
    def evidence(self) -> str:
        """Everything known of it, in one phrase."""
        parts = [f"{METRICS[self.metric].title} {self.interval}", self.size]
        if np.isfinite(self.effect_size):
            parts.append(f"effect size {format_number(self.effect_size)}")
        parts.append(
            f"Holm-adjusted p {_equal(format_p(self.p_holm))}" if np.isfinite(self.p_holm) else "not tested"
        )
        return "; ".join(parts)

    @property
    def detectable(self) -> str:
        """``minimum detectable effect .027``, or nothing where that is unknown."""
        if not np.isfinite(self.minimum_detectable):
            return ""
        return f"{DETECTABLE} {METRICS[self.metric].format(self.minimum_detectable)}"


@dataclass(frozen=True)
class Facts:
    """The tables of a study and what its experiments are for.

    Parameters
    ----------
    structure : Structure
        Which experiment plays which part.
    splits, metrics, comparisons, runs : DataFrame
        The tables of these names (see tables.py).
    correlations : DataFrame, optional
        CORRELATIONS; none where no cell is labelled.
    figures : sequence of (str, Path)
        Title and PNG of every figure; SVG and CSV lie beside it.
    unused : mapping of str to str, optional
        Slides that are left out because they cannot be used, and why.
    slide_structure : SlideStructure, optional
        The same of models of slide labels; none where there are none, nor of their tables.
    models : mapping of str to str, optional
        Label of an experiment on labels of slides -> its ``mil.model``.
    slide_metrics, slide_comparisons, slide_runs : DataFrame, optional
        Their METRICS, COMPARISONS and RUNS.
    spectrum, borders, algebra : DataFrame, optional
        The tables of these names.
    choices : DataFrame, optional
        CHOICES; none where no run chose its settings.
    wrong_tables : DataFrame, optional
        WRONG_TABLES; none where no experiment is measured with a prior.
    histories : DataFrame, optional
        Rows of :func:`views.histories` of the experiments that learn with both supcr and cell.
    """

    structure: Structure
    splits: pd.DataFrame
    metrics: pd.DataFrame
    comparisons: pd.DataFrame
    runs: pd.DataFrame
    correlations: pd.DataFrame | None = None
    figures: Sequence[tuple[str, Path]] = ()
    unused: Mapping[str, str] = field(default_factory=dict)
    slide_structure: SlideStructure | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    slide_metrics: pd.DataFrame | None = None
    slide_comparisons: pd.DataFrame | None = None
    slide_runs: pd.DataFrame | None = None
    spectrum: pd.DataFrame | None = None
    borders: pd.DataFrame | None = None
    algebra: pd.DataFrame | None = None
    choices: pd.DataFrame | None = None
    wrong_tables: pd.DataFrame | None = None
    histories: pd.DataFrame | None = None

    @cached_property
    def metric(self) -> str:
        """What is spoken of: ``compare.metric`` where it was measured, else the KL."""
        return selection.choose_metric(self.metrics, self.structure.compare["metric"])

    @property
    def named(self) -> str:
        """The metric in words."""
        return METRICS[self.metric].title

    @cached_property
    def ceiling(self) -> str:
        return selection.find_ceiling(self.metrics, self.metric, self.structure.label_learners)

    def name(self, label: str) -> str:
        """A label, with what must be known of it."""
        known = []
        if label in self.structure.label_learners:
            known.append("the ceiling, sees cell labels" if label == self.ceiling else "sees cell labels")
        if label in self.structure.fitted_afterwards:
            known.append("head fitted afterwards")
        if label in self.unconverged:
            known.append("not converged")
        return f"{label} ({', '.join(known)})" if known else label

    @cached_property
    def unconverged(self) -> dict[str, Unconverged]:
        return find_unconverged(self.runs)

    @property
    def alpha(self) -> float:
        return float(self.structure.compare["alpha"])

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """The metric of every experiment."""
        return selection.find_measured(self.metrics, self.metric)

    @cached_property
    def _found(self) -> dict[str, dict[str, Difference]]:
        names = list(Difference.__dataclass_fields__)
        rows = self.comparisons[self.comparisons["metric"] == self.metric]
        found: dict[str, dict[str, Difference]] = {
            family: {} for family in ("reference", "against", "baseline", PRIOR, GROUP)
        }
        for family, *values in rows[["family", *names]].itertuples(index=False, name=None):
            difference = Difference(*values)
            found[str(family)][difference.experiment] = difference
        return found

    def family(self, name: str) -> dict[str, Difference]:
        """Differences of one family by experiment, in the table's order."""
        return self._found[name]

    def between(self, experiment: str, reference: str) -> Difference | None:
        """Experiment minus reference, whichever of the two the table has as the reference."""
        for rows in self._found.values():
            for row in rows.values():
                if (row.experiment, row.reference) == (experiment, reference):
                    return row
                if (row.reference, row.experiment) == (experiment, reference):
                    return row.turned
        return None

    def to_plain(self, label: str) -> Difference | None:
        """Difference to the experiment without the ordinal term, or else to the reference."""
        plain = self.structure.ordinal.get("without")
        found = self.between(label, plain) if plain else None
        return found or self.family("reference").get(label)


def _equal(text: str) -> str:
    return text if text.startswith("<") else f"= {text}"


def capitalise(text: str) -> str:
    """The text with a capital letter."""
    return text[0].upper() + text[1:]


def describe_difference(difference: Difference, alpha: float) -> str:
    """One difference as a sentence, by its verdict."""
    verb: dict[Verdict, str] = {
        "better": "is better than",
        "worse": "is worse than",
        "not significant": "does not differ significantly from",
        "not tested": "is not tested against",
    }
    verdict = difference.judge(alpha)
    text = f"{difference.experiment} {verb[verdict]} {difference.reference}: {difference.evidence}"
    if verdict == "not significant" and difference.detectable:
        text += f"; {difference.detectable}"
    return f"{text}."


def describe_differences(facts: Facts, differences: Sequence[Difference]) -> list[str]:
    """Differences to one reference, a sentence per verdict, largest first."""
    sentences = []
    start: dict[Verdict, str] = {
        "better": "Better than {}",
        "worse": "Worse than {}",
        "not significant": "Not significantly different from {}",
        "not tested": "Not tested against {}",
    }
    for verdict, words in start.items():
        rows = [row for row in sort_by_size(differences) if row.judge(facts.alpha) == verdict]
        if rows:
            sentences.append(_describe_group(facts, words.format(rows[0].reference), rows))
    return sentences


def _describe_group(facts: Facts, words: str, rows: Sequence[Difference]) -> str:
    """Rows of one verdict; those that are not significant by their minimum detectable effect."""
    if rows[0].judge(facts.alpha) == "not significant":
        parts = [
            f"{facts.name(row.experiment)} {METRICS[row.metric].format(row.minimum_detectable)}"
            for row in rows
        ]
        words += f" ({format_sizes(rows)}), each with its {DETECTABLE}"
    else:
        parts = [f"{facts.name(row.experiment)} {row.interval}" for row in rows]
        words += f" ({format_sizes(rows)})"
    return f"{words}: {'; '.join(parts)}."


def sort_by_size(differences: Iterable[Difference]) -> list[Difference]:
    """Largest first; without a number last."""
    return sorted(differences, key=lambda row: -np.nan_to_num(abs(row.difference), nan=-1.0))


def describe_study(facts: Facts) -> list[str]:
    """What was run, what failed and what was left out."""
    structure, runs = facts.structure, facts.runs
    learnt = facts.splits[facts.splits["fold"] >= 0]
    folds = learnt["fold"].nunique()
    size = (
        f"{format_count(len(learnt), 'slide')} of {format_count(learnt['animal'].nunique(), 'animal')}, "
        f"{format_count(int(learnt['cells'].sum()), 'cell')}, {format_count(folds, 'fold')}"
    )
    sentences = [f"Study {structure.study}: {size}; stages {' < '.join(structure.stages)}."]
    rest = len(facts.splits) - len(learnt)
    if rest:
        sentences.append(
            f"{format_count(rest, 'more slide')} {'is' if rest == 1 else 'are'} staged and not learnt from."
        )
    sentences += describe_runs(runs, folds) if len(runs) else ["Nothing was run."]
    sentences += [
        f"Left out: {label}: {_close_sentence(reason)}" for label, reason in structure.left_out.items()
    ]
    if facts.metric != structure.compare["metric"]:
        wanted = METRICS[structure.compare["metric"]].title
        sentences.append(f"No {wanted} could be measured, so this page speaks of {facts.named} instead.")
    return sentences + (state_limits(facts) if len(runs) else [])


def state_limits(facts: Facts) -> list[str]:
    """What the comparison cannot show, and which experiments have an advantage or are not what they seem."""
    structure, runs = facts.structure, facts.runs
    sentences = describe_noise(facts)
    steps = sorted({int(count) for count in runs.loc[runs["steps"] > 0, "steps"]})
    if steps:
        sentences.append(f"Runs took {_range(steps)} training steps. {describe_convergence(facts)}")
    if structure.transductive:
        sentences.append(
            f"DINO has seen the crops of held-out animals in {join_words(structure.transductive)}: these are "
            "transductive, and not comparable with the others as if they had not."
        )
    if structure.released:
        sentences.append(
            f"{join_words(structure.released)} (preset released): losses and training of OSLSP's released "
            "code, but for what the experiment says; its head, where it is frozen, learns no stage."
        )
    return sentences


def describe_convergence(facts: Facts) -> str:
    """Which experiments had not converged when training ended."""
    judged = facts.runs["loss_change"].notna()
    if not judged.any():
        return "Whether they had converged cannot be said: they are too short to be judged."
    rule = f"the loss of the last fifth of the steps is within {TOLERATED:.0%} of that before, beyond noise"
    late = [f"{name} ({how})" for name, how in facts.unconverged.items()]
    if not late:
        return f"All have converged: {rule}."
    return (
        f"Not converged: {'; '.join(late)}. A comparison with any of these is one at this budget alone. The "
        f"others have converged: {rule}."
    )


def describe_noise(facts: Facts) -> list[str]:
    """What the intervals cannot tell, and how many seeds or animals would do."""
    rows = selection.take_pooled(facts.metrics)
    rows = rows[(rows["metric"] == facts.metric) & rows["low"].notna()]
    learnt = facts.splits[facts.splits["fold"] >= 0]
    folds = int(learnt["fold"].nunique())
    sentences = []
    if (rows["method"] == "folds").any():
        sentences.append(
            "With one seed the noise of training shows between folds alone: such intervals are a t over "
            f"{format_count(folds, 'fold')}. Two seeds or more tell it from that of animals, and give "
            "narrower intervals."
        )
    starred = rows[~rows["trusted"].astype(bool)]
    if len(starred):
        lack = find_lack(int(starred["animals"].min()), folds, learnt["group"].nunique())
        sentences.append(
            f"Intervals with {NOT_TRUSTED} are not to be trusted: they rest on {lack} that it takes in "
            "simulation for intervals to cover as they say."
        )
        pair = facts.structure.ordinal
        row = facts.between(pair["with"], pair["without"]) if pair else None
        if row is not None and not np.isnan(row.animals_needed):
            sentences.append(_state_need(row))
    return sentences


def _state_need(row: Difference) -> str:
    """How many animals would carry the comparison that the study is about."""
    metric = METRICS[row.metric]
    number = f"about {row.animals_needed:,.0f}" if np.isfinite(row.animals_needed) else "over a million"
    return (
        f"To find a difference of {metric.format(metric.worth)} in {metric.title} between {row.experiment} "
        f"and {row.reference}, it would take {number} animals in folds of this size, by the spread between "
        f"the {row.animals} seen here (few animals tell it roughly)."
    )


def describe_runs(runs: pd.DataFrame, folds: int, on: str = "") -> list[str]:
    """How many runs there were, which failed, and why; ``on``: what they learn from, if it must be said."""
    single = runs.drop_duplicates("run")
    failed = single[single["status"] == "failed"]
    seeds = int(runs.groupby("experiment")["seed"].nunique().max())
    sentences = [
        f"{format_count(runs['experiment'].nunique(), 'experiment')}{on} over "
        f"{format_count(folds, 'fold')} and up to {format_count(seeds, 'seed')} took "
        f"{format_count(len(single), 'run')}, shared "
        f"ones counted once; {f'{len(failed)} failed' if len(failed) else 'all ended well'}."
    ]
    for run, reason in zip(failed["run"], failed["reason"], strict=True):
        of = join_words(runs.loc[runs["run"] == run, "experiment"].astype(str))
        sentences.append(f"Failed: {run} of {of}: {_close_sentence(reason)}")
    if len(failed):
        sentences.append("A seed of which a run failed is left out of the numbers of its experiment.")
    return sentences


def _close_sentence(reason: object) -> str:
    return f"{reason.rstrip('.')}." if isinstance(reason, str) and reason else "no reason is known."


def answer_ordinal_term(facts: Facts) -> list[str]:
    """Whether the ordinal term helps, and by how much; then every main experiment against the reference."""
    structure = facts.structure
    sentences = []
    pair = structure.ordinal
    if not pair:
        sentences.append(
            "Whether the ordinal term helps cannot be said: no two main experiments differ by it alone."
        )
    else:
        sentences.append(_describe_ordinal_term(facts, facts.between(pair["with"], pair["without"])))
        sides = [
            f"{facts.measured[pair[side]]} {side} it ({pair[side]})"
            for side in ("with", "without")
            if pair[side] in facts.measured
        ]
        if len(sides) == 2:
            whole = facts.measured[pair["with"]]
            sentences.append(
                f"{capitalise(facts.named)} is {' and '.join(sides)}, on "
                f"{format_count(whole.cells, 'cell')} of {format_count(whole.slides, 'slide')}."
            )
    others = [
        row
        for label, row in facts.family("reference").items()
        if label in structure.main and {row.experiment, row.reference} != set(pair.values())
    ]
    return sentences + describe_differences(facts, others)


def _describe_ordinal_term(facts: Facts, row: Difference | None) -> str:
    """The answer to the first question."""
    pair = facts.structure.ordinal
    of = f"The ordinal term ({pair['with']} against {pair['without']})"
    if row is None:
        return f"{of} was not compared: one of the two has no run that ended well."
    verdict = row.judge(facts.alpha)
    if verdict == "not tested":
        return f"{of} is not tested: {row.evidence}."
    if verdict == "not significant":
        more = f"; {row.detectable}" if row.detectable else ""
        return f"{of} makes no significant difference: {row.evidence}{more}."
    return f"{of} {'helps' if verdict == 'better' else 'hurts'}: {row.evidence}."


def compare_with_baselines(facts: Facts) -> list[str]:
    """Every main experiment against the best baseline."""
    structure = facts.structure
    rows = [
        row
        for label, row in facts.family("baseline").items()
        if label in structure.main and label not in structure.baselines
    ]
    if not rows:
        return ["There is no baseline to compare with."]
    best = rows[0].reference
    found = facts.measured.get(best)
    sentences = []
    if found is not None:
        size = f"{format_count(found.cells, 'cell')} of {format_count(found.slides, 'slide')}"
        sentences.append(f"The best baseline is {best}, with {facts.named} {found} on {size}.")
    return sentences + describe_differences(facts, rows)


def describe_grid(facts: Facts) -> list[str]:
    """At how many points of the grid of sigma and bins the ordinal term helps, and for which sigma."""
    points = facts.structure.grid
    if not points:
        return ["No grid of sigma and bins was run."]
    rows = {label: row for label in points if (row := facts.to_plain(label)) is not None}
    if not rows:
        return [f"Of {format_count(len(points), 'point')} of the grid none could be compared."]
    to = next(iter(rows.values())).reference
    sigmas, bins = (sorted({point[key] for point in points.values()}) for key in ("sigma", "bins"))
    size = format_sizes(rows.values())
    sentences = [
        f"At {format_count(len(points), 'point')} of sigma ({_range(sigmas)}) and bins ({_range(bins)}), "
        f"against {to}: {_tally(facts, points, rows)} ({size})."
    ]
    above = {
        sigma: [
            sum(
                row.judge(facts.alpha) == "better"
                for label, row in rows.items()
                if points[label]["sigma"] == sigma
            ),
            sum(point["sigma"] == sigma for point in points.values()),
        ]
        for sigma in sigmas
    }
    some = [
        f"{format_setting(sigma)} ({good} of {all_} bins)" for sigma, (good, all_) in above.items() if good
    ]
    sentences.append(
        f"The difference is significantly better at sigma {join_words(some)}."
        if some
        else "At no sigma is the difference significantly better."
    )
    finite = sorted(
        (row for row in rows.values() if np.isfinite(row.difference)), key=lambda row: row.gain[0]
    )
    if finite:
        ends = [("best", finite[-1]), ("worst", finite[0])] if len(finite) > 1 else [("only", finite[0])]
        sentences += [
            f"The {word} point is {_at(points[row.experiment])}: {row.evidence}." for word, row in ends
        ]
    paper = next((row for label, row in rows.items() if points[label] == PAPER), None)
    if paper is not None:
        sentences.append(f"At the paper's point ({_at(PAPER)}): {paper.evidence}.")
    return sentences


def _at(point: Mapping[str, float]) -> str:
    return f"sigma {format_setting(point['sigma'])}, {format_count(int(point['bins']), 'bin')}"


def _range(values: Sequence[float]) -> str:
    return (
        format_setting(values[0])
        if len(values) == 1
        else f"{format_setting(values[0])} to {format_setting(values[-1])}"
    )


def format_sizes(rows: Iterable[Difference]) -> str:
    """``15 pairs, 31 slides each``; ranges where they differ."""
    listed_rows = list(rows)
    pairs, slides = (sorted({getattr(row, name) for row in listed_rows}) for name in ("pairs", "slides"))
    if len(pairs) == len(slides) == 1:
        return f"{listed_rows[0].size}{' each' if len(listed_rows) > 1 else ''}"
    return f"{_range(pairs)} pairs, {_range(slides)} slides"


def _tally(facts: Facts, labels: Iterable[str], rows: Mapping[str, Difference]) -> str:
    """How many of the labels the ordinal term helps at; those without a row cannot be judged."""
    verdicts: list[Verdict] = [
        rows[label].judge(facts.alpha) if label in rows else "not tested" for label in labels
    ]
    words: dict[Verdict, str] = {
        "better": "the ordinal term helps at {}",
        "worse": "hurts at {}",
        "not significant": "makes no significant difference at {}",
    }
    parts = [text.format(verdicts.count(verdict) or "none") for verdict, text in words.items()]
    if "not tested" in verdicts:
        parts.append(f"is not tested at {verdicts.count('not tested')}")
    return join_words(parts)


def describe_weights(facts: Facts) -> list[str]:
    """Where the ordinal term helps over its weight."""
    swept = facts.structure.weights
    if not swept:
        return ["The weight of L_SimProp was not varied."]
    rows = {label: row for label in swept.values() if (row := facts.to_plain(label)) is not None}
    if not rows:
        return [f"Of {format_count(len(swept), 'weight')} of L_SimProp none could be compared."]
    to = next(iter(rows.values())).reference
    weights = sorted(swept)
    sentences = [
        f"At {format_count(len(weights), 'weight')} of L_SimProp ({_range(weights)}), against {to}: "
        f"{_tally(facts, swept.values(), rows)} ({format_sizes(rows.values())})."
    ]
    for verdict in ("better", "worse"):
        found = [weight for weight in weights if swept[weight] in rows]
        found = [weight for weight in found if rows[swept[weight]].judge(facts.alpha) == verdict]
        if found:
            parts = [f"{format_setting(weight)} ({rows[swept[weight]].interval})" for weight in found]
            verb = "helps" if verdict == "better" else "hurts"
            sentences.append(f"It {verb} at weight {join_words(parts)}.")
    return sentences


def describe_wrong_proportions(facts: Facts) -> list[str]:
    """From which strength on wrong proportions do harm, and whether the ordinal term withstands them."""
    curves = facts.structure.curves
    if not curves:
        return ["Wrong proportions were not tried."]
    sentences = [_curve(facts, name, points) for name, points in curves.items()]
    # the last point is noisy, so its losses are the curve's own
    terms = {
        name: set(facts.structure.losses.get(points[max(points)], {})) for name, points in curves.items()
    }
    ordinal = next((name for name, found in terms.items() if found == {"simprop", "prop"}), None)
    without = next((name for name, found in terms.items() if found == {"prop"}), None)
    if ordinal and without:
        sentences.append(_withstands(facts, ordinal, without))
    return sentences


def find_falls(facts: Facts, points: Mapping[float, str]) -> dict[float, Difference]:
    """Differences to t = 0 by t; those that were not compared are left out."""
    zero = points.get(0.0)
    rows = {t: facts.between(label, zero) for t, label in points.items() if zero and t > 0}
    return {t: row for t, row in sorted(rows.items()) if row is not None and np.isfinite(row.difference)}


def describe_first_harm(facts: Facts, rows: Mapping[float, Difference]) -> float | None:
    """The least t from which on every difference is significantly worse."""
    start = None
    for t in sorted(rows, reverse=True):
        if rows[t].judge(facts.alpha) != "worse":
            break
        start = t
    return start


def _curve(facts: Facts, name: str, points: Mapping[float, str]) -> str:
    rows = find_falls(facts, points)
    if not rows:
        return f"{name}: not compared with right proportions."
    start, last = describe_first_harm(facts, rows), max(rows)
    shown = rows[last if start is None else start]
    if start is None:
        single = [format_setting(t) for t, row in rows.items() if row.judge(facts.alpha) == "worse"]
        but = f" at every t from one on (only at {join_words(single)})" if single else ""
        return (
            f"{name}: no significant fall{but} up to t = {format_setting(last)}, "
            f"where it is {shown.interval} ({shown.size})."
        )
    before = [t for t in rows if t < start]
    upto = f"; up to t = {format_setting(max(before))} no significant fall" if before else ""
    end = f", at t = {format_setting(last)} {rows[last].interval}" if last > start else ""
    return (
        f"{name}: {facts.named} gets worse from t = {format_setting(start)} on: {shown.interval} there{end} "
        f"({format_sizes(rows.values())}){upto}."
    )


def _withstands(facts: Facts, ordinal: str, without: str) -> str:
    """Whether the fall of the one lies apart from the fall of the other at the largest common t."""
    one, other = (find_falls(facts, facts.structure.curves[name]) for name in (ordinal, without))
    common = [t for t in one if t in other]
    if not common:
        return f"Whether {ordinal} withstands wrong proportions better than {without} cannot be said."
    t = max(common)
    a, b = one[t], other[t]
    numbers = (
        f"at t = {format_setting(t)} the difference to right proportions is {a.interval} ({a.size}) and "
        f"{b.interval} ({b.size})"
    )
    if not np.isfinite([a.low, a.high, b.low, b.high]).all():
        return (
            f"Whether {ordinal} withstands wrong proportions better than {without} cannot be said: {numbers}."
        )
    if a.gain[1] > b.gain[2]:
        return f"{ordinal} withstands wrong proportions better than {without}: {numbers}, apart."
    if b.gain[1] > a.gain[2]:
        return f"{ordinal} withstands wrong proportions worse than {without}: {numbers}, apart."
    return (
        f"Neither {ordinal} nor {without} can be said to withstand wrong proportions better: {numbers}, "
        "and these intervals overlap."
    )


def describe_designs(facts: Facts) -> list[Difference]:
    """Every open choice against what it changes, largest difference first."""
    rows = (
        facts.family("against").get(label) or facts.family("reference").get(label)
        for label in facts.structure.design
    )
    return sort_by_size(row for row in rows if row is not None)


def describe_design(facts: Facts) -> list[str]:
    """Which of the open design choices matter."""
    labels = facts.structure.design
    if not labels:
        return ["No open design choice was varied."]
    rows = describe_designs(facts)
    matter = [row for row in rows if row.judge(facts.alpha) in ("better", "worse")]
    sentences = [
        f"Of {format_count(len(labels), 'choice')}, {len(matter) or 'none'} "
        f"{'changes' if len(matter) <= 1 else 'change'} {facts.named} significantly."
    ]
    sentences += [describe_difference(row, facts.alpha) for row in matter]
    quiet, unknown = (
        [row for row in rows if row.judge(facts.alpha) == verdict]
        for verdict in ("not significant", "not tested")
    )
    if quiet:
        sentences.append(_describe_group(facts, "Not significant", quiet))
    if unknown:
        sentences.append(_describe_group(facts, "Not tested", unknown))
    missing = [label for label in labels if label not in {row.experiment for row in rows}]
    if missing:
        sentences.append(f"Not compared: {join_words(missing)}.")
    return sentences


def describe_geometry(facts: Facts) -> list[str]:
    """Whether similarity of cells follows the order of stages, before and after training."""
    table = facts.correlations
    if table is None or table["rho"].notna().sum() == 0:
        return ["Similarity between stages was not measured: no held-out cell is labelled."]
    rows = {str(row["experiment"]): row for row in table.to_dict("records")}
    structure = facts.structure
    sentences = []
    for words, labels in (
        ("Before training", structure.untrained),
        ("After training", [label for label in structure.main if label not in structure.untrained]),
    ):
        parts = [_rho(rows[label]) for label in labels if label in rows]
        if parts:
            sentences.append(
                f"{words}, Spearman's rho of cosine similarity and sim(k, k') is {'; '.join(parts)}."
            )
    after = rows.get(structure.ordinal.get("with", ""))
    before = next((rows[label] for label in structure.untrained if label in rows), None)
    if after and before and np.isfinite([after["low"], after["high"], before["low"], before["high"]]).all():
        apart = after["low"] > before["high"] or after["high"] < before["low"]
        higher = "higher" if after["rho"] > before["rho"] else "lower"
        sentences.append(
            f"{after['experiment']} has a {higher} rho than {before['experiment']}, and the intervals "
            f"{'lie apart' if apart else 'overlap'}."
        )
    return sentences or ["Similarity between stages was measured for no main experiment."]


def _rho(row: Mapping[Any, Any]) -> str:
    shown = format_interval(row["rho"], row["low"], row["high"])
    alone = "" if np.isfinite([row["low"], row["high"]]).all() else " without interval"
    size = f"{format_count(int(row['cells']), 'cell')} of {format_count(int(row['slides']), 'slide')}"
    return f"{shown}{alone} in {row['experiment']} ({size})"


def select_finished_runs(facts: Facts) -> pd.DataFrame:
    """Runs that trained and ended well in one job, so that their cost is whole."""
    runs = facts.runs
    return runs[(runs["status"] == "ok") & (runs["steps"] > 0) & ~costs.find_resumed(runs)]


def describe_cost(facts: Facts) -> list[str]:
    """What a run costs, and what the ordinal term adds."""
    runs = select_finished_runs(facts)
    if runs.empty:
        return ["No run that trained anything ended well, so there is no cost to name."]
    sentences = []
    pair = facts.structure.ordinal
    one, other = (
        runs[runs["experiment"] == pair.get(side)].set_index(["fold", "seed"]) for side in ("with", "without")
    )
    for column, (words, _) in costs.COSTS.items():
        ratio = (one[column] / other[column]).replace([np.inf, -np.inf], np.nan).dropna()
        if len(ratio):
            sentences.append(
                f"A run of {pair['with']} takes {ratio.median():.2f} times the {words} of one of "
                f"{pair['without']} (median of {format_count(len(ratio), 'pair')}, {ratio.min():.2f} to "
                f"{ratio.max():.2f})."
            )
    if runs["joules"].isna().all():
        sentences.append("Energy is unknown: the machine does not tell it.")
    resumed = int(costs.find_resumed(facts.runs).sum())
    if resumed:
        sentences.append(
            f"{format_count(resumed, 'resumed run')} left out here: only the last part was timed."
        )
    return sentences

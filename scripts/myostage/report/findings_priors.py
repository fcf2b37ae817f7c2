"""Sentences on the proportions of a slide's group put into the stages of its cells."""

import numpy as np

from myostage.evaluation.experiments import base, label_with
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_count, format_setting, join_words
from myostage.evaluation.wrong_tables import find_limits
from myostage.report.findings import Difference, Facts, describe_difference
from myostage.report.pages import Grid

WORDS = {"group": "by Bayes' rule", "transport": "by transport"}
CAUTION = (
    "A prior pulls every slide towards what was assumed of its group: groups and treatments must not be "
    "compared by stages that it was put into."
)


def list_prior_rows(facts: Facts) -> list[Difference]:
    """Main experiments with a prior against themselves without."""
    return [row for row in facts.family("prior").values() if row.reference in facts.structure.main]


def describe_priors(facts: Facts) -> list[str]:
    """What priors gain, which methods beat knowing the group alone, and how wrong a table may be."""
    rows = list_prior_rows(facts)
    if not rows:
        return [_state_use(facts)]
    own = facts.structure.ordinal.get("with", facts.structure.reference)
    led = [row for row in rows if row.reference == own] or rows
    gains = sorted(led, key=lambda row: row.gain[0], reverse=True)
    gain = describe_difference(gains[0], facts.alpha)
    sentences = [f"The proportions of its group, put into a slide's stages: {gain}"]
    sentences += [_describe_group_alone(facts), *_describe_limits(facts), _state_use(facts)]
    return [sentence for sentence in sentences if sentence]


def _describe_group_alone(facts: Facts) -> str:
    """Which methods are better than knowing the group alone, and which are not."""
    rows = [row for row in facts.family("group").values() if base(row.experiment) in facts.structure.main]
    if not rows:
        return ""
    alone = rows[0].reference
    known = facts.measured.get(alone)
    value = f" ({facts.named} {METRICS[facts.metric].format(known.value)})" if known else ""
    parts = []
    for verdict, words in (
        ("better", "better than knowing the group alone"),
        ("not significant", "no better than knowing the group alone"),
        ("worse", "worse than knowing the group alone"),
    ):
        named = [f"{row.experiment} ({row.interval})" for row in rows if row.judge(facts.alpha) == verdict]
        if named:
            parts.append(f"{words}: {join_words(named)}")
    if not parts:
        return f"No method was tested against knowing the group alone, {alone}{value}."
    return f"Against {alone}{value}, {'; '.join(parts)}."


def _describe_limits(facts: Facts) -> list[str]:
    """Up to which share of wrong proportions a prior does more good than harm."""
    if facts.wrong_tables is None or facts.wrong_tables.empty:
        return []
    sentences = []
    limits = find_limits(facts.wrong_tables, facts.metric)
    for prior, part in limits.groupby("prior", sort=False):
        extent = f"{format_count(int(part['draws'].max()), 'draw')} of wrong tables per t"
        always = part[np.isinf(part["limit"])]["experiment"].tolist()
        never = part[part["limit"] == 0]["experiment"].tolist()
        between = part[np.isfinite(part["limit"]) & (part["limit"] > 0)]
        said = [
            f"{row.experiment} up to t = {format_setting(round(float(row.limit), 2))}"
            for row in between.itertuples()
        ]
        said += [f"{join_words(always)} at every t"] if always else []
        said += [f"{join_words(never)} not even with the given table"] if never else []
        sentences.append(
            f"A table of which the share t is wrong does more good than harm {WORDS[str(prior)]}: "
            f"{'; '.join(said)} ({facts.named}; {extent}, "
            f"{format_count(int(part['animals'].max()), 'animal')})."
        )
    return sentences


def _state_use(facts: Facts) -> str:
    settings = facts.structure.prediction
    if settings["prior"] == "none":
        return "Stages of cells, exports and recovery scores are made without any prior."
    strength = settings["strength"]
    weight = (
        f"with the weight that each run chose for a table of which {format_setting(settings['table_error'])} "
        "may be wrong"
        if strength == "chosen"
        else f"with weight {format_setting(strength)} of the table"
    )
    return (
        f"Stages of cells, exports and recovery scores have the proportions of each slide's group in them "
        f"{WORDS[settings['prior']]}, {weight}. {CAUTION}"
    )


def tabulate_priors(facts: Facts) -> Grid | None:
    """Every method of the main table without and with each prior, and knowing the group alone beside them."""
    rows = list_prior_rows(facts)
    if not rows:
        return None
    kinds = [kind for kind in WORDS if any(row.experiment == label_with(row.reference, kind) for row in rows)]
    metric = METRICS[facts.metric]

    def show(label: str) -> str:
        found = facts.measured.get(label)
        return metric.format_interval(found.value, found.low, found.high) if found else ""

    lines = [
        [facts.name(label), show(label), *(show(label_with(label, kind)) for kind in kinds)]
        for label in dict.fromkeys(row.reference for row in rows)
    ]
    alone = next((row.reference for row in facts.family("group").values()), "")
    if alone:
        lines.append([f"{alone} (the group alone)", show(alone), *("" for _ in kinds)])
    caption = f"{metric.label} [95 % interval], without a prior and with the proportions of a slide's group."
    return Grid(["", "without", *(f"{kind}, {WORDS[kind]}" for kind in kinds)], lines, caption)

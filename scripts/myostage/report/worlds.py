"""The page of a study of drawn worlds: where an experiment gains over the reference, where it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from myostage.evaluation import formatting, regimes
from myostage.evaluation.comparisons import state_rule
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import (
    format_amount,
    format_count,
    format_number,
    format_p,
    format_setting,
    join_words,
)
from myostage.evaluation.selection import iterate_rows
from myostage.report.pages import Block, Grid, Section, write_page
from myostage.report.summary import MARKS, draw_picture
from myostage.study.structure import Structure

CENTRE = "centre"
# A change of the loss at the end of training below this share of it is called none.
STILL = 0.02


@dataclass(frozen=True)
class Facts:
    """The tables of a study of worlds, and what was drawn.

    Parameters
    ----------
    structure
        Which experiment plays which part.
    maps
        Map -> its ``keys``, and its ``points``: name -> the value of each key.
    world
        The section `world` without its maps.
    animals, folds
        Animals of a world, and the folds they are dealt to; the first is held out.
    training
        The section `training`.
    worlds, comparisons, curves, choices
        The tables of these names; ``choices`` is None where nothing was chosen.
    figures
        Title and PNG of every figure.
    """

    structure: Structure
    maps: Mapping[str, Mapping[str, Any]]
    world: Mapping[str, Any]
    animals: int
    folds: int
    training: Mapping[str, Any]
    worlds: pd.DataFrame
    comparisons: pd.DataFrame
    curves: pd.DataFrame
    choices: pd.DataFrame | None
    figures: Sequence[tuple[str, Path]] = ()

    @property
    def metric(self) -> str:
        return str(self.structure.compare["metric"])

    @property
    def reference(self) -> str:
        return self.structure.reference

    @property
    def tested(self) -> list[str]:
        """The experiments that are tested, the ordinal term of the study's question first."""
        asked = self.structure.ordinal.get("with", "")
        found = regimes.list_tested(self.comparisons)
        return sorted(found, key=lambda name: name != asked)

    def of_map(self, name: str) -> pd.DataFrame:
        alpha = float(self.structure.compare["alpha"])
        return regimes.select_map(self.comparisons, name, self.maps[name], self.metric, alpha)


def write(out: str | Path, facts: Facts) -> None:
    """Write the page; links to the figures are relative to it."""
    run = describe_run(facts)
    answers = {experiment: describe_regimes(facts, experiment) for experiment in facts.tested}
    first = facts.tested[:1]
    sections = [
        Section("run", "What was run", [Block(points=run)]),
        Section(
            "where",
            "Where does a method gain, and where does it cost?",
            [Block(experiment, sentences) for experiment, sentences in answers.items()]
            or [Block(points=[f"No experiment is tested against {facts.reference}."])],
        ),
        Section("methods", "All methods at the centre", [Block(table=tabulate_centre(facts))]),
        Section(
            "points", "All differences", [Block(name, table=tabulate_map(facts, name)) for name in facts.maps]
        ),
        Section("training", "Has training converged?", [Block(points=describe_convergence(facts))]),
    ]
    if facts.choices is not None:
        block = Block(points=describe_choices(facts), table=tabulate_choices(facts.choices))
        sections.append(Section("choices", "Which settings were chosen?", [block]))
    sections.append(Section("rules", "How this page judges", [Block(text=describe_rules(facts))]))
    if facts.figures:
        pictures = [
            Block(figure=draw_picture(title, Path(path), Path(out).parent)) for title, path in facts.figures
        ]
        sections.append(Section("figures", "Figures", pictures))
    short = [run[0], *(sentence for name in first for sentence in answers[name])]
    write_page(out, f"{facts.structure.study}: where a method gains and where it costs", sections, short)


def describe_run(facts: Facts) -> list[str]:
    """What was drawn and trained."""
    points = facts.worlds["point"].nunique()
    per_point = facts.worlds["world"].nunique()
    learning = facts.worlds[facts.worlds["steps"] > 0]
    runs = len(facts.worlds.drop_duplicates(["point", "experiment", "world"]))
    once = facts.worlds.drop_duplicates(["point", "experiment", "world"])
    failed = once[once["status"] == "failed"]
    world = facts.world
    sentences = [
        f"{format_count(facts.worlds['experiment'].nunique(), 'experiment')} at "
        f"{format_count(points, 'point')} of {format_count(len(facts.maps), 'map')}, {per_point} independent "
        f"worlds each: {format_count(runs, 'run')}.",
        f"A world at the centre has {len(facts.structure.stages)} stages in {world['dimensions']} "
        f"dimensions, {world['distractors']} of them distractors, and {facts.animals} animals of "
        f"{world['cells']} cells; one part of {facts.folds} of the animals is held out and measured. "
        + ", ".join(
            f"{regimes.name_key(key)} {regimes.show(world[key])}"
            for key in ("overlap", "mixing", "animal_effect", "batch_effect", "proportion_error", "order")
        )
        + ".",
        f"A run trains {format_count(facts.training['steps'])} steps on two bags of "
        f"{facts.training['bag_size']} cells, where a map says nothing else, and took "
        f"{format_amount(float(learning['seconds'].median()))} s (median).",
    ]
    for reason, rows in failed.groupby("experiment", sort=False):
        sentences.append(f"{reason}: {format_count(len(rows), 'run')} diverged and are missing below.")
    return sentences


def describe_regimes(facts: Facts, experiment: str) -> list[str]:
    """Where an experiment gains and where it costs, a sentence for each map."""
    own = facts.comparisons[facts.comparisons["experiment"] == experiment]
    return regimes.state_maps(own, facts.maps, facts.metric, float(facts.structure.compare["alpha"]))


def describe_convergence(facts: Facts) -> list[str]:
    """Whether the loss still changes at the end, by experiment, at the centre or else the first point."""
    points = list(dict.fromkeys(facts.worlds["point"]))
    point = CENTRE if CENTRE in points else points[0]
    found = {
        name: regimes.find_change(facts.curves, point, name)
        for name in dict.fromkeys(facts.worlds["experiment"])
    }
    changes = {name: change for name, change in found.items() if np.isfinite(change)}
    moving = [name for name, change in changes.items() if abs(change) > STILL]
    sentences = [
        f"Change of the loss over the last 15 % of the steps at {point}, means over worlds: "
        + ", ".join(
            f"{name} {format_number(100 * change, 1, sign=True)} %" for name, change in changes.items()
        )
        + "."
    ]
    if moving:
        sentences.append(
            f"The loss of {join_words(moving)} still changes by more than {100 * STILL:.0f} %: what is said "
            f"of it holds for {format_count(facts.training['steps'])} steps."
        )
    return sentences


def describe_choices(facts: Facts) -> list[str]:
    """What was chosen, by what, and at which cost."""
    choices = facts.choices
    assert choices is not None
    pilots = facts.world["pilots"]
    sentences = [
        f"Settings were chosen once for each experiment, in {format_count(pilots, 'pilot world')} drawn as "
        "at the centre by seeds of their own, by the KL divergence of given from predicted proportions of "
        "animals held in. No label and no world that is measured was read."
    ]
    for experiment, rows in choices.groupby("experiment", sort=False):
        chosen = join_words(rows.loc[rows["chosen"], "settings"]) if rows["chosen"].any() else "none"
        trainings = format_count(len(rows) * pilots, "training")
        sentences.append(f"{experiment}: {chosen}, of {format_count(len(rows), 'candidate')} ({trainings}).")
    return sentences


def tabulate_choices(choices: pd.DataFrame) -> Grid:
    marks = choices["chosen"].map({True: " (chosen)", False: ""})
    text = choices["divergence"].map(lambda value: format_number(value, 4)) + marks
    table = choices.assign(text=text).pivot(index="experiment", columns="settings", values="text").fillna("")
    return Grid.of(table, "KL divergence, nats, of animals held in, mean over pilot worlds.")


def tabulate_centre(facts: Facts) -> Grid:
    """Every metric of every experiment at the centre, mean over worlds with its interval."""
    rows = facts.comparisons[facts.comparisons["point"] == CENTRE]
    point = CENTRE
    if rows.empty:
        point = facts.comparisons["point"].iloc[0]
        rows = facts.comparisons[facts.comparisons["point"] == point]
    rows = rows.drop_duplicates(["experiment", "metric"])
    text = [
        METRICS[row.metric].format_interval(row.value, row.value_low, row.value_high)
        for row in iterate_rows(rows)
    ]
    labels = [METRICS[name].label for name in rows["metric"]]
    table = rows.assign(text=text, label=labels).pivot(index="experiment", columns="label", values="text")
    order = list(dict.fromkeys(rows["experiment"]))
    table = table.loc[order, list(dict.fromkeys(labels))]
    marks = facts.structure.label_learners, facts.structure.fitted_afterwards
    caption = f"At {point}: mean over worlds [95 % t interval over worlds]."
    caption += f" {formatting.explain_marks(order, *marks)}"
    return Grid.of(formatting.mark_experiments(table, formatting.collect_marks(*marks)), caption)


def tabulate_map(facts: Facts, name: str) -> Grid:
    """Every tested difference of a map."""
    rows = facts.of_map(name)
    rows = rows[rows["experiment"].isin(facts.tested)]
    metric = METRICS[facts.metric]
    head = (
        "experiment",
        "point",
        "difference",
        "verdict",
        "p (Holm)",
        "minimum detectable",
        "effect size",
        "worlds",
    )
    lines = [
        (
            row.experiment,
            row.point,
            metric.format_interval(row.difference, row.low, row.high, sign=True),
            f"{MARKS[row.verdict]} {row.verdict}",
            format_p(row.p_holm),
            metric.format(row.minimum_detectable),
            format_number(row.effect_size, sign=True),
            format_count(row.worlds),
        )
        for row in iterate_rows(rows)
    ]
    tests = int(rows["tests"].max()) if len(rows) else 0
    caption = (
        f"Experiment minus {facts.reference} in {metric.label} [95 % t interval over worlds], "
        f"{format_count(tests, 'test')} corrected together."
    )
    return Grid(head, lines, caption)


def describe_rules(facts: Facts) -> str:
    """The rules by which verdicts are made, in words."""
    compare, metric = facts.structure.compare, METRICS[facts.metric]
    better = "more" if metric.higher_is_better else "less"
    return (
        f"A difference is experiment minus {facts.reference} in {metric.label}, of which {better} is "
        "better, on the animals that a world holds out, paired by world. A world is drawn and trained by "
        "seeds of its own; points that differ by training alone share their worlds. In brackets the 95 % t "
        f"interval over worlds. {state_rule(compare['alpha'])} Holm's correction takes all points and all "
        "tested experiments of a map together. Gains: significantly better; costs: significantly worse. "
        "Beside what is not significant stands the minimum detectable effect: what the test finds at its "
        f"corrected level with power {format_setting(compare['power'])}. Not tested: ceilings, majorities "
        "and controls. Lengths are in units of the mean distance between adjacent stages."
    )

"""The answers of a study on one page that needs nothing else: sentences, tables, figures, and its rules."""

import base64
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from myostage import palette
from myostage.evaluation import formatting
from myostage.evaluation.comparisons import Verdict, state_rule
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import NOT_TRUSTED, format_number, format_p, format_setting
from myostage.report import findings
from myostage.report.choices import describe_choices, tabulate_choices
from myostage.report.findings import Difference, Facts
from myostage.report.findings_priors import describe_priors, list_prior_rows, tabulate_priors
from myostage.report.findings_rivals import list_rivals
from myostage.report.pages import BETTER, WORSE, Block, Cell, Grid, Picture, Section, Strip, write_page
from myostage.report.sections import RULES, describe_slide_runs, list_sections

# shown beside a verdict, so that it does not hang on colour
MARKS: dict[Verdict, str] = {"better": "▲", "worse": "▼", "not significant": "○", "not tested": "–"}
STRIP_PX = 130


def headline(facts: Facts) -> list[str]:
    """The three sentences that matter most: the ordinal term, the best baseline, and where it helps."""
    structure = facts.structure
    own = structure.ordinal.get("with", structure.reference)
    to_baseline = facts.family("baseline").get(own)
    sentences = [
        findings.answer_ordinal_term(facts)[0],
        findings.describe_difference(to_baseline, facts.alpha)
        if to_baseline
        else findings.compare_with_baselines(facts)[0],
    ]
    further = (
        (structure.grid, findings.describe_grid),
        (structure.weights, findings.describe_weights),
        (structure.design, findings.describe_design),
    )
    sentences.append(
        next((say(facts) for present, say in further if present), findings.describe_study(facts))[0]
    )
    return sentences


def write(out: str | Path, facts: Facts) -> None:
    """Write the page.

    Parameters
    ----------
    out : path
        The HTML file. Links to the figures are relative to it; the figures themselves are in it.
    facts : Facts
        The study's tables and what its experiments are for.
    """
    staged = bool(facts.structure.parts)
    asked = list_sections(facts)
    run = [*findings.describe_study(facts), *describe_slide_runs(facts)]
    priors = describe_priors(facts) if asks_priors(facts) else []
    short = [
        *priors[:1],
        *(headline(facts) if staged else run[:1]),
        *(section.sentences[0] for section in asked),
    ]
    judged = " ".join([rules(facts), *([RULES] if asked else [])])
    sections = [Section("run", "What was run", [Block(points=run)])]
    if facts.unused:
        unused = [f"{slide}: {reason}" for slide, reason in facts.unused.items()]
        retry = (
            f"To try a slide again, delete its folder, {Path(out).parent}/slides/ and its name, and run the "
            "workflow again."
        )
        sections.append(Section("unused", "Slides left out", [Block(points=unused, text=retry)]))
    if priors:
        with_prior = _differences(facts, list_prior_rows(facts))
        shown = [Block("", priors, table=tabulate_priors(facts)), Block(table=with_prior)]
        sections.append(
            Section("priors", "What do its group's proportions add when a slide is staged?", shown)
        )
    if staged:
        sections += [
            Section("ordinal", "Does the ordinal term help, and by how much?", _helps(facts)),
            Section("methods", "All methods, all metrics", _methods(facts)),
            Section("where", "Where does it stop helping?", _where(facts)),
            Section(
                "design",
                "Which open choices matter?",
                [
                    Block(
                        "",
                        findings.describe_design(facts),
                        table=_differences(facts, findings.describe_designs(facts)),
                    )
                ],
            ),
            Section(
                "geometry", "Are similar stages alike?", [Block(points=findings.describe_geometry(facts))]
            ),
            Section("cost", "What does it cost?", _cost(facts)),
        ]
    if facts.choices is not None:
        divergences = Grid.of(tabulate_choices(facts.choices), "KL divergence, nats, of slides held in.")
        blocks = [Block(points=describe_choices(facts.choices), table=divergences)]
        sections.append(Section("choices", "Which settings did runs choose?", blocks))
    for section in asked:
        table = _differences(facts, section.differences)
        sections.append(Section(section.name, section.title, [Block("", section.sentences, table=table)]))
    sections.append(Section("rules", "How this page judges", [Block(text=judged)]))
    if facts.figures:
        pictures = [
            Block(figure=draw_picture(title, Path(path), Path(out).parent)) for title, path in facts.figures
        ]
        sections.append(Section("figures", "Figures", pictures))
    write_page(out, f"{facts.structure.study}: what the study found", sections, short)


def asks_priors(facts: Facts) -> bool:
    """Whether the study puts proportions into stages, or measures what that does."""
    settings = facts.structure.prediction
    return bool(facts.structure.parts and (settings["prior"] != "none" or settings["compare"]))


def rules(facts: Facts) -> str:
    """The rules by which verdicts are made, in words."""
    better = "more" if METRICS[facts.metric].higher_is_better else "less"
    compare = facts.structure.compare
    return (
        f"A difference is experiment minus reference in {METRICS[facts.metric].label}, of which "
        f"{better} is better, on held-out slides, all folds and seeds together; in brackets the 95 % "
        f"confidence interval, paired by animal, fold and seed: animals and training runs are its noise, "
        f"with one seed the folds. {state_rule(compare['alpha'])} p is of the same estimate; Holm's "
        "correction takes the study's question alone, then baselines, then each sweep and the rest of each "
        "part. Beside a difference that is not significant stands the minimum detectable effect: what this "
        f"test finds at its corrected level with power {format_setting(compare['power'])}. Not tested: "
        "label learners, majorities, random features, differences without spread. t over folds: the plain "
        "t interval of the folds' means, beside it for comparison. Effect size: difference over the standard "
        f"deviation of the animals' differences. {NOT_TRUSTED}: not to be trusted, of too few animals or "
        "folds. Two intervals that do not overlap count as apart."
    )


def _helps(facts: Facts) -> list[Block]:
    main = facts.structure.main
    by_family = {
        family: [row for label, row in facts.family(family).items() if label in main]
        for family in ("reference", "baseline")
    }
    return [
        Block("", findings.answer_ordinal_term(facts), table=_differences(facts, by_family["reference"])),
        Block(
            "Against the best baseline",
            findings.compare_with_baselines(facts),
            table=_differences(facts, by_family["baseline"]),
        ),
    ]


def _where(facts: Facts) -> list[Block]:
    structure = facts.structure
    swept = [row for label in structure.weights.values() if (row := facts.to_plain(label)) is not None]
    fallen = [
        row for points in structure.curves.values() for row in findings.find_falls(facts, points).values()
    ]
    wrong = findings.describe_wrong_proportions(facts)
    return [
        Block("Over sigma and bins", findings.describe_grid(facts), table=_grid(facts)),
        Block("Over its weight", findings.describe_weights(facts), table=_differences(facts, swept)),
        Block("With wrong proportions", wrong, table=_differences(facts, fallen)),
    ]


def _methods(facts: Facts) -> list[Block]:
    structure = facts.structure
    shown = {"": structure.main} | ({"Rivals": rivals} if (rivals := list_rivals(facts)) else {})
    blocks = []
    for heading, labels in shown.items():
        rows = formatting.tabulate_experiments(facts.metrics, labels, runs=facts.runs, metric=facts.metric)
        caption = f"{formatting.CAPTION} {_explain(facts, labels)}"
        blocks.append(
            Block(heading, table=Grid.of(formatting.mark_experiments(rows, _marks(facts)), caption))
        )
    if structure.quoted:
        quoted = Grid.of(formatting.tabulate_quoted(structure.quoted), formatting.QUOTED)
        blocks.append(Block("Published figures", table=quoted))
    return blocks


def _marks(facts: Facts) -> dict[str, str]:
    structure = facts.structure
    return formatting.collect_marks(structure.label_learners, structure.fitted_afterwards, facts.unconverged)


def _explain(facts: Facts, experiments: Iterable[str]) -> str:
    structure = facts.structure
    return formatting.explain_marks(
        experiments,
        structure.label_learners,
        structure.fitted_afterwards,
        ceiling=facts.ceiling,
        unconverged=facts.unconverged,
    )


def _cost(facts: Facts) -> list[Block]:
    trained = set(findings.select_finished_runs(facts)["experiment"])
    labels = [label for label in facts.structure.main if label in trained]
    table = Grid.of(formatting.tabulate_costs(facts.runs, labels), formatting.COST) if labels else None
    return [Block(points=findings.describe_cost(facts), table=table)]


def _differences(facts: Facts, rows: Sequence[Difference]) -> Grid | None:
    """A table of differences with their intervals drawn; none for no rows."""
    if not rows:
        return None
    marks = _marks(facts)
    reach = _reach(rows)
    head = ("experiment", "against", "difference", "", "verdict", "effect size", "p (Holm)")
    lines = [
        (
            f"{row.experiment} {marks.get(row.experiment, '')}".rstrip(),
            f"{row.reference} {marks.get(row.reference, '')}".rstrip(),
            row.interval,
            _strip(row, reach, verdict),
            _mark(verdict, verdict),
            format_number(row.effect_size),
            format_p(row.p_holm),
            METRICS[row.metric].format(row.minimum_detectable),
            row.by_folds,
            f"{row.pairs:,}",
            f"{row.slides:,}",
        )
        for row in rows
        for verdict in [row.judge(facts.alpha)]
    ]
    notes = _explain(facts, [name for row in rows for name in (row.experiment, row.reference)])
    drawn = f" Drawn up to {METRICS[rows[0].metric].format(reach)} from 0; hollow: beyond." if reach else ""
    caption = f"Difference in {METRICS[rows[0].metric].label} [95 % interval].{drawn} {notes}".rstrip()
    return Grid((*head, "minimum detectable", "t over folds", "pairs", "slides"), lines, caption)


def _mark(verdict: Verdict, text: str) -> Cell:
    return Cell(f"{MARKS[verdict]} {text}", verdict if verdict in ("better", "worse") else "none")


def _reach(rows: Sequence[Difference]) -> float:
    """How far from zero intervals are drawn: not so far that one far off would hide the others."""
    ends = np.array([max(abs(row.low), abs(row.high)) for row in rows], dtype=np.float64)
    ends = ends[np.isfinite(ends)]
    return float(min(ends.max(), 3 * np.median(ends))) if len(ends) else 0.0


def _strip(row: Difference, reach: float, verdict: Verdict) -> Cell:
    """The interval as a line about zero, to one scale within a table; what lies beyond is cut at the edge."""
    ends = np.array([row.low, row.difference, row.high])
    if not np.isfinite(ends).all() or reach == 0:
        return Cell()
    middle = STRIP_PX / 2
    low, at, high = (middle + np.clip(ends / reach, -1, 1) * (middle - 6)).tolist()
    colour = {"better": BETTER, "worse": WORSE}.get(verdict, palette.BASELINE)
    # a point beyond the edge is drawn hollow
    fill = colour if abs(row.difference) <= reach else "white"
    return Cell(strip=Strip(STRIP_PX, low, at, high, colour, fill, row.interval))


def _grid(facts: Facts) -> Grid | None:
    """Differences by sigma and bins; none where there is no grid."""
    points = facts.structure.grid
    if not points:
        return None
    sigmas, bins = (sorted({point[key] for point in points.values()}) for key in ("sigma", "bins"))
    labels = {(point["sigma"], point["bins"]): label for label, point in points.items()}

    def cell(key: tuple[float, float]) -> Cell:
        row = facts.to_plain(labels[key]) if key in labels else None
        text = row.interval.replace(" ", "\n", 1) if row else ""
        return _mark(row.judge(facts.alpha) if row else "not tested", text)

    lines: list[list[str | Cell]] = [
        [f"sigma {format_setting(s)}", *(cell((s, b)) for b in bins)] for s in sigmas
    ]
    head = ["", *(f"{format_setting(b)} bins" for b in bins)]
    rows = [row for label in points if (row := facts.to_plain(label)) is not None]
    size = f" {findings.format_sizes(rows)}." if rows else ""
    marks = "; ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    to = f" to {rows[0].reference}" if rows else ""
    caption = f"Difference in {METRICS[facts.metric].label}{to} [95 % interval].{size} {marks}."
    return Grid(head, lines, caption)


def draw_picture(title: str, png: Path, folder: Path) -> Picture:
    """A figure within the page, with links to its files."""
    files = [file for file in (png, png.with_suffix(".svg"), png.with_suffix(".csv")) if file.exists()]
    links = [(file.suffix[1:].upper(), quote(os.path.relpath(file, folder))) for file in files]
    return Picture(title, base64.b64encode(png.read_bytes()).decode("ascii"), links)

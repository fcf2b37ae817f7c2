"""The answers of a study on one page that needs nothing else: sentences, tables, figures, and its rules."""

import base64
import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from myostage import palette, tables
from myostage.evaluation import formatting
from myostage.evaluation.comparisons import Verdict, state_rule
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_number, format_p, format_setting
from myostage.report import findings, findings_neighbours
from myostage.report.findings import Difference, Facts

# shown beside a verdict, so that it does not hang on colour
MARKS: dict[Verdict, str] = {"better": "▲", "worse": "▼", "not significant": "○", "not tested": "–"}
STRIP_PX = 130

_BETTER, _WORSE = palette.series_colours(2)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; padding: 0 2em; max-width: 76em;
  color: #222 }}
h1 {{ margin-bottom: .2em }}
h2 {{ margin-top: 2em; padding-top: .6em; border-top: 1px solid #ddd; font-size: 1.25em }}
h3 {{ margin: 1.6em 0 .4em; font-size: 1em }}
li {{ margin: .35em 0; max-width: 62em }}
nav a, figcaption a {{ color: {better}; margin-right: 1em; text-decoration: none }}
.short {{ background: #f6f7f9; border-left: 4px solid {better}; padding: .4em 1.4em; margin: 1.2em 0 }}
.short li {{ font-size: 1.08em }}
.rules {{ color: #555; font-size: .93em; max-width: 66em }}
.wide {{ overflow-x: auto; margin: 1em 0 }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .86em }}
th, td {{ padding: .3em .5em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
thead th {{ border-bottom: 2px solid #444; vertical-align: bottom; white-space: normal }}
caption {{ caption-side: bottom; text-align: left; color: #666; padding-top: .6em }}
.better {{ color: {better}; font-weight: 600 }}
.worse {{ color: {worse}; font-weight: 600 }}
.notsignificant, .nottested {{ color: #777 }}
svg {{ vertical-align: middle }}
figure {{ margin: 1.5em 0 }}
figure img {{ max-width: 100%; border: 1px solid #eee }}
</style></head><body>
<h1>{title}</h1>
<nav>{contents}</nav>
<div class="short">{short}</div>
{body}
</body></html>
"""


def headline(facts: Facts) -> list[str]:
    """The three sentences that matter most: the ordinal term, the best baseline, and where it helps."""
    structure = facts.structure
    own = structure.ordinal.get("with", structure.reference)
    to_baseline = facts.family("baseline").get(own)
    sentences = [
        findings.helps(facts)[0],
        findings.compared(to_baseline, facts.alpha) if to_baseline else findings.baselines(facts)[0],
    ]
    further = (
        (structure.grid, findings.grid),
        (structure.weights, findings.weights),
        (structure.design, findings.design),
    )
    sentences.append(next((say(facts) for present, say in further if present), findings.ran(facts))[0])
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
    asked = findings_neighbours.sections(facts)
    run = [*findings.ran(facts), *findings_neighbours.ran(facts)]
    short = [*(headline(facts) if staged else run[:1]), *(section.sentences[0] for section in asked)]
    judged = " ".join([rules(facts), *([findings_neighbours.RULES] if asked else [])])
    sections: list[tuple[str, str, list[str]]] = [("run", "What was run", [_points(run)])]
    if staged:
        sections += [
            ("better", "Does the ordinal term help, and by how much?", _helps(facts)),
            ("methods", "All methods, all metrics", _methods(facts)),
            ("where", "Where does it stop helping?", _where(facts)),
            ("design", "Which open choices matter?", _design(facts)),
            ("geometry", "Are similar stages alike?", [_points(findings.geometry(facts))]),
            ("cost", "What does it cost?", _cost(facts)),
        ]
    sections += [
        (section.name, section.title, [_points(section.sentences), _differences(facts, section.differences)])
        for section in asked
    ]
    sections.append(("rules", "How this page judges", [f'<p class="rules">{html.escape(judged)}</p>']))
    if facts.unused:
        unused = _points(f"{slide}: {reason}" for slide, reason in facts.unused.items())
        sections.insert(1, ("unused", "Slides left out", [unused]))
    if facts.figures:
        figures = [_figure(title, Path(path), Path(out).parent) for title, path in facts.figures]
        sections.append(("figures", "Figures", figures))
    body = (f'<h2 id="{name}">{title}</h2>\n{chr(10).join(blocks)}' for name, title, blocks in sections)
    page = _PAGE.format(
        title=f"{html.escape(facts.structure.study)}: what the study found",
        contents=" ".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections),
        short=_points(short),
        body="\n".join(body),
        better=_BETTER,
        worse=_WORSE,
    )
    with tables.atomic(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def rules(facts: Facts) -> str:
    """The rules by which verdicts are made, in words."""
    better = "more" if METRICS[facts.metric].higher_is_better else "less"
    compare = facts.structure.compare
    return (
        f"A difference is experiment minus reference in {METRICS[facts.metric].label}, of which "
        f"{better} is better, on held-out slides, all folds and seeds together; in brackets the 95 % "
        f"confidence interval by paired bootstrap over slides. {state_rule(compare['alpha'])} p is that of "
        "the corrected resampled t-test over pairs of fold and seed, after Holm's correction within its "
        "family and part of the study. Beside a difference that is not significant stands the minimum "
        "detectable "
        f"effect: what this test, uncorrected, finds with power {format_setting(compare['power'])}. Not "
        "tested: too few pairs. Effect size: mean over standard deviation of the paired differences. Two "
        "intervals that do not overlap count as apart."
    )


def _points(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _helps(facts: Facts) -> list[str]:
    main = facts.structure.main
    by_family = {
        family: [row for label, row in facts.family(family).items() if label in main]
        for family in ("reference", "baseline")
    }
    return [
        _points(findings.helps(facts)),
        _differences(facts, by_family["reference"]),
        "<h3>Against the best baseline</h3>",
        _points(findings.baselines(facts)),
        _differences(facts, by_family["baseline"]),
    ]


def _where(facts: Facts) -> list[str]:
    structure = facts.structure
    swept = [row for label in structure.weights.values() if (row := facts.to_plain(label)) is not None]
    fallen = [row for points in structure.curves.values() for row in findings.falls(facts, points).values()]
    return [
        "<h3>Over sigma and bins</h3>",
        _points(findings.grid(facts)),
        _grid(facts),
        "<h3>Over its weight</h3>",
        _points(findings.weights(facts)),
        _differences(facts, swept),
        "<h3>With wrong proportions</h3>",
        _points(findings.wrong_proportions(facts)),
        _differences(facts, fallen),
    ]


def _design(facts: Facts) -> list[str]:
    return [_points(findings.design(facts)), _differences(facts, findings.designs(facts))]


def _methods(facts: Facts) -> list[str]:
    structure = facts.structure
    rows = formatting.tabulate_experiments(
        facts.metrics, structure.main, runs=facts.runs, metric=facts.metric
    )
    marks = structure.ceilings, structure.fitted_afterwards
    notes = formatting.explain_marks(structure.main, *marks)
    blocks = [_frame(formatting.mark_experiments(rows, *marks), f"{formatting.CAPTION} {notes}")]
    if structure.quoted:
        blocks += [
            "<h3>Published figures</h3>",
            _frame(formatting.tabulate_quoted(structure.quoted), formatting.QUOTED),
        ]
    return blocks


def _cost(facts: Facts) -> list[str]:
    trained = set(findings.whole_runs(facts)["experiment"])
    labels = [label for label in facts.structure.main if label in trained]
    blocks = [_points(findings.cost(facts))]
    return blocks + (
        [_frame(formatting.tabulate_costs(facts.runs, labels), formatting.COST)] if labels else []
    )


def _frame(rows: pd.DataFrame, caption: str) -> str:
    markup = rows.reset_index().to_html(index=False, border=0)
    markup = markup.replace("<thead>", f"<caption>{html.escape(caption)}</caption><thead>", 1)
    return f'<div class="wide">{markup}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table of cells that are HTML already."""
    titles = "".join(f"<th>{title}</th>" for title in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _differences(facts: Facts, rows: Sequence[Difference]) -> str:
    """A table of differences with their intervals drawn; nothing for no rows."""
    if not rows:
        return ""
    marks = dict.fromkeys(facts.structure.ceilings, formatting.SEES_LABELS)
    marks |= dict.fromkeys(facts.structure.fitted_afterwards, formatting.FITTED_AFTERWARDS)
    reach = _reach(rows)
    head = ("experiment", "against", "difference", "", "verdict", "effect size", "p (Holm)")
    cells = []
    for row in rows:
        verdict = row.judge(facts.alpha)
        cells.append(
            (
                html.escape(f"{row.experiment} {marks.get(row.experiment, '')}".rstrip()),
                html.escape(row.reference),
                row.interval,
                _strip(row, reach, verdict),
                _marked(verdict, verdict),
                format_number(row.effect_size),
                html.escape(format_p(row.p_holm)),
                METRICS[row.metric].format(row.minimum_detectable),
                f"{row.pairs:,}",
                f"{row.slides:,}",
            )
        )
    notes = formatting.explain_marks(
        [row.experiment for row in rows], facts.structure.ceilings, facts.structure.fitted_afterwards
    )
    drawn = f" Drawn up to {METRICS[rows[0].metric].format(reach)} from 0; hollow: beyond." if reach else ""
    caption = f"Difference in {METRICS[rows[0].metric].label} [95 % interval].{drawn} {notes}".rstrip()
    return _table((*head, "minimum detectable", "pairs", "slides"), cells, caption)


def _marked(verdict: Verdict, text: str) -> str:
    return f'<span class="{verdict.replace(" ", "")}">{MARKS[verdict]} {text}</span>'


def _reach(rows: Sequence[Difference]) -> float:
    """How far from zero intervals are drawn: not so far that one far off would hide the others."""
    ends = np.array([max(abs(row.low), abs(row.high)) for row in rows], dtype=np.float64)
    ends = ends[np.isfinite(ends)]
    return float(min(ends.max(), 3 * np.median(ends))) if len(ends) else 0.0


def _strip(row: Difference, reach: float, verdict: Verdict) -> str:
    """The interval as a line about zero, to one scale within a table; what lies beyond is cut at the edge."""
    if not np.isfinite([row.difference, row.low, row.high]).all() or reach == 0:
        return ""
    middle = STRIP_PX / 2
    low, at, high = (
        f"{middle + float(np.clip(value / reach, -1, 1)) * (middle - 6):.1f}"
        for value in (row.low, row.difference, row.high)
    )
    colour = {"better": _BETTER, "worse": _WORSE}.get(verdict, palette.BASELINE)
    # a point beyond the edge is drawn hollow
    fill = colour if abs(row.difference) <= reach else "white"
    return (
        f'<svg width="{STRIP_PX}" height="14" role="img" aria-label="{row.interval}">'
        f'<line x1="{middle}" x2="{middle}" y1="0" y2="14" stroke="#bbb"/>'
        f'<line x1="{low}" x2="{high}" y1="7" y2="7" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{at}" cy="7" r="3.5" fill="{fill}" stroke="{colour}"/></svg>'
    )


def _grid(facts: Facts) -> str:
    """Differences by sigma and bins; nothing where there is no grid."""
    points = facts.structure.grid
    if not points:
        return ""
    sigmas, bins = (sorted({point[key] for point in points.values()}) for key in ("sigma", "bins"))
    labels = {(point["sigma"], point["bins"]): label for label, point in points.items()}

    def cell(key: tuple[float, float]) -> str:
        row = facts.to_plain(labels[key]) if key in labels else None
        text = row.interval.replace(" ", "<br>", 1) if row else ""
        return _marked(row.judge(facts.alpha) if row else "not tested", text)

    lines = ([f"sigma {format_setting(s)}", *(cell((s, b)) for b in bins)] for s in sigmas)
    head = ["", *(f"{format_setting(b)} bins" for b in bins)]
    rows = [row for label in points if (row := facts.to_plain(label)) is not None]
    size = f" {findings.sizes(rows)}." if rows else ""
    marks = "; ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    to = f" to {rows[0].reference}" if rows else ""
    return _table(
        head, lines, f"Difference in {METRICS[facts.metric].label}{to} [95 % interval].{size} {marks}."
    )


def _figure(title: str, png: Path, folder: Path) -> str:
    """A figure within the page, with links to its files."""
    encoded = base64.b64encode(png.read_bytes()).decode("ascii")
    files = [file for file in (png, png.with_suffix(".svg"), png.with_suffix(".csv")) if file.exists()]
    links = "".join(
        f'<a href="{quote(os.path.relpath(file, folder))}">{file.suffix[1:].upper()}</a>' for file in files
    )
    name = html.escape(title)
    return (
        f'<figure><img alt="{name}" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{name} &nbsp; {links}</figcaption></figure>"
    )

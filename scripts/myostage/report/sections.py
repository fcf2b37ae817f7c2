"""The sections of the page that only some studies have, and the rules by which they are judged."""

from myostage.report.by_metric import Section
from myostage.report.findings import (
    Facts,
    describe_runs,
)
from myostage.report.findings_regression import describe_regression
from myostage.report.findings_rivals import describe_rivals
from myostage.report.findings_spatial import describe_smoothing, describe_spatial, describe_stage_smoothing

RULES = (
    "What uses adjacent cells, and ordinal regression, is judged by this rule too, in each metric named; "
    "less energy is smoother attention, which is no gain in itself. smtap and srmil differ from a reference "
    "without Sm by their layers too. An experiment uses where cells lie only "
    "where it is better with true than with permuted coordinates. A rho, a "
    "cosine or a rank differs from 0, or from chance, where its interval excludes it."
)


def list_sections(facts: Facts) -> list[Section]:
    """The questions that the study asks."""
    return [
        section
        for asked in (
            describe_rivals,
            describe_smoothing,
            describe_spatial,
            describe_regression,
            describe_stage_smoothing,
        )
        if (section := asked(facts)) is not None
    ]


def describe_slide_runs(facts: Facts) -> list[str]:
    """What was run on labels of slides, beside what stages cells."""
    if facts.slide_runs is None or not facts.structure.parts:
        return []
    return describe_runs(facts.slide_runs, int(facts.slide_runs["fold"].nunique()), " on labels of slides")

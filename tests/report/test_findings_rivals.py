"""What the page says of rivals: their own section and table, apart from the main one."""

from pathlib import Path

from myostage.report import summary
from myostage.report.findings_rivals import describe_rivals
from support.study_facts import FULL, difference, everything, facts, parts

RIVALS = [
    {"name": "corn", "losses": {"prop": 1}, "training": {"classifier": "corn"}, "baseline": True},
    {"name": "emd", "losses": {"emd": 1}, "baseline": True},
    {"name": "sord", "losses": {"sord": 1}, "method": "supervised", "against": "supervised"},
]
MADE = parts([*FULL, *({**rival, "part": "rivals"} for rival in RIVALS)])
DIFFERENCES = [
    difference("corn", "prop", 0.05),
    difference("emd", "prop", -0.04),
    difference("sord", "supervised", 0.03, family="against"),
]


def test_rivals_are_counted_against_the_reference_and_label_learners_against_their_own() -> None:
    found = describe_rivals(facts([*everything(), *DIFFERENCES], MADE))
    assert found is not None
    assert "another head or loss helps at 1 of 2 settings, hurts at 1" in found.sentences[0]
    assert "against prop" in found.sentences[0]
    assert [(row.experiment, row.reference) for row in found.differences] == [
        ("corn", "prop"),
        ("emd", "prop"),
        ("sord", "supervised"),
    ]


def test_the_page_has_rivals_in_a_table_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "summary.html"
    summary.write(out, facts([*everything(), *DIFFERENCES], MADE))
    page = out.read_text(encoding="utf-8")
    main, rivals = page.split("<h3>Rivals</h3>")
    assert "corn" not in main.split("All methods, all metrics")[-1]
    assert "Do other heads and losses do better?" in page and "corn" in rivals
    assert not set(MADE.main) & {"corn", "emd", "sord"}


def test_a_study_without_rivals_says_nothing_of_them(tmp_path: Path) -> None:
    assert describe_rivals(facts(everything())) is None
    out = tmp_path / "summary.html"
    summary.write(out, facts(everything()))
    assert "Rivals" not in out.read_text(encoding="utf-8")

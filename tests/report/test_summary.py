"""The summary page: who plays which part, verdicts by rule, sentences from made-up numbers, and the page."""

import base64
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from myostage.evaluation import formatting
from myostage.evaluation.tables import CHOICES
from myostage.report import findings, summary
from myostage.study.structure import Structure
from support.study_facts import BOTH, FULL, difference, everything, facts, parts, row

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def test_structure_tells_the_parts_apart() -> None:
    made = parts(FULL)
    assert made.main == ["prop", "simprop", "combined", "frozen", "majority", "supervised"]
    assert len(made.grid) == 6
    assert made.grid["grid[sigma=0.05,bins=31]"] == {"sigma": 0.05, "bins": 31}
    assert made.weights == {
        0.1: "weight[losses.simprop=0.1]",
        1.0: "combined",
        10.0: "weight[losses.simprop=10]",
    }
    assert made.design == ["weight[losses.simprop=10]", "weight[losses.simprop=0.1]", "aligned"]
    assert made.against["aligned"] == made.against["weight[losses.simprop=10]"] == "combined"
    assert made.curves == {
        "noisy_prop": {
            0: "prop",
            0.2: "noisy_prop[proportion_noise=0.2]",
            0.4: "noisy_prop[proportion_noise=0.4]",
        },
        "noisy[bins=6]": {
            0: "combined",
            0.2: "noisy[proportion_noise=0.2,bins=6]",
            0.4: "noisy[proportion_noise=0.4,bins=6]",
        },
        "noisy[bins=31]": {
            0: "combined",
            0.2: "noisy[proportion_noise=0.2,bins=31]",
            0.4: "noisy[proportion_noise=0.4,bins=31]",
        },
    }
    assert made.baselines == ["frozen", "majority"]
    assert made.label_learners == ["supervised"]
    assert made.untrained == ["frozen"]
    assert made.fitted_afterwards == ["simprop"]
    assert made.smoothed == [] and made.regression == []
    assert made.reference == "prop"
    assert made.ordinal == {"with": "combined", "without": "prop"}
    assert made.losses["combined"] == BOTH and "majority" not in made.losses


def test_no_question_is_asked_of_label_learners_majorities_random_features_and_controls() -> None:
    random = {"losses": {"prop": 1}, "training": {"unfreeze": "none"}, "encoder": {"weights": "none"}}
    spatial = {"losses": {"prop": 1, "spatial_reconstruction": 1}}
    more = [{"name": "random", **random, "baseline": True}, {"name": "near", **spatial}]
    made = parts([*FULL, *more], graph={"by": "nearest", "neighbours": 8})
    assert made.untested == ["majority", "supervised", "random", "near[coordinates=permuted]"]


def test_structure_prefers_the_pair_with_the_reference_and_ignores_other_differences() -> None:
    pairs = [
        {"name": "a", "losses": BOTH},
        {"name": "b", "losses": {"prop": 1}},
        {"name": "c", "losses": BOTH, "training": {"steps": 10, "sigma": 0.4}},
        {"name": "d", "losses": {"prop": 1}, "training": {"steps": 10}},
    ]
    assert parts(pairs).ordinal == {"with": "a", "without": "b"}
    assert parts(pairs, compare={"reference": "d"}).ordinal == {"with": "c", "without": "d"}
    assert parts([pairs[0], pairs[3]]).ordinal == {}
    assert parts([pairs[0], {"name": "e", "losses": {"prop": 2}}]).ordinal == {}


def test_an_experiment_left_out_has_no_part_but_its_reason() -> None:
    made = parts(FULL, {"frozen": "package lightly is missing", "aligned": "no weights"})
    assert "frozen" not in made.main + made.baselines + made.untrained
    assert "aligned" not in made.design
    assert made.left_out == {"frozen": "package lightly is missing", "aligned": "no weights"}
    text = " ".join(findings.describe_study(facts([], made)))
    assert "Left out: frozen: package lightly is missing." in text


def test_structure_of_a_study_without_experiments_is_empty() -> None:
    made = parts([])
    assert made.main == [] and made.reference == "" and made.ordinal == {}


@pytest.mark.parametrize(
    ("value", "p", "verdict"),
    [
        (0.05, 0.01, "better"),
        (-0.05, 0.01, "worse"),
        (0.05, 0.05, "not significant"),  # not below alpha
        (0.05, np.nan, "not tested"),
        (np.nan, 0.01, "not tested"),
    ],
)
def test_verdicts_follow_the_rule_and_turn_where_less_is_better(value: float, p: float, verdict: str) -> None:
    assert row(value, p=p).judge(0.05) == verdict
    mirrored = {"better": "worse", "worse": "better"}.get(verdict, verdict)
    assert row(value, p=p, metric="kl").judge(0.05) == mirrored
    assert row(value, p=p).turned.judge(0.05) == mirrored
    assert row(value, p=p).turned.turned == row(value, p=p) or np.isnan([value, p]).any()


def test_the_ordinal_term_helps_with_everything_it_rests_on() -> None:
    first, second, *others = findings.answer_ordinal_term(
        facts([difference("combined", "prop", 0.03), difference("simprop", "prop", -0.2)])
    )
    assert first == (
        "The ordinal term (combined against prop) helps: accuracy +.030 [+.020, +.040]; 6 pairs, 9 slides; "
        "effect size 1.25; Holm-adjusted p = .001."
    )
    assert second == (
        "Accuracy is .800 [.750, .840] with it (combined) and .800 [.750, .840] without it (prop), on 4,573 "
        "cells of 9 slides."
    )
    assert others == [
        "Worse than prop (6 pairs, 9 slides): simprop (head fitted afterwards) -.200 [-.210, -.190]."
    ]


def test_no_difference_is_said_plainly_with_what_could_have_been_found() -> None:
    first = findings.answer_ordinal_term(facts([difference("combined", "prop", 0.004, p=0.6)]))[0]
    assert "makes no significant difference" in first
    assert first.endswith("minimum detectable effect .027.")


def test_the_ordinal_term_is_judged_from_its_own_side_where_it_is_the_reference() -> None:
    made = parts(FULL, compare={"reference": "combined"})
    first = findings.answer_ordinal_term(facts([difference("prop", "combined", -0.03)], made))[0]
    assert "(combined against prop) helps: accuracy +.030 [+.020, +.040]" in first


def test_one_pair_cannot_be_tested_and_two_can() -> None:
    one = difference("combined", "prop", 0.03, p=np.nan, pairs=1, detectable=np.nan)
    first = findings.answer_ordinal_term(facts([one]))[0]
    assert "is not tested" in first and "1 pair, 9 slides" in first and "not tested" in first
    two = difference("combined", "prop", 0.03, p=0.4, pairs=2)
    assert "2 pairs, 9 slides" in findings.answer_ordinal_term(facts([two]))[0]


def test_the_best_baseline_is_named_and_the_ceiling_is_told_apart() -> None:
    sentences = findings.compare_with_baselines(
        facts(
            [
                difference("combined", "frozen", 0.03, family="baseline"),
                difference("majority", "frozen", -0.3, family="baseline"),
                difference("supervised", "frozen", 0.1, family="baseline"),
            ]
        )
    )
    assert sentences == [
        "The best baseline is frozen, with accuracy .800 [.750, .840] on 4,573 cells of 9 slides.",
        "Better than frozen (6 pairs, 9 slides each): supervised (the ceiling, sees cell labels) +.100 "
        "[+.090, +.110]; combined +.030 [+.020, +.040].",
    ]


def test_the_grid_is_counted_and_its_sigmas_named() -> None:
    labels = list(parts(FULL).grid)  # sigma .05 then .1; bins 6, 31, 50 each
    values = [0.04, 0.004, -0.05, 0.03, 0.02, np.nan]
    rows = [difference(label, "prop", value) for label, value in zip(labels, values, strict=True)]
    rows[4]["p_holm"] = 0.2
    sentences = findings.describe_grid(facts(rows))
    assert sentences[0] == (
        "At 6 points of sigma (.05 to .1) and bins (6 to 50), against prop: the ordinal term helps at 2, "
        "hurts at 1, makes no significant difference at 2 and is not tested at 1 (6 pairs, 9 slides each)."
    )
    assert sentences[1] == (
        "The difference is significantly better at sigma .05 (1 of 3 bins) and .1 (1 of 3 bins)."
    )
    assert sentences[2].startswith("The best point is sigma .05, 6 bins: accuracy +.040")
    assert sentences[3].startswith("The worst point is sigma .05, 50 bins: accuracy -.050")
    assert sentences[4].startswith("At the paper's point (sigma .1, 6 bins): accuracy +.030")


def test_the_grid_of_a_metric_of_which_less_is_better() -> None:
    labels = list(parts(FULL).grid)
    rows = [difference(label, "prop", -0.02 * n, metric="kl") for n, label in enumerate(labels)]
    sentences = findings.describe_grid(facts(rows, metrics=("kl",)))
    assert "helps at 5, hurts at none and makes no significant difference at 1" in sentences[0]
    assert sentences[2].startswith("The best point is sigma .1, 50 bins: KL to the given proportions -.100")


def test_weights_are_compared_with_prop_and_not_with_what_they_change() -> None:
    rows = [
        difference("combined", "prop", 0.03),
        difference("weight[losses.simprop=10]", "prop", -0.1),
        difference("weight[losses.simprop=10]", "combined", -0.13, family="against"),
    ]
    sentences = findings.describe_weights(facts(rows))
    assert sentences == [
        "At 3 weights of L_SimProp (.1 to 10), against prop: the ordinal term helps at 1, hurts at 1, makes "
        "no significant difference at none and is not tested at 1 (6 pairs, 9 slides each).",
        "It helps at weight 1 (+.030 [+.020, +.040]).",
        "It hurts at weight 10 (-.100 [-.110, -.090]).",
    ]


CURVES = [
    {"name": "prop", "losses": {"prop": 1}},
    {"name": "combined", "losses": BOTH},
    *(
        {
            "name": f"noisy_{name}",
            "losses": losses,
            "vary": {"proportion_noise": [0.1, 0.2, 0.4]},
            "part": "proportions",
            "against": name,
        }
        for name, losses in (("prop", {"prop": 1}), ("combined", BOTH))
    ),
]


def noisy(name: str, values: list[float]) -> list[dict[str, Any]]:
    return [
        difference(f"noisy_{name}[proportion_noise={t:g}]", name, value, family="against")
        for t, value in zip((0.1, 0.2, 0.4), values, strict=True)
    ]


def test_wrong_proportions_harm_from_where_every_stronger_one_does() -> None:
    made = parts(CURVES)
    rows = noisy("prop", [-0.03, -0.005, -0.2]) + noisy("combined", [0.0, -0.03, -0.06])
    prop, combined, both = findings.describe_wrong_proportions(facts(rows, made))
    assert prop.startswith(
        "noisy_prop: accuracy gets worse from t = .4 on: -.200 [-.210, -.190] there (6 pairs"
    )
    assert "from t = .2 on: -.030 [-.040, -.020] there, at t = .4 -.060 [-.070, -.050]" in combined
    assert combined.endswith("; up to t = .1 no significant fall.")
    assert both.startswith("noisy_combined withstands wrong proportions better than noisy_prop: at t = .4")


def test_wrong_proportions_without_a_fall_or_without_numbers() -> None:
    made = parts(CURVES)
    prop, combined, both = findings.describe_wrong_proportions(
        facts(noisy("prop", [0.0, -0.03, 0.0]) + noisy("combined", [0.0, 0.001, 0.005]), made)
    )
    assert "no significant fall at every t from one on (only at .2)" in prop
    assert "noisy_combined: no significant fall up to t = .4" in combined
    assert both.startswith("Neither noisy_combined nor noisy_prop can be said to withstand")
    assert all(
        "not compared with right proportions" in text
        for text in findings.describe_wrong_proportions(facts([], made))[:2]
    )


def test_choices_that_matter_come_first_and_largest() -> None:
    rows = [
        difference("aligned", "combined", 0.02, family="against"),
        difference("aligned", "prop", -0.5),
        difference("weight[losses.simprop=10]", "combined", -0.13, family="against"),
        difference("weight[losses.simprop=0.1]", "combined", 0.005, family="against", p=0.7),
    ]
    sentences = findings.describe_design(facts(rows))
    assert sentences[0] == "Of 3 choices, 2 change accuracy significantly."
    assert sentences[1].startswith("weight[losses.simprop=10] is worse than combined: accuracy -.130")
    assert sentences[2].startswith("aligned is better than combined: accuracy +.020")
    assert sentences[3] == (
        "Not significant (6 pairs, 9 slides), each with its minimum detectable effect: "
        "weight[losses.simprop=0.1] .027."
    )
    assert findings.describe_design(facts(rows[:2]))[-1] == (
        "Not compared: weight[losses.simprop=10] and weight[losses.simprop=0.1]."
    )


def test_failed_runs_are_told_with_their_reason() -> None:
    text = " ".join(
        findings.describe_study(facts([], failed={"combined-f1-s0": "the loss is nan at step 12"}))
    )
    assert (
        "Study trial: 9 slides of 5 animals, 900 cells, 3 folds; stages damaged < recovered < intact." in text
    )
    assert "1 more slide is staged and not learnt from." in text
    assert (
        "6 experiments over 3 folds and up to 2 seeds took 36 runs, shared ones counted once; 1 failed."
        in text
    )
    assert "Failed: combined-f1-s0 of combined: the loss is nan at step 12." in text


def test_the_page_says_which_intervals_cannot_be_trusted_and_what_would_do() -> None:
    made = facts([difference("combined", "prop", 0.03, trusted=False)])
    few = made.metrics.assign(method="folds", trusted=False, animals=5)
    text = " ".join(findings.describe_study(replace(made, metrics=few)))
    assert "With one seed the noise of training shows between folds alone" in text and "Two seeds" in text
    assert "Intervals with * are not to be trusted: they rest on 5 of the 10 animals" in text
    row = made.between("combined", "prop")
    assert row is not None and row.interval == "+.030 [+.020, +.040]*"
    assert "it would take" not in text, "no spread was seen"
    for needed, said in ((1234.0, "about 1,234 animals"), (np.inf, "over a million animals")):
        seen = facts([difference("combined", "prop", 0.03, trusted=False) | {"animals_needed": needed}])
        text = " ".join(findings.describe_noise(replace(seen, metrics=few)))
        assert f"a difference of .050 in accuracy between combined and prop, it would take {said}" in text
    assert "it would take" not in " ".join(findings.describe_noise(seen)), "enough animals"


def test_the_page_names_what_has_not_converged_and_marks_it(tmp_path: Path) -> None:
    made = facts(everything())
    late = made.runs.assign(loss_change=np.where(made.runs["experiment"] == "combined", -0.2, -0.01))
    unsettled = replace(made, runs=late)
    text = " ".join(findings.describe_study(unsettled))
    assert (
        "Not converged: combined (its loss still falls by 20% in 6 of 6 runs). A comparison with any of "
        "these is one at this budget alone."
    ) in text
    assert unsettled.name("combined") == "combined (not converged)" and unsettled.name("prop") == "prop"
    summary.write(tmp_path / "page.html", unsettled)
    page = (tmp_path / "page.html").read_text()
    assert "combined §" in page and "prop §" not in page
    unknown = replace(made, runs=late.assign(loss_change=np.nan))
    assert "Whether they had converged cannot be said" in " ".join(findings.describe_study(unknown))


def test_the_page_says_what_its_comparison_cannot_show() -> None:
    plain = " ".join(findings.describe_study(facts([])))
    assert "Runs took 300 training steps. All have converged" in plain and "not to be trusted" not in plain
    assert "transductive" not in plain and "released" not in plain
    made = replace(parts(FULL), transductive=["frozen"], released=["aligned"])
    text = " ".join(findings.describe_study(facts([], made)))
    assert "DINO has seen the crops of held-out animals in frozen" in text
    assert "aligned (preset released): losses and training of OSLSP's released code" in text


def test_what_is_transductive_or_released_is_read_from_the_study() -> None:
    made = parts(
        [
            {"name": "transductive", "losses": {"prop": 1}, "encoder": {"dino": {"crops": "all"}}},
            {"name": "dino", "losses": {"prop": 1}, "encoder": {"dino": {}}},
            {"name": "b", "preset": "released"},
        ]
    )
    assert (made.transductive, made.released) == (["transductive"], ["b"])


def correlations(before: float, after: float, half: float = 0.05) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "experiment": name,
                "rho": rho,
                "low": rho - half,
                "high": rho + half,
                "slides": 9,
                "cells": 4573,
            }
            for name, rho in (("frozen", before), ("combined", after), ("prop", np.nan))
        ]
    )


def test_geometry_before_and_after() -> None:
    before, after, change = findings.describe_geometry(facts([], correlations=correlations(0.4, 0.6)))
    assert before.endswith("is .40 [.35, .45] in frozen (4,573 cells of 9 slides).")
    assert ".60 [.55, .65] in combined" in after and "– without interval in prop" in after
    assert change == "combined has a higher rho than frozen, and the intervals lie apart."
    assert "overlap" in findings.describe_geometry(facts([], correlations=correlations(0.4, 0.41)))[-1]
    assert "not measured" in findings.describe_geometry(facts([]))[0]


def test_cost_is_a_ratio_over_pairs_and_leaves_resumed_runs_out() -> None:
    whole = facts([])
    # 80, 81, 82 s against 40, 41, 42 s
    assert findings.describe_cost(whole) == [
        "A run of combined takes 1.98 times the wall time of one of prop (median of 6 pairs, 1.95 to 2.00).",
        "A run of combined takes 1.00 times the CPU time of one of prop (median of 6 pairs, 1.00 to 1.00).",
        "A run of combined takes 1.00 times the peak memory of one of prop (median of 6 pairs, 1.00 to "
        "1.00).",
        "Energy is unknown: the machine does not tell it.",
    ]
    runs = whole.runs.copy()
    cut = (runs["experiment"] == "combined") & (runs["fold"] == 0) & (runs["seed"] == 0)
    runs.loc[cut, ["steps", "seconds"]] = 10, 1.0
    sentences = findings.describe_cost(replace(whole, runs=runs))
    assert "median of 5 pairs" in sentences[0]
    assert sentences[-1].startswith("1 resumed run left out")


def test_without_labels_the_page_speaks_of_the_kl() -> None:
    rows = [difference("combined", "prop", -0.03, metric="kl")]
    unlabelled = facts(rows, metrics=("kl",))
    assert (
        "helps: KL to the given proportions -.030 [-.040, -.020]"
        in findings.answer_ordinal_term(unlabelled)[0]
    )
    assert "No accuracy could be measured, so this page speaks of KL" in " ".join(
        findings.describe_study(unlabelled)
    )
    assert "of which less is better" in summary.rules(unlabelled)


def test_the_headline_is_three_sentences() -> None:
    rows = [
        difference("combined", "prop", 0.004, p=0.7),
        difference("combined", "frozen", 0.05, family="baseline"),
        *(difference(label, "prop", 0.03) for label in parts(FULL).grid),
    ]
    first, second, third = summary.headline(facts(rows))
    assert first.startswith("The ordinal term (combined against prop) makes no significant difference")
    assert second.startswith("combined is better than frozen: accuracy +.050")
    assert "the ordinal term helps at 6" in third


def test_the_page_stands_alone_and_shows_every_part(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for suffix in ("png", "svg", "csv"):
        (tmp_path / f"figures/grid map.{suffix}").write_bytes(PIXEL)
    made = replace(
        parts(FULL, {"frozen": "no weights"}),
        quoted=[{"method": "OSLSP", "metric": "accuracy", "value": 0.46005, "source": "arXiv 2505.04150"}],
    )
    choices = pd.DataFrame(
        [
            ("combined", f"combined-f{fold}", fold, 0, number, f"steps {steps}", value, 6, chosen)
            for fold in (0, 1)
            for number, (steps, value, chosen) in enumerate(((100, 0.25, False), (300, 0.125, True)))
        ],
        columns=CHOICES.schema.names,
    )
    whole = facts(
        everything(),
        made,
        choices=choices,
        correlations=correlations(0.4, 0.6),
        figures=[("Grid <map>", tmp_path / "figures/grid map.png")],
    )
    summary.write(tmp_path / "summary.html", whole)
    page = (tmp_path / "summary.html").read_text()
    assert base64.b64encode(PIXEL).decode() in page
    assert not re.findall(r'src="(?!data:)|<link|<script|@import|url\(', page)
    for suffix in ("png", "svg", "csv"):
        assert f'href="figures/grid%20map.{suffix}"' in page
    assert "Grid &lt;map&gt;" in page and "<map>" not in page
    assert ".46005" in page and formatting.QUOTED in page
    assert "simprop ‡" in page and "supervised †" in page
    for sentence in (
        *findings.answer_ordinal_term(whole),
        *findings.describe_wrong_proportions(whole),
        *summary.headline(whole),
    ):
        assert sentence.replace("<", "&lt;").replace("'", "&#39;") in page
    assert page.count("<svg") >= len(made.design)
    assert "combined, 2 candidates: steps 300 (2 of 2)." in page
    assert "No cell label and no held-out animal was read." in page
    assert page.count(".125 (chosen)") == 2 and page.count("<td>.250</td>") == 2


def test_slides_left_out_have_a_section_with_their_reasons(tmp_path: Path) -> None:
    page = tmp_path / "summary.html"
    summary.write(page, facts(everything()))
    assert "Slides left out" not in page.read_text()
    unused = {"d3_m1": "d3_m1.svs: the file is empty; copy it again", "d7_m2": "level <2> is cut short"}
    summary.write(page, facts(everything(), unused=unused))
    text = page.read_text()
    assert '<a href="#unused">Slides left out</a>' in text
    section = text.split('<h2 id="unused">Slides left out</h2>')[1].split("<h2")[0]
    assert "<li>d3_m1: d3_m1.svs: the file is empty; copy it again</li>" in section
    assert "<li>d7_m2: level &lt;2&gt; is cut short</li>" in section
    assert f"To try a slide again, delete its folder, {tmp_path}/slides/ and its name, and run" in section


@pytest.mark.parametrize(
    "made",
    [
        parts([{"name": "only", "losses": {"prop": 1}}]),
        parts([{"name": "majority", "method": "majority"}]),
        parts(FULL),
    ],
    ids=["one experiment", "nothing learnt", "nothing compared"],
)
@pytest.mark.parametrize("metrics", [("accuracy", "kl"), ("kl",), ()])
def test_the_page_is_written_whatever_is_missing(
    tmp_path: Path, made: Structure, metrics: tuple[str, ...]
) -> None:
    summary.write(tmp_path / "summary.html", facts([], made, metrics=metrics))
    assert "cannot be said" in (tmp_path / "summary.html").read_text() or made.ordinal
    assert len(summary.headline(facts([], made, metrics=metrics))) == 3


def test_missing_numbers_and_names_that_look_like_markup(tmp_path: Path) -> None:
    name = "a<b>&c"
    made = replace(parts(FULL), main=["prop", name], ordinal={"with": name, "without": "prop"}, design=[name])
    rows = [
        difference(name, "prop", np.nan, np.nan, p=np.nan, detectable=np.nan),
        *(difference(label, "prop", np.nan, np.nan, p=np.nan, detectable=np.nan) for label in made.grid),
    ]
    whole = facts(
        rows, made, failed={f"{name}-f{f}-s{s}": f"<nan> at {name}" for f in range(3) for s in range(2)}
    )
    summary.write(tmp_path / "summary.html", whole)
    page = (tmp_path / "summary.html").read_text()
    assert name not in page and "<nan>" not in page
    assert "a&lt;b&gt;&amp;c" in page
    assert "nan" not in re.sub(r"&lt;nan&gt;", "", page)
    assert findings.describe_grid(whole)[0].count("is not tested at 6") == 1

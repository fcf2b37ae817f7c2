"""What a study found of neighbours and ordinal regression: sentences that turn with made-up numbers."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from myostage import tables
from myostage.evaluation.tables import ALGEBRA, BORDERS, COMPARISONS, METRICS, RUNS, SPECTRUM
from myostage.report import findings_regression, findings_spatial, sections, summary
from myostage.report.by_metric import Section
from myostage.report.findings import Facts
from myostage.study.plan import Plan
from myostage.study.sections.study import Study
from myostage.study.structure import SlideStructure, Structure, slide_structure, structure
from support.study_facts import difference, everything
from support.study_facts import facts as of_cells
from support.study_tables import add_neighbours, make

ABMIL = {"name": "abmil", "method": "slide", "mil": {"model": "abmil"}, "part": "attention"}
SMAP = {"name": "smap", "method": "slide", "vary": {"mil.alpha": [0.1, 0.5, 0.9]}, "part": "attention"}
SRMIL = {"name": "srmil", "method": "slide", "mil": {"model": "srmil"}, "part": "spatial"}
EXPERIMENTS: list[dict[str, Any]] = [
    {"name": "prop", "losses": {"prop": 1}},
    {"name": "sm_logits", "losses": {"prop": 1}, "training": {"smooth": "logits"}},
    {"name": "sm_embedding", "losses": {"prop": 1}, "training": {"smooth": "embedding"}},
    {"name": "reconstruction", "losses": {"prop": 1, "spatial_reconstruction": 1}},
    ABMIL,
    SMAP,
    {"name": "smtap", "method": "slide", "mil": {"model": "smtap"}, "part": "attention"},
    {"name": "abmil_day", "method": "slide", "mil": {"model": "abmil", "label": "day"}, "part": "attention"},
    {"name": "smap_day", "method": "slide", "mil": {"label": "day"}, "part": "attention"},
    SRMIL,
    {
        "name": "plain",
        "method": "slide",
        "mil": {"model": "srmil"},
        "losses": {"slide": 0.4},
        "against": "srmil",
        "part": "spatial",
    },
    {"name": "mse", "losses": {"mse": 1}, "part": "regression"},
    {"name": "mse_dist", "losses": {"mse": 1, "dist": 1}, "part": "regression", "against": "mse"},
    {"name": "mse_cell", "losses": {"mse": 1, "cell": 1}, "part": "regression", "against": "mse"},
    {
        "name": "both",
        "losses": {"mse": 1, "supcr": 1, "cell": 1},
        "part": "regression",
        "against": "mse_cell",
    },
    {
        "name": "halves",
        "losses": {"mse": 1, "supcr": 1, "cell": 1},
        "training": {"embedding_parts": "halves"},
        "part": "regression",
        "against": "both",
    },
]
SMAPS = [f"smap[alpha={alpha}]" for alpha in (0.1, 0.5, 0.9)]
PERMUTED = "[coordinates=permuted]"
SLIDE_METRICS = ("bag_auroc", "instance_auroc", "instance_f1", "energy")
STAGE_METRICS = ("stage_mae", "stage_spearman", "stage_w1", "stage_tail_mae")


def study(experiments: list[dict[str, Any]], **changes: Any) -> Study:
    injured = {"kind": "binary", "classes": {"uninjured": ["d0"], "injured": ["d3"]}}
    return Study.model_validate(
        {
            "study": "trial",
            "stages": ("damaged", "recovered", "intact"),
            "slides": "slides.tsv",
            "proportions": "proportions.tsv",
            "healthy": {"groups": ["d0"], "stages": ["intact"]},
            "slide_labels": {"injured": injured, "day": {**injured, "kind": "ordinal"}},
            "folds": 3,
            "seeds": (0, 1),
            "experiments": experiments,
            "compare": {"slides": "abmil"},
        }
        | changes
    )


def measured(labels: list[str], metrics: tuple[str, ...]) -> pd.DataFrame:
    whole = {"run": "", "fold": -1, "seed": -1, "value": 0.8, "low": 0.75, "high": 0.84}
    rows = [
        {"experiment": label, "metric": metric, "slides": 9, "cells": 4573} | whole
        for label in labels
        for metric in metrics
    ]
    return pd.DataFrame(rows, columns=METRICS.schema.names)


def compare(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COMPARISONS.schema.names)


def facts(
    slides: list[dict[str, Any]] | None = None,
    cells: list[dict[str, Any]] | None = None,
    experiments: list[dict[str, Any]] | None = None,
    *,
    metrics: tuple[str, ...] = SLIDE_METRICS,
    stage_metrics: tuple[str, ...] = STAGE_METRICS,
    of_study: dict[str, Any] | None = None,
    **changes: Any,
) -> Facts:
    """A study of which everything is measured at .8, with the given differences on slides and on cells."""
    made = study(EXPERIMENTS if experiments is None else experiments, **(of_study or {}))
    on_cells, on_slides = Plan(made).experiments, Plan(made).slide_experiments
    runs = [
        {"experiment": label, "run": f"{label}-f{spec.fold}-s{spec.seed}", "fold": spec.fold}
        | {"seed": spec.seed, "status": "ok", "reason": "", "device": "cpu", "steps": 300}
        for label, specs in on_slides.items()
        for spec in specs
    ]
    of_slides = {
        "slide_structure": SlideStructure(**slide_structure(made, on_slides)),
        "models": {label: specs[0].mil.model for label, specs in on_slides.items() if specs[0].mil},
        "slide_metrics": measured(list(on_slides), metrics),
        "slide_comparisons": pd.DataFrame(slides or [], columns=COMPARISONS.schema.names),
        "slide_runs": pd.DataFrame(runs, columns=RUNS.schema.names),
    }
    known = measured(list(on_cells), ("accuracy", *stage_metrics))
    whole = of_cells(cells or [], Structure(**structure(made, on_cells, {})))
    return replace(whole, **({"metrics": known} | (of_slides if on_slides else {}) | changes))


def said(section: Section | None) -> str:
    assert section is not None
    return "\n".join(section.sentences)


def smaps(values: list[float], metric: str = "bag_auroc", **changes: Any) -> list[dict[str, Any]]:
    """Each alpha against abmil."""
    pairs = zip(SMAPS, values, strict=True)
    return [difference(label, "abmil", value, metric=metric, **changes) for label, value in pairs]


def test_a_study_without_neighbours_has_no_section() -> None:
    plain = of_cells(everything())
    assert sections.list_sections(plain) == [] and sections.describe_slide_runs(plain) == []
    assert sections.list_sections(facts(experiments=[EXPERIMENTS[0]])) == []


def test_what_smooths_stages_is_known_by_its_training() -> None:
    assert facts().structure.smoothed == ["sm_logits", "sm_embedding"]


def test_smoothing_attention_is_counted_over_its_settings_and_its_ends_are_named() -> None:
    rows = [*smaps([0.05, 0.004, -0.03]), difference("smtap", "abmil", np.nan, metric="bag_auroc", p=np.nan)]
    first, best, worst, *_ = findings_spatial.describe_smoothing(facts(rows)).sentences
    assert first == (
        "Slide AUROC: smoothing attention helps at 1 of 4 settings, hurts at 1, makes no "
        "significant difference at 1 and is not tested at 1, against abmil (6 pairs, 9 slides each; minimum "
        "detectable effect .03)."
    )
    assert best == (
        "The best setting is smap[alpha=0.1]: slide AUROC +.05 [+.04, +.06]; 6 pairs, 9 slides; effect "
        "size 1.25; Holm-adjusted p = .001."
    )
    assert worst.startswith("The worst setting is smap[alpha=0.9]: slide AUROC -.03 [-.04, -.02]")


def test_verdicts_on_smoothing_turn_with_the_numbers() -> None:
    first = findings_spatial.describe_smoothing(facts(smaps([-0.05, -0.04, -0.03]))).sentences[0]
    assert "helps at none of 3 settings, hurts at 3 and makes no significant difference" in first
    assert "it could have found" not in first
    first = findings_spatial.describe_smoothing(facts(smaps([0.05, 0.04, 0.03], p=0.2))).sentences[0]
    assert "hurts at none and makes no significant difference at 3," in first


def test_less_energy_is_told_as_smoother_and_not_as_help() -> None:
    text = said(findings_spatial.describe_smoothing(facts(smaps([-0.3, -0.2, 0.1], "energy"))))
    assert (
        "Dirichlet energy of the attention: smoothing attention lowers it at 2 of 3 settings, raises it at 1"
    ) in text
    assert "The smoothest setting is smap[alpha=0.1]: Dirichlet energy of the attention -.30" in text
    assert "The roughest setting is smap[alpha=0.9]" in text


def test_each_label_of_slides_has_a_reference_of_its_own() -> None:
    rows = [*smaps([0.05] * 3), difference("smap_day", "abmil_day", -0.2, metric="bag_auroc")]
    text = said(findings_spatial.describe_smoothing(facts(rows)))
    assert "helps at 3 of 3 settings" in text
    assert "smap_day is worse than abmil_day: slide AUROC -.20" in text


def test_the_metric_that_the_study_names_for_slides_comes_first() -> None:
    whole = facts(
        [*smaps([0.05] * 3), *smaps([-0.05] * 3, "instance_f1")],
        of_study={"compare": {"slides": "abmil", "slide_metric": "instance_f1"}},
    )
    section = findings_spatial.describe_smoothing(whole)
    assert section and section.sentences[0].startswith(
        "Cell F1 of the attention: smoothing attention helps at none"
    )
    assert {row.metric for row in section.differences} == {"instance_f1"}


def test_a_reference_that_smooths_itself_is_no_judge() -> None:
    text = said(
        findings_spatial.describe_smoothing(
            facts(
                smaps([0.05] * 3),
                [],
                [SMAP, {"name": "x", **{k: v for k, v in ABMIL.items() if k != "name"}}],
                of_study={"compare": {}},
            )
        )
    )
    assert "smap[alpha=0.1] smooths attention itself" in text and "helps at" not in text


def test_metrics_that_could_not_be_measured_are_named() -> None:
    # one label of slides only: no AUROC; no cell labelled: nothing of cells
    text = said(findings_spatial.describe_smoothing(facts(smaps([-0.1] * 3, "energy"), metrics=("energy",))))
    assert text.startswith("Dirichlet energy")
    assert (
        "Not measured, or compared with nothing: slide AUROC, cell AUROC of the attention and cell F1" in text
    )
    text = said(findings_spatial.describe_smoothing(facts(metrics=())))
    assert text == "Whether smoothing attention helps cannot be said: nothing was measured and compared."


def test_without_a_comparison_nothing_is_claimed() -> None:
    for section in sections.list_sections(facts()):
        assert re.search("nothing was measured and compared|with nothing|could not be", section.sentences[0])
        assert "helps at" not in said(section) and section.differences == []
    rows = smaps([np.nan] * 3, p=np.nan, pairs=0, detectable=np.nan)
    text = said(findings_spatial.describe_smoothing(facts(rows)))
    assert "at none and is not tested at 3, against abmil" in text
    assert "The best" not in text and "nan" not in text


def test_failed_runs_of_slide_labels_are_told() -> None:
    whole = facts()
    assert whole.slide_runs is not None
    runs = whole.slide_runs.copy()
    runs.loc[runs["run"] == "smtap-f1-s0", ["status", "reason"]] = "failed", "the loss is nan"
    first, *others = sections.describe_slide_runs(replace(whole, slide_runs=runs))
    assert first == (
        "10 experiments on labels of slides over 3 folds and up to 2 seeds took 60 runs, shared ones counted "
        "once; 1 failed."
    )
    assert others[0] == "Failed: smtap-f1-s0 of smtap: the loss is nan."


EDGES = np.linspace(0, 2, 9)


def spectrum(raw: float, smoothed: float, rising: bool = True, slides: int = 7) -> pd.DataFrame:
    """Slides with about these shares of power below .5, and localisation that rises or falls with them."""
    rows = []
    for slide in range(slides):
        for signal, share in (("raw", raw), ("smoothed", smoothed)):
            own = share + 0.01 * slide
            shares = [own / 2] * 2 + [(1 - own) / 6] * 6
            frame = pd.DataFrame({"low": EDGES[:-1], "high": EDGES[1:], "share": shares})
            place = slide ^ 1 if slide < 2 else slide  # two slides change places
            numbers = {"energy": 1.0, "instance_auroc": 0.6 + (0.02 if rising else -0.02) * place}
            key = {"experiment": "abmil", "signal": signal, "slide": f"s{slide}", "animal": f"a{slide}"}
            rows.append(frame.assign(**key, **numbers))
    return pd.concat(rows, ignore_index=True)


def test_the_spectrum_is_told_before_and_after_with_its_relation_to_localisation() -> None:
    text = said(findings_spatial.describe_smoothing(facts(spectrum=spectrum(0.3, 0.7))))
    assert (
        "below eigenvalue .5 is .33 [.31, .35] as the model gives it and .73 [.71, .75] smoothed by Sm"
        in text
    )
    assert "a difference of +.40 [+.40, +.40] (7 slides)." in text
    assert "over slides of abmil is .96 [.81, 1.00] (7 slides), its interval excludes 0." in text
    assert "is -.96 [-1.00, -.81]" in said(
        findings_spatial.describe_smoothing(facts(spectrum=spectrum(0.3, 0.7, rising=False)))
    )


def test_a_spectrum_of_too_few_slides_or_of_constant_attention() -> None:
    few = said(findings_spatial.describe_smoothing(facts(spectrum=spectrum(0.3, 0.7, slides=1))))
    assert (
        "cannot be said (1 slide with cells of both kinds)." in few and "is .30 as the model gives it" in few
    )
    flat = spectrum(0.3, 0.7).assign(share=np.nan)
    text = said(findings_spatial.describe_smoothing(facts(spectrum=flat)))
    assert "Attention of abmil has no spectrum: it is constant on every slide." in text and "nan" not in text


def borders(kinds: dict[str, list[float]], half: float = 0.05) -> pd.DataFrame:
    """abmil tells .7 of the cells rightly in each of three bands; smap as many more as given."""
    bands = [(-np.inf, 0.0), (0.0, 40.0), (40.0, np.inf)]
    rows = [
        {"experiment": name, "border": kind, "low_um": low, "high_um": high, "cells": 100, "slides": 6}
        | {"correct": right, "correct_low": right - half, "correct_high": right + half}
        for kind, gains in kinds.items()
        for (low, high), gain in zip(bands, gains, strict=True)
        for name, right in (("abmil", 0.7), (SMAPS[1], 0.7 + gain))
    ]
    return pd.DataFrame(rows, columns=BORDERS.schema.names)


def test_smoothing_is_worse_at_a_border_only_where_intervals_lie_apart() -> None:
    table = borders({"sharp": [0.2, -0.2, 0.0], "diffuse": [0.0, -0.09, 0.0], "all": [0.0, -0.3, 0.0]})
    text = said(findings_spatial.describe_smoothing(facts(borders=table)))
    assert (
        "At sharp borders, by intervals that lie apart, smap[alpha=0.5] tells fewer cells rightly than "
        "abmil in 1 band (0 to 40 µm: .50 [.45, .55] against .70 [.65, .75]), and more in 1 band (beyond 0 "
        "µm inside: .90 [.85, .95] against .70 [.65, .75]) (3 of 3 bands of distance judged, 300 cells of "
        "up to 6 slides)."
    ) in text
    assert (
        "At diffuse borders, by intervals that lie apart, smap[alpha=0.5] tells fewer cells rightly than "
        "abmil in none, and more in none (3" in text
    )
    assert "At all borders" not in text


def test_borders_of_one_kind_of_one_slide_or_without_the_model_that_does_not_smooth() -> None:
    text = said(findings_spatial.describe_smoothing(facts(borders=borders({"all": [0.0, 0.0, -0.2]}))))
    assert "At all borders" in text and "(beyond 40 µm outside: " in text
    nothing = "At no border of the injured region could smoothing be compared with its absence."
    for table in (
        borders({"sharp": [-0.5] * 3}, half=np.nan),
        borders({"sharp": [-0.5] * 3}).query("experiment != 'abmil'"),
        borders({}),
    ):
        assert nothing in said(findings_spatial.describe_smoothing(facts(borders=table)))


def controlled(value: float, metric: str = "bag_auroc", **changes: Any) -> dict[str, Any]:
    return difference("srmil", f"srmil{PERMUTED}", value, metric=metric, family="against", **changes)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (controlled(0.05), "uses where cells lie (6 pairs, 9 slides): srmil +.05 [+.04, +.06]."),
        (controlled(-0.05), "worse with true coordinates (6 pairs, 9 slides): srmil -.05 [-.06, -.04]."),
        (
            controlled(0.005),
            "no significant use of where cells lie (6 pairs, 9 slides; minimum detectable effect .03): srmil",
        ),
        (controlled(0.05, p=0.2), "no significant use of where cells lie"),
        (controlled(np.nan, p=np.nan), "not tested"),
    ],
)
def test_srmil_uses_where_cells_lie_only_if_it_beats_permuted_coordinates(
    row: dict[str, Any], words: str
) -> None:
    text = said(findings_spatial.describe_spatial(facts([row])))
    assert f"SRMIL, slide AUROC, true minus permuted coordinates: {words}" in text
    assert ("uses where cells lie" in text) == words.startswith("uses")


def test_spatial_regularisation_is_told_against_the_reference_and_against_its_absence() -> None:
    rows = [
        difference("srmil", "abmil", -0.05, metric="bag_auroc"),
        difference("plain", "abmil", 0.03, metric="bag_auroc"),
        difference("plain", "srmil", 0.08, metric="bag_auroc", family="against"),
        controlled(0.0),
    ]
    section = findings_spatial.describe_spatial(facts(rows))
    text = said(section)
    assert text.startswith("srmil is worse than abmil: slide AUROC -.05 [-.06, -.04]; 6 pairs, 9 slides")
    assert "Without reconstruction plain is better than abmil: slide AUROC +.03" in text
    assert "srmil is worse than plain: slide AUROC -.08 [-.09, -.07]" in text
    assert section and [row.reference for row in section.differences] == ["abmil", f"srmil{PERMUTED}"]


def test_the_reconstruction_term_of_oslsp_has_its_control_and_l_prop_alone() -> None:
    rows = [
        difference("reconstruction", f"reconstruction{PERMUTED}", 0.05, family="against"),
        difference("reconstruction", "prop", -0.05),
    ]
    text = said(findings_spatial.describe_spatial(facts(cells=rows, experiments=EXPERIMENTS[:4])))
    assert text.startswith(
        "OSLSP, accuracy, true minus permuted coordinates: uses where cells lie (6 pairs, 9 slides): "
        "reconstruction +.050 [+.040, +.060].\nreconstruction is worse than prop: accuracy -.050"
    )
    text = said(findings_spatial.describe_spatial(facts(experiments=EXPERIMENTS[:4])))
    assert text == (
        "OSLSP, accuracy, true minus permuted coordinates: reconstruction could not be compared.\n"
        "reconstruction was not compared with L_prop alone."
    )


def terms(value: float, metric: str = "stage_mae") -> list[dict[str, Any]]:
    pairs = (("mse_dist", "mse"), ("mse_cell", "mse"), ("both", "mse_cell"), ("halves", "both"))
    return [
        *(difference(one, "prop", value, metric=metric) for one in ("mse", "mse_dist", "mse_cell", "both")),
        *(difference(one, other, 0.001, metric=metric, family="against") for one, other in pairs[1:]),
        difference("mse_dist", "mse", value, metric=metric, family="against"),
    ]


def test_ordinal_regression_is_told_in_stages_of_which_less_is_better() -> None:
    section = findings_regression.describe_regression(facts(cells=terms(-0.2)))
    text = said(section)
    assert text.startswith(
        "MAE of a slide's expected stage: ordinal regression helps at 4 of 4 settings, hurts at none"
    )
    assert (
        "What each changes: mse_dist adds dist to mse; mse_cell adds cell to mse; both adds supcr to "
        "mse_cell; halves changes a setting of both."
    ) in text
    assert "Of 4 choices, 1 changes MAE of a slide's expected stage" in text
    assert "mse_dist is better than mse: MAE of a slide's expected stage -.200" in text
    assert section and len(section.differences) == 4
    assert "hurts at 4 and" in said(findings_regression.describe_regression(facts(cells=terms(0.2))))
    rho = said(findings_regression.describe_regression(facts(cells=terms(-0.2, "stage_spearman"))))
    assert "Spearman's rho of slides' expected stages: ordinal regression helps at none of 4" in rho


def test_without_labelled_cells_ordinal_regression_is_told_in_the_metric_of_the_page() -> None:
    whole = facts(cells=terms(-0.2, "accuracy"), stage_metrics=())
    text = said(findings_regression.describe_regression(whole))
    assert text.startswith("Accuracy: ordinal regression helps at none of 4 settings, hurts at 4")
    assert "Not measured, or compared with nothing: MAE of a slide's expected stage, Spearman's rho" in text


def histories(cosines: dict[str, list[float]], steps: int = 4) -> pd.DataFrame:
    rows = [
        {"experiment": name, "run": run, "step": step, "conflict": cosine + (0.1 if step % 2 else -0.1)}
        for name, runs in cosines.items()
        for run, cosine in enumerate(runs)
        for step in range(steps)
    ]
    return pd.DataFrame(rows, columns=["experiment", "run", "step", "conflict"])


@pytest.mark.parametrize(
    ("cosines", "words"),
    [
        (
            [-0.24, -0.26],
            "-.25 [-.38, -.12], below 0 at 100 % of 4 measured steps (2 runs): they oppose each other.",
        ),
        ([0.24, 0.26], "+.25 [+.12, +.38], below 0 at 0 % of 4 measured steps (2 runs): they pull together."),
        (
            [-0.05, 0.05],
            "below 0 at 50 % of 4 measured steps (2 runs): the interval holds 0.",
        ),
        (
            [-0.3],
            "-.30 without interval, below 0 at 100 % of 4 measured steps (1 run): one run has no interval",
        ),
    ],
)
def test_supcr_and_cell_oppose_each_other_where_the_interval_of_their_cosine_says_so(
    cosines: list[float], words: str
) -> None:
    text = said(findings_regression.describe_regression(facts(histories=histories({"both": cosines}))))
    assert words in text
    assert "Gradients of supcr and cell were not measured in halves." in text


def algebra(ranks: dict[str, list[int]], candidates: int = 4) -> pd.DataFrame:
    rows = [
        {"experiment": name, "fold": 0, "seed": 0, "slide": f"s{place}", "own": 0.5, "others": 0.4}
        | {"animal": f"a{place}"}
        | {"rank": rank, "candidates": candidates}
        for name, listed in ranks.items()
        for place, rank in enumerate(listed)
    ]
    return pd.DataFrame(rows, columns=ALGEBRA.schema.names)


def test_latent_algebra_has_the_experiments_without_the_cell_term_as_control() -> None:
    table = algebra({"mse": [2, 3, 4, 4, 3, 2], "mse_cell": [1] * 6, "both": [2, 2, 3, 4, 1, 2]})
    text = said(findings_regression.describe_regression(facts(algebra=table)))
    assert (
        "Latent algebra with the cell term: z_W + z_P ranks z_I of its own slide beyond chance in 1 of 2 "
        "experiments; mean reciprocal rank: mse_cell 1.00 [1.00, 1.00] against .52 by chance (6 slides); "
    ) in text
    assert (
        "Latent algebra without the cell term, which is the control: z_W + z_P ranks z_I of its own slide "
        "beyond chance in none of 1 experiment"
    ) in text
    assert (
        "The cell term (mse_cell against mse) raises the mean reciprocal rank: the intervals lie apart"
        in text
    )
    assert text.count("The cell term (") == 1  # `both` differs from mse_cell by supcr


def test_latent_algebra_that_turns_overlaps_or_is_missing() -> None:
    turned = algebra({"mse": [1] * 6, "mse_cell": [4] * 6})
    assert "(mse_cell against mse) lowers the mean" in said(
        findings_regression.describe_regression(facts(algebra=turned))
    )
    alike = algebra({"mse": [1, 2, 3, 4], "mse_cell": [1, 2, 3, 4]})
    assert (
        "(mse_cell against mse) makes no difference to the mean reciprocal rank: the intervals overlap"
        in said(findings_regression.describe_regression(facts(algebra=alike)))
    )
    alone = said(findings_regression.describe_regression(facts(algebra=algebra({"mse_cell": [1]}))))
    assert "which is the control: not measured." in alone and "beyond chance in none of 1" in alone
    empty = said(findings_regression.describe_regression(facts(algebra=algebra({}))))
    assert "Latent algebra: no run holds out a healthy slide" in empty


def test_smoothing_stages_is_counted_and_told_by_verdict() -> None:
    rows = [difference("sm_logits", "prop", 0.05), difference("sm_embedding", "prop", 0.001)]
    assert findings_spatial.describe_stage_smoothing(facts(cells=rows)).sentences == [
        "Accuracy: smoothing stages helps at 1 of 2 settings, hurts at none and makes no "
        "significant difference at 1, against prop (6 pairs, 9 slides each; minimum detectable effect .027).",
        "Better than prop (6 pairs, 9 slides): sm_logits +.050 [+.040, +.060].",
        "Not significantly different from prop (6 pairs, 9 slides), each with its minimum detectable effect: "
        "sm_embedding .027.",
    ]


def test_the_page_has_the_sections_of_what_was_asked_and_answers_them_at_its_top(tmp_path: Path) -> None:
    made = make(tmp_path)
    add_neighbours(made)
    known = {"abmil": "abmil", "late[alpha=0.5]": SMAPS[1]}
    measured = {
        name: tables.read(made.study(name), table).replace({"experiment": known})
        for name, table in (("spectrum", SPECTRUM), ("borders", BORDERS))
    }
    whole = facts(
        [*smaps([0.05, 0.004, -0.03]), controlled(0.05)],
        [*terms(-0.2), difference("sm_logits", "prop", np.nan, p=np.nan, pairs=0)],
        histories=histories({"both": [-0.2, -0.3]}),
        algebra=algebra({"mse": [2, 3, 4], "mse_cell": [1] * 3}),
        **measured,
    )
    summary.write(tmp_path / "summary.html", whole)
    page = (tmp_path / "summary.html").read_text()
    top, body = page.split('<h2 id="run">')
    for section in sections.list_sections(whole):
        assert f'<a href="#{section.name}">{section.title}</a>' in top and f'<h2 id="{section.name}">' in body
        assert section.sentences[0].replace("'", "&#39;") in top
    assert (
        "nan" not in page and "Difference in slide AUROC" in body and "Difference in MAE of a slide" in body
    )
    assert sections.RULES in page


def test_a_study_of_labels_of_slides_alone_has_a_page_too(tmp_path: Path) -> None:
    whole = facts([*smaps([0.05] * 3), controlled(0.05)], experiments=[ABMIL, SMAP, SRMIL])
    of_slides = replace(
        whole,
        structure=replace(whole.structure, compare=whole.structure.compare | {"metric": "bag_auroc"}),
        metrics=whole.slide_metrics,
        comparisons=whole.slide_comparisons,
        runs=whole.slide_runs,
    )
    summary.write(tmp_path / "summary.html", of_slides)
    page = (tmp_path / "summary.html").read_text()
    assert re.findall(r'<h2 id="(\w+)"', page) == ["run", "smoothing", "spatial", "rules"]
    assert "6 experiments over 3 folds" in page and "experiments on labels" not in page
    assert "ordinal term" not in page and "experiment minus reference in slide AUROC" in page

"""The study of experiments: presets, sweeps, what is trained once, what is left out, what it will cost."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from myostage import tables
from myostage.cluster import estimate
from myostage.errors import UserError
from myostage.learning import precheck
from myostage.learning.tables import SPLITS
from myostage.paths import Paths
from myostage.study import config, plan
from myostage.study.inputs import read_quoted
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.look import Look

ROOT = Path(__file__).parents[1]
STAGES = ["damaged", "recovered", "intact"]
ALL = {"simprop": 1, "prop": 1}


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    rows = ["crop\tpath\tgroup\tanimal\tlabel"]
    for day in ("d0", "d3"):
        for number in range(3):
            path = tmp_path / f"{day}{number}.png"
            path.write_bytes(b"a crop")
            rows.append(f"{day}{number}\t{path}\t{day}\t{day}m{number}\tintact")
    (tmp_path / "crops.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "proportions.tsv").write_text(
        "group\tdamaged\trecovered\tintact\nd0\t0\t0\t1\nd3\t.5\t.5\t0\n"
    )
    return {
        "study": "trial",
        "stages": STAGES,
        "input": "crops",
        "crops": str(tmp_path / "crops.tsv"),
        "proportions": str(tmp_path / "proportions.tsv"),
        "encoder": {"model": None, "architecture": {"width": 96, "heads": 3}, "weights": "none"},
        "folds": 3,
        "seeds": [0, 1],
        "experiments": [{"name": "combined", "losses": ALL}],
    }


def refusal(study: dict[str, Any], *experiments: dict[str, Any], **keys: Any) -> str:
    study = {**study, **keys, "experiments": [*study["experiments"], *experiments]}
    with pytest.raises(UserError) as caught:
        config.load_study(study)
    return str(caught.value)


def specs(study: dict[str, Any], **experiment: Any) -> list[RunSpec]:
    """The runs of one experiment put into the study."""
    name = experiment.setdefault("name", "trial")
    study = {**study, "experiments": [*study["experiments"], experiment]}
    return config.expand(config.load_study(study))[name]


# --- runs ---------------------------------------------------------------------------------------------------


def test_a_point_of_the_grid_that_another_experiment_has_is_trained_once(study: dict[str, Any]) -> None:
    study["experiments"].append(
        {"name": "grid", "losses": ALL, "vary": {"sigma": [0.1, 0.2], "bins": [6, 10]}}
    )
    loaded = config.load_study(study)
    experiments = config.expand(loaded)
    assert list(experiments) == [
        "combined",
        *(f"grid[sigma={s},bins={b}]" for s in (0.1, 0.2) for b in (6, 10)),
    ]
    assert experiments["grid[sigma=0.1,bins=6]"] == experiments["combined"]
    assert len(config.runs(loaded)) == 4 * 6
    batches = plan.run_batches(experiments, 6)
    trained = [spec.id for batch in batches.values() for spec in batch]
    assert len(trained) == len(set(trained)) == 4 * 6


def test_another_sigma_makes_new_runs_and_leaves_all_jobs_as_they_are(study: dict[str, Any]) -> None:
    study["experiments"].append({"name": "grid", "losses": ALL, "vary": {"sigma": [0.1, 0.2]}})
    before = plan.run_batches(config.expand(config.load_study(study)), 4)
    study["experiments"][1]["vary"]["sigma"] = [0.05, 0.1, 0.2]
    after = plan.run_batches(config.expand(config.load_study(study)), 4)
    assert {name: batch for name, batch in after.items() if "0.05" not in name} == before
    assert sum(len(batch) for batch in after.values()) == sum(len(batch) for batch in before.values()) + 6


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_names_of_jobs_are_plain_and_unique(study: dict[str, Any], size: int) -> None:
    study["experiments"] += [
        {"name": "grid", "losses": ALL, "vary": {"bins": [6, 10], "sigma": [0.2, 1e-05]}},
        {"name": "grid_bins_6_sigma_0.2", "losses": ALL, "training": {"steps": 7}},
        {"name": "order", "losses": ALL, "vary": {"order": [STAGES, STAGES[::-1]]}},
        {"name": "majority", "method": "majority"},
        {"name": "given", "method": "group_majority"},
    ]
    experiments = config.expand(config.load_study(study))
    batches = plan.run_batches(experiments, size)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in batches)
    assert sorted(spec.id for batch in batches.values() for spec in batch) == sorted(
        {spec.id for specs in experiments.values() for spec in specs}
    )
    assert all(len(batch) <= size for name, batch in batches.items() if name != "baselines")
    assert {spec.method for spec in batches["baselines"]} == {"majority", "group_majority"}


def test_labels_that_become_equal_stay_apart(study: dict[str, Any]) -> None:
    runs = config.expand(config.load_study(study))["combined"]
    labels = ["a[b=1]", "a_b_1", "a[b=1", "a_b_1_2"]
    experiments = {
        label: [spec.model_copy(update={"seed": 10 * number + spec.seed}) for spec in runs]
        for number, label in enumerate(labels)
    }
    experiments = {
        label: [RunSpec(**spec.model_dump()) for spec in specs] for label, specs in experiments.items()
    }
    batches = plan.run_batches(experiments, 100)
    assert list(batches.values()) == list(experiments.values())
    assert list(batches) == ["a_b_1-1", "a_b_1_2-1", "a_b_1_3-1", "a_b_1_2_2-1"]


def test_receipts_stand_for_every_file_that_jobs_of_several_hand_on(study: dict[str, Any]) -> None:
    study["experiments"].append({"name": "majority", "method": "majority"})
    loaded = config.load_study(study)
    batches = plan.run_batches(config.expand(loaded), 4)
    paths, encoders = Paths.of("results", "trial"), list(config.encoders(loaded))
    slide_batches = plan.batches(["a", "b", "c"], 2, "slides")
    found = plan.receipts(paths, "slides", slide_batches, ["a", "b", "c"], encoders, batches)
    for batch, members in slide_batches.items():
        for slide in members:
            for rule, name in (("tile", "tiles"), ("segment", "cells"), ("crop", "crops")):
                assert found.pop(paths.slide(slide, f"{name}.parquet")) == paths.receipt(rule, batch)
            for encoder in encoders:
                assert found.pop(paths.tokens(slide, encoder)) == paths.receipt("tokens", encoder)
    for batch, specs in batches.items():
        receipt = paths.receipt(*(("baselines", "all") if batch == "baselines" else ("train", batch)))
        for spec in specs:
            for name in ("model.safetensors", "history.parquet", "predictions.parquet", "outcome.parquet"):
                assert found.pop(paths.run(spec.id, name)) == receipt
    assert found == {}


def test_crops_that_come_ready_made_have_no_receipt(study: dict[str, Any]) -> None:
    paths = Paths.of("results", "trial")
    found = plan.receipts(paths, "crops", {"a": ["a"]}, ["a"], ["vit"], {})
    assert found == {paths.tokens("a", "vit"): paths.receipt("tokens", "vit")}


def test_features_that_come_ready_made_have_one() -> None:
    paths = Paths.of("results", "trial")
    found = plan.receipts(paths, "features", {"s": ["a"]}, ["a"], ["ready"], {})
    made = paths.receipt("features", "s")
    assert found == {
        paths.slide("a", "positions.parquet"): made,
        paths.slide("a", "labels.parquet"): made,
        paths.tokens("a", "ready"): paths.receipt("tokens", "ready"),
    }


def test_rules_wait_for_the_receipts_of_what_jobs_of_several_make() -> None:
    """A file that no rule declares as its output must be asked for through its receipt."""
    made = "tiles|cells|crops|predictions|history|outcome"
    for path in (ROOT / "rules").glob("*.smk"):
        inputs = re.findall(r"^ +input:\n(.*?)^ +output:", path.read_text(), re.DOTALL | re.MULTILINE)
        for line in "".join(inputs).splitlines():
            if re.search(rf'of_(slides|runs)\("({made})\.', line):
                assert "behind(" in line, f"{path.name}: {line.strip()}"


def test_names_parts_and_comparisons_train_nothing(study: dict[str, Any]) -> None:
    before = set(config.runs(config.load_study(study)))
    study["experiments"] = [{"name": "renamed", "losses": ALL, "part": "design", "baseline": True}]
    study["compare"] = {"reference": "renamed", "metric": "rmse", "alpha": 0.01}
    assert set(config.runs(config.load_study(study))) == before


def test_the_released_preset_is_the_released_code_by_configuration(study: dict[str, Any]) -> None:
    (spec, *_) = specs(study, preset="released")
    training = spec.training
    assert spec.losses == {"simprop": 1.0, "prop": 1.0}
    assert (training.pairs, training.target, training.divide) == ("aligned", "truncated", "released")
    assert (training.unfreeze, training.head, training.head_gradient) == ("attention", "frozen", "detached")
    assert training.stop_gradient and training.schedule == "constant" and training.warmup == 0
    assert spec.encoder.weights == "none"


def test_keys_of_an_experiment_come_on_top_of_its_preset(study: dict[str, Any]) -> None:
    (spec, *_) = specs(study, preset="released", training={"head": "trained", "bins": 31}, losses={"prop": 2})
    assert (spec.training.head, spec.training.bins, spec.losses) == ("trained", 31, {"prop": 2.0})
    assert spec.training.pairs == "aligned"


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ({"losses": {"simprob": 1}}, "did you mean simprop?"),
        ({"losses": {"vat": 1}}, "teaches no stage; add prop: 1"),
        ({"losses": {"simprop": 1}, "training": {"mix": "mixbag"}}, "mixes bags for prop"),
        ({"losses": ALL, "training": {"unfreeze": "none"}}, "leaves nothing to learn"),
        ({"losses": ALL, "training": {"order": ["damaged", "intact"]}}, "each of damaged, recovered, intact"),
        ({"losses": ALL, "training": {"proportions": "slide", "bags": "group"}}, "need bags: slide"),
        ({"losses": ALL, "training": {"proportions": "slide"}}, "slide_proportions is missing"),
        ({"losses": ALL, "against": "combine"}, "did you mean combined?"),
        ({"method": "majority", "preset": "released"}, "takes no preset"),
        ({"losses": ALL, "preset": "realeased"}, "did you mean released?"),
        ({"name": "combined", "losses": {"prop": 1}}, "experiments name combined 2 times"),
    ],
)
def test_experiments_that_mean_nothing_are_refused(
    study: dict[str, Any], experiment: dict[str, Any], words: str
) -> None:
    assert words in refusal(study, {"name": "wrong", **experiment})


def test_a_slide_without_proportions_of_its_own_is_named(study: dict[str, Any], tmp_path: Path) -> None:
    table = tmp_path / "slide_proportions.tsv"
    table.write_text("slide\tdamaged\trecovered\tintact\n" + "d0_d0m0\t0\t0\t1\n")
    by_slide = {"name": "by_slide", "losses": ALL, "training": {"proportions": "slide"}}
    words = refusal(study, by_slide, slide_proportions=str(table))
    assert "slide d0_d0m1 has no row" in words


def test_quoted_figures_are_read_and_a_wrong_metric_is_named(study: dict[str, Any], tmp_path: Path) -> None:
    table = tmp_path / "quoted.tsv"
    table.write_text("method\tmetric\tvalue\tsource\nOSLSP\taccuracy\t.46\tarXiv 2505.04150\n")
    loaded = config.load_study({**study, "quoted": str(table)})
    assert read_quoted(loaded) == [
        {"method": "OSLSP", "metric": "accuracy", "value": 0.46, "source": "arXiv 2505.04150"}
    ]
    table.write_text("method\tmetric\tvalue\tsource\nOSLSP\taccuracey\t.46\tarXiv 2505.04150\n")
    assert "did you mean accuracy?" in refusal(study, quoted=str(table))


# --- what cannot run is left out, and the rest goes on ------------------------------------------------------


def test_an_experiment_without_its_weights_is_left_out_and_named(study: dict[str, Any]) -> None:
    study["experiments"].append({"name": "uni", "losses": ALL, "encoder": {"weights": "weights/uni.pth"}})
    loaded = config.load_study(study)
    assert config.left_out(loaded) == {
        "uni": "encoder.weights: weights/uni.pth does not exist; correct the path"
    }
    assert list(config.runnable(loaded)) == ["combined"]
    assert len(config.encoders(loaded)) == 1
    shown = loaded.model_copy(update={"look": Look(experiment="uni")})
    with pytest.raises(UserError, match=r"look.experiment uni is left out because .*weights/uni.pth"):
        plan.shown(shown)


def test_without_lightly_only_what_needs_it_is_left_out(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study["experiments"].append({"name": "dino", "losses": {"prop": 1}, "encoder": {"dino": {"steps": 3}}})
    assert config.left_out(config.load_study(study)) == {}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "install it with `make install`" in config.left_out(config.load_study(study))["dino"]


# --- folds and bags -----------------------------------------------------------------------------------------


def splits(path: Path, rows: list[tuple[str, str, int, int]]) -> Path:
    frame = pd.DataFrame(rows, columns=["slide", "group", "cells", "fold"]).assign(
        animal=lambda t: t["slide"]
    )
    tables.write(path, frame.astype({"cells": "int32", "fold": "int32"}), SPLITS)
    return path


def test_a_fold_that_holds_out_all_of_a_stage_is_refused(tmp_path: Path) -> None:
    given = {"d0": [0, 0, 1.0], "d3": [0.5, 0.5, 0]}
    rows = [("a", "d0", 50, 0), ("b", "d3", 50, 0), ("c", "d3", 50, 1)]
    path = splits(tmp_path / "splits.parquet", rows)
    with pytest.raises(UserError, match=r"fold 0 holds out every animal of group d0, .* stage intact"):
        precheck.check_folds(path, given, STAGES, source="slide", size=50)
    path = splits(tmp_path / "splits.parquet", [*rows, ("d", "d0", 50, 1)])
    assert precheck.check_folds(path, given, STAGES, source="slide", size=50) == {
        "fold 0": 100,
        "fold 1": 100,
    }


@pytest.mark.parametrize(
    ("source", "size", "fits"), [("slide", 50, True), ("slide", 51, False), ("group", 61, False)]
)
def test_a_bag_that_no_slide_or_group_fills_is_refused(
    tmp_path: Path, source: str, size: int, fits: bool
) -> None:
    given = {"d0": [0.5, 0.5, 0]}
    rows = [("a", "d0", 50, 0), ("b", "d0", 60, 1), ("c", "d0", 0, 1)]
    path = splits(tmp_path / "splits.parquet", rows)
    if fits:
        precheck.check_folds(path, given, STAGES, source=source, size=size)
    else:
        with pytest.raises(UserError, match=rf"bag_size is {size} cells, .*lower bag_size to \d+"):
            precheck.check_folds(path, given, STAGES, source=source, size=size)


# --- what it costs ------------------------------------------------------------------------------------------


def test_the_estimate_grows_with_runs_and_cells_and_says_so(study: dict[str, Any]) -> None:
    def of(**training: Any) -> estimate.Estimate:
        loaded = config.load_study({**study, "training": training})
        experiments = config.expand(loaded)
        return estimate.estimate(loaded, 6, experiments, plan.run_batches(experiments, 2), cores=2)

    small, large = of(steps=100), of(steps=100, bag_size=1000)
    assert (small.runs, small.jobs) == (6, 3)
    assert large.cpu_seconds > 5 * small.cpu_seconds - 5 * (
        3 * estimate.JOB_SECONDS + 6 * estimate.RUN_SECONDS
    )
    assert "6 slides, 1 experiments, 6 runs in 3 training jobs" in small.sentence
    assert "GPU hours" in small.sentence


@pytest.mark.parametrize(
    ("model", "tokens", "width"),
    [
        ("vit_base_patch8_224.dino", 65, 768),
        ("vit_small_patch16_224.dino", 17, 384),
        ("vit_large_patch14_dinov2", 26, 1024),
    ],
)
def test_the_geometry_of_an_encoder_is_read_from_its_name(model: str, tokens: int, width: int) -> None:
    assert estimate.geometry(Encoder(model=model)) == (tokens, width)


# --- the studies that come with the project -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo_ablation", "paper"])
def test_the_study_asks_every_question(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MYOSTAGE_PAPER_SLIDES", "slides")
    study = config.load_study(f"config/{name}.yaml", files=False)
    experiments = config.expand(study)
    trained = [specs[0].training for specs in experiments.values() if specs[0].trained]
    assert {
        "prop",
        "simprop",
        "combined",
        "dino",
        "llp_vat",
        "ot",
        "mixbag",
        "supervised",
        "released",
    } <= set(experiments)
    assert {"majority", "frozen"} <= set(experiments)
    assert {(t.sigma, t.bins) for t in trained} >= {
        (s, b) for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.4) for b in (4, 6, 10, 20, 31, 50)
    }
    assert {t.bag_size for t in trained} >= {20, 50, 100, 200, 500}
    assert {t.pairs for t in trained} == {"all", "aligned"}
    assert {t.target for t in trained} == {"exact", "truncated"}
    assert {t.stop_gradient for t in trained} == {True, False}
    assert {t.head_gradient for t in trained} == {"through", "detached"}
    assert {t.unfreeze for t in trained} == {"none", "attention", "block"}
    assert any(t.order for t in trained)
    assert len({t.proportion_noise for t in trained}) >= 5
    assert max(specs[0].encoder.trained_blocks for specs in experiments.values()) == 2

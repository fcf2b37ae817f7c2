"""Experiments of a study: presets, what is refused, what is left out, and what the shipped studies ask."""

import re
from pathlib import Path
from typing import Any

import pytest

from myostage.errors import UserError
from myostage.study.expand import encoders, expand, left_out, runnable
from myostage.study.inputs import read_quoted
from myostage.study.load import load_study
from myostage.study.plan import Plan
from myostage.study.run import RunSpec
from myostage.study.sections.look import Look

ROOT = Path(__file__).parents[2]
STAGES = ["damaged", "recovered", "intact"]
ALL = {"simprop": 1, "prop": 1}


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    rows = ["crop\tpath\tgroup\tanimal\tlabel"]
    for day in ("d0", "d3"):
        for number in range(3):
            path = tmp_path / f"{day}{number}.png"
            path.write_bytes(path.name.encode())
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
        load_study(study)
    return str(caught.value)


def specs(study: dict[str, Any], **experiment: Any) -> list[RunSpec]:
    """The runs of one experiment put into the study."""
    name = experiment.setdefault("name", "trial")
    study = {**study, "experiments": [*study["experiments"], experiment]}
    return expand(load_study(study))[name]


# --- runs ---------------------------------------------------------------------------------------------------


def test_the_released_preset_is_the_released_code_by_configuration(study: dict[str, Any]) -> None:
    (spec, *_) = specs(study, preset="released")
    training = spec.training
    assert spec.losses == {"simprop": 1.0, "prop": 1.0}
    assert (training.pairs, training.target, training.divide) == ("aligned", "truncated", "released")
    assert (training.unfreeze, training.head, training.head_gradient) == ("attention", "frozen", "detached")
    assert training.stop_gradient and training.schedule == "constant" and training.warmup == 0
    assert (spec.encoder.weights, spec.encoder.trained_blocks) == ("none", "all")
    assert (training.learning_rate, training.encoder_learning_rate) == (1e-3, 1e-3)
    assert (training.weight_decay, training.decay, training.drop_path) == (0.01, "matrices", 0.1)
    assert (training.clip, training.clip_by, training.bag_size, training.prop_bags) == (
        3.0, "parameter", 100, "first",
    )  # fmt: skip


def test_keys_of_an_experiment_come_on_top_of_its_preset(study: dict[str, Any]) -> None:
    changed = {"training": {"head": "trained", "bins": 31}, "losses": {"simprop": 2}}
    (spec, *_) = specs(study, preset="released", **changed)
    assert (spec.training.head, spec.training.bins, spec.losses) == ("trained", 31, {"simprop": 2.0})
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
    loaded = load_study({**study, "quoted": str(table)})
    assert read_quoted(loaded) == [
        {"method": "OSLSP", "metric": "accuracy", "value": 0.46, "source": "arXiv 2505.04150"}
    ]
    table.write_text("method\tmetric\tvalue\tsource\nOSLSP\taccuracey\t.46\tarXiv 2505.04150\n")
    assert "did you mean accuracy?" in refusal(study, quoted=str(table))


# --- what cannot run is left out, and the rest goes on ------------------------------------------------------


def test_an_experiment_without_its_weights_is_left_out_and_named(study: dict[str, Any]) -> None:
    study["experiments"].append({"name": "uni", "losses": ALL, "encoder": {"weights": "weights/uni.pth"}})
    loaded = load_study(study)
    assert left_out(loaded) == {"uni": "encoder.weights: weights/uni.pth does not exist; correct the path"}
    assert list(runnable(loaded)) == ["combined"]
    assert len(encoders(loaded)) == 1
    shown = loaded.model_copy(update={"look": Look(experiment="uni")})
    with pytest.raises(UserError, match=r"look.experiment uni is left out because .*weights/uni.pth"):
        assert Plan(shown).shown


def test_without_lightly_only_what_needs_it_is_left_out(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study["experiments"].append({"name": "dino", "losses": {"prop": 1}, "encoder": {"dino": {"steps": 3}}})
    assert left_out(load_study(study)) == {}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "install it with `make install`" in left_out(load_study(study))["dino"]


def test_who_sees_the_crops_of_held_out_animals_says_so_in_its_name(study: dict[str, Any]) -> None:
    everyone = {"losses": {"prop": 1}, "encoder": {"dino": {"steps": 3, "crops": "all"}}}
    assert re.search(
        r"experiments\[dino\].encoder.dino.crops is all.*put transductive into the experiment's name",
        refusal(study, {"name": "dino", **everyone}),
    )
    (named,) = {spec.encoder.id for spec in specs(study, name="dino_transductive", **everyone)}
    own = specs(study, name="dino", losses={"prop": 1}, encoder={"dino": {"steps": 3}})
    assert [spec.encoder.id for spec in own] == [spec.encoder.id for spec in own[::2] for _ in "ab"]
    assert len({spec.encoder.id for spec in own} - {named}) == 3


# --- the studies that come with the project -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo_ablation", "paper"])
def test_the_study_asks_every_question(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MYOSTAGE_PAPER_SLIDES", "slides")
    study = load_study(f"config/{name}.yaml", files=False)
    experiments = expand(study)
    trained = [specs[0].training for specs in experiments.values() if specs[0].trained]
    assert {
        "prop",
        "simprop",
        "combined",
        "dino_prop",
        "dino_transductive",
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
    assert {t.classifier for t in trained} == {"softmax", "cumulative_link", "corn"}
    assert {"emd", "count", "easyllp", "minibag", "llp_dc", "sord"} <= set(experiments)
    assert len({t.proportion_noise for t in trained}) >= 5
    assert {specs[0].encoder.trained_blocks for specs in experiments.values()} == {1, 2, "all"}


# --- settings that a run chooses ----------------------------------------------------------------------------


def choosing(**vary: Any) -> dict[str, Any]:
    weights = {name.replace("losses_", "losses."): values for name, values in vary.items()}
    return {"name": "trial", "losses": ALL, "training": {"choose": {"vary": weights}}}


def test_a_run_under_each_of_its_candidates(study: dict[str, Any]) -> None:
    found = specs(study, **choosing(steps=[10, 20], losses_simprop=[0.5, 2]))
    assert len({spec.id for spec in found}) == len(found) == 6
    points = [(one.training.steps, one.losses["simprop"], one.losses["prop"]) for one in found[0].candidates]
    assert points == [(10, 0.5, 1), (10, 2, 1), (20, 0.5, 1), (20, 2, 1)]
    assert len(found[0].trainings) == 4 * 3 + 1


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"steps": [10]}, "leaves nothing to choose; give a key a second value"),
        ({"stepz": [1, 2]}, "stepz is nothing that a run can choose (did you mean steps?)"),
        ({"losses_ot": [1, 2]}, "losses.ot is nothing that a run can choose"),
        ({"proportion_noise": [0, 0.1]}, "proportion_noise is nothing that a run can choose"),
        ({"steps": [10, -1]}, "training.choose.vary.steps is -1: input should be greater than 0"),
        ({"steps": [10, 10]}, "repeats a value of steps; remove it"),
        ({"losses_prop": [1, 0]}, "losses.prop is 0: input should be greater than 0"),
        ({"unfreeze": ["none", "block"]}, "simprop trains the encoder, of which `unfreeze: none` leaves"),
        (
            {"steps": [*range(1, 51)], "bag_size": [*range(2, 52)], "bins": [*range(2, 52)]},
            "has 125,000 candidates, more than 100; remove values",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused(study: dict[str, Any], vary: dict[str, Any], message: str) -> None:
    assert message in refusal(study, choosing(**vary))


def test_a_choice_needs_proportions_animals_and_keys_of_its_own(study: dict[str, Any]) -> None:
    choose = {"vary": {"steps": [10, 20]}}
    supervised = {"name": "ceiling", "method": "supervised"}
    assert (
        "experiments[ceiling].training.choose chooses by proportions and the method is supervised; set "
        "training: {choose: null} in this experiment"
    ) in refusal(study, supervised, training={"choose": choose})
    free = {**study, "training": {"choose": choose}}
    assert specs(free, **supervised, training={"choose": None})[0].training.choose is None
    both = {**choosing(steps=[10, 20]), "vary": {"steps": [10, 20]}}
    assert "training.choose.vary and vary both set steps; keep one" in refusal(study, both)
    assert "unknown key experiments[trial].vary.choose" in refusal(
        study, {"name": "trial", "losses": ALL, "vary": {"choose": [choose]}}
    )
    many = {"name": "trial", "losses": ALL, "training": {"choose": {**choose, "parts": 5}}}
    assert (
        "trial holds in 5 parts (training.choose.parts) of the 4 animals that a run learns from; lower parts"
    ) in refusal(study, many)


def test_a_probe_is_shaped_by_the_encoder_and_by_no_seed_or_key_of_training(study: dict[str, Any]) -> None:
    linear = {"name": "linear", "method": "probe"}
    found = specs(study | {"seeds": [1, 2]}, **linear)
    assert [(spec.fold, spec.seed) for spec in found] == [(fold, 0) for fold in range(len(found))]
    assert specs(study | {"training": {"steps": 7}}, **linear) == found
    other = specs(study, **linear, encoder={"weights": "none", "pos_embed": "timm"})
    assert other[0].encoder.id != found[0].encoder.id and other[0].id != found[0].id
    for key in (
        {"losses": ALL},
        {"training": {"steps": 7}},
        {"preset": "released"},
        {"vary": {"steps": [7]}},
    ):
        said = refusal(study, {**linear, **key})
        assert f"experiments[linear] learns by no network (probe) and takes no {next(iter(key))}" in said


def test_the_tables_the_prechecks_and_the_time_count_the_candidates(study: dict[str, Any]) -> None:
    plain = Plan(load_study(study))
    plan = Plan(load_study({**study, "experiments": [choosing(bag_size=[20, 30])]}))
    assert plan.cell_tables == [*plain.cell_tables, plan.paths.study("choices.parquet")]
    assert plan.choosing == [spec.id for spec in plan.experiments["trial"]] and plain.choosing == []
    assert plan.bags == [("slide", 20), ("slide", 30)]
    assert (plain.longest, plan.longest) == (1, 2 * 3 + 1)
    member = plan.members(next(iter(plan.run_batches)))[0]
    assert member["labelled"] == [] and not [file for file in member["inputs"] if "labels" in file]

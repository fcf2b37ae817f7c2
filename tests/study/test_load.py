"""The study file: what it accepts, what it refuses and in which words, and the runs it asks for."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from myostage.errors import UserError
from myostage.papers import SRMIL_WEIGHTS
from myostage.study import inputs, reference
from myostage.study.expand import applied, control_of, encoders, expand, runs
from myostage.study.inputs import check_bag_size, read_proportions, read_slides
from myostage.study.load import load_study, notes
from myostage.study.sections.mil import MilModel
from myostage.study.sections.phantom import Phantom
from myostage.study.sections.study import Study

ROOT = Path(__file__).parents[2]
STAGES = ["damaged", "recovered", "intact"]
DAYS = ("d0", "d3", "d7")


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    """A sound study of three groups and three animals; tests break one thing in it."""
    slides = ["slide\tpath\tgroup\tanimal\tmpp\tannotations"]
    for number, day in enumerate(DAYS):
        path = tmp_path / f"s{number}.svs"
        path.write_bytes(b"slide %d" % number)
        (tmp_path / f"s{number}.geojson").write_text('{"type": "FeatureCollection", "features": []}')
        slides.append(f"s{number}\t{path}\t{day}\tm{number}\t\t{tmp_path}/s{number}.geojson")
    (tmp_path / "slides.tsv").write_text("\n".join(slides) + "\n")
    (tmp_path / "proportions.tsv").write_text(
        "group\tintact\tdamaged\trecovered\nd0\t1\t0\t0\nd3\t0\t.6\t.4\nd7\t.2\t.3\t.5\n"
    )
    return {
        "study": "trial",
        "stages": list(STAGES),
        "proportions": str(tmp_path / "proportions.tsv"),
        "slides": str(tmp_path / "slides.tsv"),
        "folds": 3,
        "seeds": [0, 1],
        "experiments": [{"name": "combined", "losses": {"simprop": 1, "prop": 1}}],
    }


def refusal(study: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        load_study(study)
    return str(caught.value)


def edit(study: dict[str, Any], table: str, old: str, new: str) -> None:
    path = Path(study[table])
    text = path.read_text()
    assert old in text, "the test edits what is not there"
    path.write_text(text.replace(old, new))


def put(study: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.b`` of the study; a number is an index."""
    *parents, last = (int(part) if part.isdigit() else part for part in key.split("."))
    place: Any = study
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
    place[last] = value


# --- the studies that come with the project -----------------------------------------------------------------


def test_the_demo_holds_15_animals_of_5_days_and_says_what_it_learns_from() -> None:
    demo = load_study(ROOT / "config/demo.yaml", files=False)
    rows = read_slides(demo.model_copy(update={"slides": str(ROOT / "config/demo/slides.tsv")}))
    assert len({row.animal for row in rows}) == 15
    assert {day: sum(row.group == day for row in rows) for day in ("d0", "d3", "d5", "d7", "d14")} == {
        "d0": 3, "d3": 3, "d5": 3, "d7": 3, "d14": 3,
    }  # fmt: skip
    experiments = expand(demo)
    assert [len(specs) for specs in experiments.values()] == [3] * 7
    assert len(encoders(demo)) == 2, "the pre-trained one and the random one; none for baselines"


@pytest.mark.parametrize("name", ["config/demo.yaml", "config/paper.yaml", "tests/studies/fibres.yaml"])
def test_proportions_of_the_studies_are_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MYOSTAGE_PAPER_SLIDES", "slides")
    monkeypatch.setenv("MYOSTAGE_REAL_DATA", "data")
    study = load_study(name, files=False)
    for group, row in read_proportions(study).items():
        assert row.shape == (len(study.stages),), group
        assert row.sum() == pytest.approx(1, abs=1e-12), group
    assert len(read_slides(study)) == {"demo": 15, "paper": 31, "fibres": 3}[study.study]


@pytest.mark.parametrize("name", ["section", "svs"])
def test_slides_without_group_are_staged_with_another_studys_models(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MYOSTAGE_REAL_DATA", "data")
    study = load_study(f"tests/studies/{name}.yaml", files=False)
    other, specs = applied(study)
    assert all(row.group == "" and not row.labelled for row in read_slides(study))
    assert (other.study, len(specs)) == ("fibres", 3)
    assert set(encoders(study)) == {spec.encoder.id for spec in specs}


def test_the_demo_of_neighbours_has_every_control_and_point_of_its_grids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study("config/demo_neighbours.yaml", files=False)
    experiments = expand(study)
    alphas = ("0.1", "0.5", "0.9", "trainable")
    places = ("early", "mid", "late")
    assert {f"smap[placement={place},alpha={alpha}]" for place in places for alpha in alphas} <= set(
        experiments
    )
    controls = {control_of(label) for label in experiments} & set(experiments)
    rebuilding = {
        label for label, specs in experiments.items() if "spatial_reconstruction" in specs[0].losses
    }
    assert len(rebuilding) == 2 * len(controls) > 0 and controls < rebuilding
    rows = read_slides(study)
    assert {row.border for row in rows} == {"", "sharp", "diffuse"}
    assert {row.group for row in rows if not row.border} == {"d0"}
    assert {specs[0].mil.model for specs in experiments.values() if specs[0].mil} == set(get_args(MilModel))


@pytest.mark.parametrize("name", ["camelyon16", "panda", "rsna"])
def test_public_benchmarks_load_once_their_table_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    variable = f"{name.upper()}_MIL"
    text = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    healthy, other = text["stages"]
    lines = ["slide\tpath\tgroup\tanimal\tsplit"]
    for number in range(10):
        (tmp_path / f"bag{number}.npy").write_bytes(b"features %d" % number)
        kind = (healthy, other)[number % 2]
        lines.append(f"bag{number}\t${variable}/bag{number}.npy\t{kind}\tbag{number}\ttrain")
    (tmp_path / "slides.tsv").write_text("\n".join(lines) + "\n")
    text["slides"] = str(tmp_path / "slides.tsv")
    monkeypatch.delenv(variable, raising=False)
    assert f"environment variable {variable}, which is not set" in refusal(text)
    monkeypatch.setenv(variable, str(tmp_path))
    study = load_study(text)
    (encoder,) = encoders(study).values()
    assert (encoder.model, encoder.weights) == (f"{name}/{text['features']['features']}", "none")
    experiments = expand(study)
    assert all(specs[0].method == "slide" and specs[0].spatial for specs in experiments.values())
    assert "srmil[coordinates=permuted]" in experiments
    assert {len(specs) for specs in experiments.values()} == {15}


def test_the_readme_is_what_the_code_says() -> None:
    assert (ROOT / "config/README.md").read_text(encoding="utf-8") == reference.readme(), (
        "make it again: cd scripts; python -m myostage.study.reference > ../config/README.md"
    )


def test_every_key_has_a_meaning_and_a_source() -> None:
    for heading, section in reference.documented():
        for name, field in section.model_fields.items():
            assert field.description, f"{heading}.{name}"
            assert isinstance(field.json_schema_extra, dict), f"{heading}.{name}"
            assert field.json_schema_extra["source"], f"{heading}.{name}"


# --- proportions --------------------------------------------------------------------------------------------


def test_proportions_follow_the_stages_and_not_the_columns(study: dict[str, Any]) -> None:
    found = read_proportions(load_study(study))
    np.testing.assert_array_equal(found["d3"], [0.6, 0.4, 0])
    np.testing.assert_allclose(found["d7"], [0.3, 0.5, 0.2])


@given(st.lists(st.floats(0.01, 1e4), min_size=3, max_size=3))
def test_normalised_proportions_sum_to_one_and_keep_their_ratios(values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "proportions.tsv"
        path.write_text("group\t" + "\t".join(STAGES) + "\nd0\t" + "\t".join(map(repr, values)) + "\n")
        study = Study(
            study="trial", stages=tuple(STAGES), proportions=str(path), slides="none.tsv", normalise=True
        )
        row = read_proportions(study)["d0"]
    assert row.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(row * sum(values), values, rtol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("d3\t0\t.6\t.4", "d3\t0\t.6\t.3", ["row 3 (group d3)", "sum to 0.9, not 1", "normalise: true"]),
        ("d3\t0\t.6\t.4", "d3\t0\t1.6\t-.6", ["row 3", "column recovered", "is -.6", "not negative"]),
        ("d3\t0\t.6", "d3\tnan\t.6", ["row 3", "column intact", "is nan, not a finite number"]),
        ("d3\t0\t.6", "d3\t0\tmany", ["row 3", "column damaged", "'many', not a number"]),
        ("d3\t0\t.6", "d3\t0\t0,6", ["column damaged", "write a decimal point"]),
        ("d3\t0\t.6\t.4", "d3\t0\t.6", ["row 3", "column recovered", "is empty"]),
        ("d3\t0\t.6\t.4", "d3\t0\t.6\t.4\t.1", ["row 3 has 5 fields", "header 4"]),
        ("d7\t", "d3\t", ["row 4", "column group", "d3 stands in row 3 too"]),
        ("recovered", "recoverd", ["recovered is missing", "recoverd is unknown (did you mean recovered?)"]),
        ("damaged\trecovered", "damaged\tdamaged", ["column recovered is missing", "damaged stands twice"]),
        ("\t", ",", ["not separated by tabs"]),
    ],
)  # fmt: skip
def test_a_fault_in_the_proportions_is_named(
    study: dict[str, Any], old: str, new: str, words: list[str]
) -> None:
    edit(study, "proportions", old, new)
    said = refusal(study)
    assert said.startswith(study["proportions"])
    for word in words:
        assert word in said, said


def test_all_faults_of_a_table_are_named_at_once(study: dict[str, Any]) -> None:
    edit(study, "proportions", "d3\t0\t.6", "d3\t0\t.5")
    edit(study, "proportions", "d7\t.2", "d7\t.1")
    said = refusal(study)
    assert "row 3" in said
    assert "row 4" in said


def test_a_rounded_row_is_taken_and_made_whole(study: dict[str, Any]) -> None:
    edit(study, "proportions", "d3\t0\t.6\t.4", "d3\t0\t.6\t.3995")
    assert read_proportions(load_study(study))["d3"].sum() == pytest.approx(1, abs=1e-12)


def test_counts_need_normalise(study: dict[str, Any]) -> None:
    edit(study, "proportions", "d3\t0\t.6\t.4", "d3\t0\t30\t10")
    assert "sum to 40" in refusal(study)
    study["normalise"] = True
    np.testing.assert_allclose(read_proportions(load_study(study))["d3"], [0.75, 0.25, 0])


# --- slides and crops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("s1\t", "s0\t", ["row 3, column slide", "s0 stands in row 2 too"]),
        ("s1.svs", "s0.svs", ["row 3, column path", "stands in row 2 too"]),
        ("s1\t", "s 1/x\t", ["row 3, column slide", "'s 1/x'", "use letters"]),
        ("\td3\t", "\td5\t", ["group d5 of s1", "has no row in", "did you mean"]),
        ("m1\t\t", "\t\t", ["row 3, column animal", "is ''"]),
        ("m1\t\t", "m1\t352.8\t", ["row 3, column mpp", "is 352.8, outside 0.05 to 5 um/px"]),
        ("animal", "animals", ["column animal is missing", "animals is unknown (did you mean animal?)"]),
        ("m1", "m0", ["folds is 3, more than the 2 animals", "lower folds to 2"]),
        ("s1.svs", "$MYOSTAGE_UNSET/s1.svs", ["row 3, column path", "MYOSTAGE_UNSET, which is not set"]),
    ],
)
def test_a_fault_in_the_slides_is_named(study: dict[str, Any], old: str, new: str, words: list[str]) -> None:
    if "$" in new:  # the whole path, so that the variable stands alone
        old = str(Path(study["slides"]).parent / old)
    edit(study, "slides", old, new)
    said = refusal(study)
    for word in words:
        assert word in said, said


def test_missing_empty_and_half_written_files_are_named_at_once(
    study: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "s0.svs").unlink()
    (tmp_path / "s1.svs").write_bytes(b"")
    (tmp_path / "s2.svs").write_bytes(b"II*\0" + (1_000_000).to_bytes(4, "little") + b"\0" * 100)
    (tmp_path / "s2.geojson").write_text('{"type": "FeatureCollection", "feat')
    said = refusal(study)
    for words in (
        f"slide s0: {tmp_path}/s0.svs does not exist",
        f"slide s1: {tmp_path}/s1.svs is empty",
        f"slide s2: {tmp_path}/s2.svs is half-written",
        f"annotations of slide s2: {tmp_path}/s2.geojson is half-written",
    ):
        assert words in said, said


def test_a_broken_slide_that_may_be_skipped_is_left_to_check(study: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "s2.svs").write_bytes(b"II*\0" + (1_000_000).to_bytes(4, "little") + b"\0" * 100)
    study["on_bad_slide"] = "skip"
    assert load_study(study).on_bad_slide == "skip"


def test_a_phantom_needs_no_files_but_groups_and_places_for_its_truth(
    study: dict[str, Any], tmp_path: Path
) -> None:
    study["phantom"] = {}
    for file in tmp_path.glob("s?.*"):
        file.unlink()
    assert "must end in .tif" in refusal(study)
    edit(study, "slides", ".svs", ".tif")
    assert load_study(study).phantom == Phantom()
    edit(study, "slides", "\td3\t", "\t\t")
    assert "slide s1 has no group" in refusal(study)


def test_a_slide_without_group_is_staged_only(study: dict[str, Any]) -> None:
    edit(study, "slides", "\td3\tm1", "\t\t")
    study["folds"] = 2
    row = read_slides(load_study(study))[1]
    assert (row.group, row.animal) == ("", "s1")


def test_columns_that_nothing_uses_are_carried_and_named(study: dict[str, Any]) -> None:
    edit(study, "slides", "annotations\n", "annotations\ttreatment\tsex (f/m)\t\n")
    edit(study, "slides", "s1.geojson", "s1.geojson\tdrug\tf\t\t")
    loaded = load_study(study)
    assert [row.carried for row in read_slides(loaded)] == [
        {"treatment": "", "sex (f/m)": ""},
        {"treatment": "drug", "sex (f/m)": "f"},
        {"treatment": "", "sex (f/m)": ""},
    ]
    said = f"{study['slides']}: columns treatment, sex (f/m) are carried along, and used by nothing"
    assert notes(loaded).count(said) == 1


def test_a_column_that_a_score_names_is_used_and_not_carried(study: dict[str, Any]) -> None:
    edit(study, "slides", "annotations\n", "annotations\tdamage\n")
    for number in range(3):
        edit(study, "slides", f"s{number}.geojson", f"s{number}.geojson\t{number}")
    study["experiments"][0] |= {"losses": {"mse": 1}, "training": {"score": "damage"}}
    rows = read_slides(load_study(study))
    assert [(row.values["damage"], dict(row.carried)) for row in rows] == [("0", {}), ("1", {}), ("2", {})]


def test_rows_that_start_with_a_hash_are_counted_aloud(study: dict[str, Any]) -> None:
    with Path(study["slides"]).open("a") as table:
        table.write("# a note\n#s7\tnone.svs\td0\tm7\t\t\n")
    assert f"{study['slides']}: 1 rows that start with # are left out (row 6)" in notes(load_study(study))


def test_crops_make_virtual_slides(study: dict[str, Any], tmp_path: Path) -> None:
    lines = ["# any note", "crop\tpath\tgroup\tanimal\tlabel"]
    for number, day in enumerate(("d0", "d0", "d3", "d7")):
        (tmp_path / f"c{number}.png").write_bytes(b"\x89PNG%d" % number)
        lines.append(f"c{number}\t{tmp_path}/c{number}.png\t{day}\tm{day}\t{'intact' if number else ''}")
    (tmp_path / "crops.tsv").write_text("\n".join(lines))
    study.update(input="crops", crops=str(tmp_path / "crops.tsv"))
    assert "`slides` is named too" in refusal(study)
    del study["slides"]
    rows = {row.slide: row for row in read_slides(load_study(study))}
    assert {slide: [crop.label for crop in row.crops] for slide, row in rows.items()} == {
        "d0_md0": [None, 2],
        "d3_md3": [2],
        "d7_md7": [2],
    }
    study["crops"] = str(tmp_path / "crops.tsv")
    edit(study, "crops", "md7\tintact", "md7\tintakt")
    assert "row 6, column label: 'intakt' is no stage" in refusal(study)


# --- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("trainig", {}, ["unknown key trainig", "did you mean training?"]),
        ("training.sigam", 0.1, ["unknown key training.sigam", "did you mean sigma?"]),
        ("segmentation.diameter", 40, ["unknown key segmentation.diameter", "did you mean diameter_um?"]),
        ("experiments.0.loses", {}, ["unknown key experiments[combined].loses", "did you mean losses?"]),
        ("experiments.0.training", {"bin": 5}, ["unknown key experiments[combined].training.bin", "bins?"]),
        ("experiments.0.encoder", {"wights": "none"}, ["experiments[combined].encoder.wights", "weights?"]),
        ("experiments.0.vary", {"sigmas": [1]}, ["experiments[combined].vary.sigmas", "did you mean sigma?"]),
        ("experiments.0.vary", {"losses.porp": [1]}, ["vary.losses.porp", "did you mean losses.prop?"]),
        ("experiments.0.losses", {"propp": 1}, ["unknown key experiments[combined].losses.propp", "prop?"]),
        ("experiments.0.losses", {"prop": -1}, ["experiments[combined].losses.prop is -1", "greater than 0"]),
        ("training.sigma", 0, ["training.sigma is 0", "greater than 0"]),
        ("training.sigma", float("nan"), ["training.sigma is nan"]),
        ("training.bins", 1, ["training.bins is 1", "greater than or equal to 2"]),
        ("training.steps", "many", ["training.steps is 'many'", "integer"]),
        ("training.steps", True, ["training", "steps is true"]),
        ("training.pairs", "al", ["training.pairs is 'al'", "did you mean all?"]),
        ("training", "fast", ["training is 'fast'"]),
        ("experiments.0.training", {"sigma": 0}, ["experiments[combined].training.sigma is 0"]),
        ("experiments.0.vary", {"bins": [6, 1]}, ["experiments[combined].training.bins is 1"]),
        ("experiments.0.vary", {"sigma": [0.1, "1e-1"]}, ["makes combined[sigma=0.1] twice"]),
        ("experiments.0.vary", {"sigma": []}, ["experiments[combined].vary.sigma", "at least 1"]),
        ("experiments.0.losses", {}, ["experiments[combined] learns from proportions and has no losses"]),
        ("experiments.0.losses", {"cross_entropy": 1}, ["cross_entropy, no loss", "set method: supervised"]),
        ("experiments.0.losses", {"prop": 1, "cell": 1}, ["[combined]: cell needs to know uninjured tissue"]),
        ("experiments.0.losses", {"spatial_reconstruction": 1}, ["teaches no stage", "add prop: 1 or"]),
        ("experiments.0.losses", {"prop": 1, "slide": 1}, ["slide, no loss of method", "set method: slide"]),
        ("experiments.0.training", {"unfreeze": "none"}, ["simprop", "nothing to learn"]),
        ("experiments.0.method", "majority", ["learns nothing (majority) and takes no losses"]),
        ("experiments.0.method", "supervised", ["whose losses are cross_entropy", "simprop, prop"]),
        ("experiments", [], ["no experiments", "apply"]),
        ("experiments", [{"name": "a", "method": "majority"}] * 2, ["experiments name a 2 times"]),
        ("look.experiment", "combine", ["look.experiment is combine", "did you mean combined?"]),
        ("look.slides", ["s9"], ["look.slides names s9", "no slide of"]),
        ("stages", ["damaged", "intact", "intact"], ["stages name intact 2 times"]),
        ("segmentation", {"model": "cyto3", "train": {"images": "x"}}, ["both model and train"]),
        ("segmentation", {"model": None}, ["neither model nor train"]),
        ("segmentation.model", "none.pt", ["segmentation.model: none.pt does not exist"]),
        ("encoder", {"model": "vit", "architecture": {}}, ["both model and architecture"]),
        ("encoder", {"architecture": {}}, ["weights: pretrained needs a timm `model`"]),
        ("encoder.weights", "pretraind", ["weights is 'pretraind'", "did you mean pretrained?"]),
        ("encoder.weights", "none.pth", ["encoder.weights: none.pth does not exist"]),
        ("tiling.overlap_px", 128, ["overlap_px is 128", "half of tile_px (256)"]),
        ("folds", 1, ["folds is 1", "greater than or equal to 2"]),
        ("proportions", None, ["the table `proportions` is missing"]),
        ("proportions", "none.tsv", ["none.tsv: no such table"]),
        ("apply", {"study": "none.yaml", "experiment": "prop"}, ["none.yaml: no such study file"]),
    ],
)  # fmt: skip
def test_a_fault_in_the_study_file_is_named(
    study: dict[str, Any], key: str, value: Any, words: list[str]
) -> None:
    put(study, key, value)
    said = refusal(study)
    assert "\n" not in said
    for word in words:
        assert word in said, said


# --- neighbours, labels of slides, scores


@pytest.fixture
def neighbours(study: dict[str, Any]) -> dict[str, Any]:
    """The sound study with uninjured tissue, two labels of slides, and models of the first."""
    return study | {
        "healthy": {"groups": ["d0"], "stages": ["intact"]},
        "slide_labels": {
            "injured": {"kind": "binary", "classes": {"uninjured": ["d0"], "injured": ["d3", "d7"]}},
            "day": {"kind": "multiclass", "classes": {"d0": ["d0"], "d3": ["d3"], "d7": ["d7"]}},
        },
        "experiments": [*study["experiments"], {"name": "smap", "method": "slide"}],
    }


SMAP = {"name": "smap", "method": "slide"}
PROP = {"name": "prop", "losses": {"prop": 1}}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("slide_labels", {}, ["experiments of method slide need `slide_labels`; add it"]),
        ("healthy", None, ["experiments of method slide need `healthy`; add it"]),
        ("healthy.stages", ["intakt"], ["healthy.stages names intakt, which is no", "did you mean intact?"]),
        ("healthy.stages", STAGES, ["healthy.stages names every stage"]),
        ("healthy.groups", ["d9"], ["healthy.groups names d9, which no slide of", "did you mean"]),
        ("slide_labels.injured.classes", {"a": ["d0", "d3", "d7"], "b": ["d9"]}, ["of one class only (a)"]),
        ("slide_labels.injured.classes", {"a": ["d8"], "b": ["d9"]}, ["slides of one class only (none)"]),
        ("slide_labels.injured.classes", {"a": ["d0"], "b": ["d0"]}, ["injured", "classes name d0 twice"]),
        ("slide_labels.day.kind", "binary", ["slide_labels.day", "kind is binary and there are 3 classes"]),
        ("slide_labels.injured.column", "treated", ["slides.tsv", "column treated is missing"]),
        ("experiments.1.mil", {"label": "dya"}, ["mil.label is dya, none of slide_labels", "mean day?"]),
        ("experiments.1.mil", {"model": "abmil", "label": "day"}, ["abmil gives one logit and day is multi"]),
        ("experiments.1.mil", {"alpha": 1}, ["experiments[smap].mil.alpha"]),
        ("experiments.1.mil", {"modle": "abmil"}, ["experiments[smap].mil.modle", "did you mean model?"]),
        ("experiments.1.losses", {"slide": 1, "slide_masked": 1}, ["slide_masked is a term of srmil alone"]),
        ("experiments.1.losses", {"slide": 1, "prop": 1}, ["[smap] has prop, no loss of method slide"]),
        ("experiments.1.losses", {"slide_masked": 1}, ["[smap] learns labels of slides and has no"]),
        ("experiments.0.mil", {"model": "abmil"}, ["[combined].mil is of models of slide", "method: slide"]),
        ("experiments.0.graph", {"neighbours": 4}, ["experiments[combined].graph changes nothing"]),
        ("experiments.0.vary", {"graph.neighbours": [4]}, ["experiments[combined].graph changes nothing"]),
        ("experiments.0.vary", {"mil.alpha": [0.1]}, ["unknown key experiments[combined].vary.mil.alpha"]),
        ("experiments.1.vary", {"mil.alhpa": [0.1]}, ["[smap].vary.mil.alhpa", "did you mean mil.alpha?"]),
        ("experiments.1.vary", {"graph.neighbors": [4]}, ["did you mean graph.neighbours?"]),
        ("experiments.1", SMAP | {"mil": {"alpha": 0.1}, "vary": {"mil.alpha": [0.5]}},
         ["experiments[smap] sets mil.alpha by itself and in vary"]),
        ("experiments.1", SMAP | {"graph": {"neighbours": 4}, "vary": {"graph.neighbours": [5]}},
         ["experiments[smap] sets graph.neighbours by itself and in vary"]),
        ("experiments.0", PROP | {"losses": {"cell": 1}}, ["experiments[prop]: cell teaches no stage"]),
        ("experiments.0", PROP | {"losses": {"prop": 1, "supcr": 1}, "training": {"unfreeze": "none"}},
         ["supcr trains the encoder", "unfreeze attention or block"]),
        ("experiments.0", {"name": "most", "method": "majority", "graph": {"neighbours": 4}},
         ["experiments[most] learns nothing (majority) and takes no graph"]),
        ("graph", {"by": "radius"}, ["graph: by: radius needs radius_um"]),
        ("look.attention", ["smpa"],
         ["look.attention is smpa, no experiment of method slide", "did you mean smap?"]),
        ("compare.slides", "smpa",
         ["compare.slides is smpa, no experiment of method slide", "did you mean smap?"]),
    ],
)  # fmt: skip
def test_a_fault_in_what_looks_at_neighbours_is_named(
    neighbours: dict[str, Any], key: str, value: Any, words: list[str]
) -> None:
    put(neighbours, key, value)
    said = refusal(neighbours)
    assert "\n" not in said
    for word in words:
        assert word in said, said


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("low", "2", "3"), ["slide s0: column area is 'low', not a number"]),
        (("1", "", "3"), ["slide s1: column area is empty"]),
        (("1", "nan", "3"), ["slide s1: column area is nan, not a finite number"]),
        (("2", "2", "2.0"), ["column area is 2 for every slide, which is no score"]),
    ],
)
def test_a_score_that_is_none_is_named(
    study: dict[str, Any], values: tuple[str, ...], words: list[str]
) -> None:
    study["experiments"].append({"name": "scored", "losses": {"mse": 1}, "training": {"score": "area"}})
    assert "column area is missing" in refusal(study)
    add_column(study, "area", values)
    said = refusal(study)
    for word in words:
        assert word in said, said


def add_column(study: dict[str, Any], name: str, values: Sequence[str]) -> None:
    """A column of the slide table, with a value for every slide."""
    path = Path(study["slides"])
    header, *lines = path.read_text().splitlines()
    rows = [f"{line}\t{value}" for line, value in zip(lines, values, strict=True)]
    path.write_text("\n".join([f"{header}\t{name}", *rows]) + "\n")


def test_scores_run_from_the_first_stage_to_the_last(study: dict[str, Any]) -> None:
    study["experiments"] = [
        {"name": "scored", "losses": {"mse": 1}, "vary": {"score": ["area", "expected_stage"]}}
    ]
    add_column(study, "area", ("10", "-10", "0"))
    loaded = load_study(study)
    rows = read_slides(loaded)
    assert inputs.slide_scores(loaded, "area", rows) == {"s0": 2.0, "s1": 0.0, "s2": 1.0}
    assert set(expand(loaded)) == {"scored[score=area]", "scored[score=expected_stage]"}
    # A slide that nothing is learnt from needs no score.
    edit(study, "slides", "\td3\tm1", "\t\t")
    edit(study, "slides", "s1.geojson\t-10", "s1.geojson\t")
    study["folds"] = 2
    loaded = load_study(study)
    assert inputs.slide_scores(loaded, "area", read_slides(loaded)) == {"s0": 2.0, "s2": 0.0}


def test_a_label_of_slides_may_be_any_column(neighbours: dict[str, Any]) -> None:
    add_column(neighbours, "treated", ("yes", "no", "unknown"))
    put(
        neighbours,
        "slide_labels.treatment",
        {"kind": "binary", "column": "treated", "classes": {"none": ["no"], "some": ["yes"]}},
    )
    loaded = load_study(neighbours)
    found = {
        name: inputs.slide_classes(loaded, label, read_slides(loaded))
        for name, label in loaded.slide_labels.items()
    }
    assert found == {
        "injured": {"s0": 0, "s1": 1, "s2": 1},
        "day": {"s0": 0, "s1": 1, "s2": 2},
        "treatment": {"s0": 1, "s1": 0},
    }
    edit(neighbours, "slides", "\td3\tm1", "\t\t")
    neighbours["folds"] = 2
    loaded = load_study(neighbours)
    assert inputs.slide_classes(loaded, loaded.slide_labels["day"], read_slides(loaded)) == {
        "s0": 0,
        "s2": 2,
    }


@pytest.mark.parametrize(
    "experiment",
    [
        SMAP,
        PROP | {"losses": {"prop": 1, "spatial_reconstruction": 1}},
        PROP | {"training": {"smooth": "logits"}},
    ],
    ids=["slide", "reconstruction", "smooth"],
)
def test_ready_made_crops_have_no_neighbours(neighbours: dict[str, Any], experiment: dict[str, Any]) -> None:
    neighbours["experiments"] = [experiment]
    neighbours |= {"input": "crops", "crops": neighbours.pop("slides")}
    said = refusal(neighbours)
    assert f"experiments[{experiment['name']}] needs to know where cells lie, which ready-made crops" in said


def test_ready_made_features_train_no_encoder(neighbours: dict[str, Any]) -> None:
    neighbours |= {"input": "features", "features": {"dataset": "rsna", "root": "."}}
    neighbours["experiments"] = [SMAP]
    neighbours["phantom"] = {}
    assert "phantom draws slides and input is features" in refusal(neighbours)
    del neighbours["phantom"]
    neighbours["apply"] = {"study": "none.yaml", "experiment": "prop"}
    assert "apply stages cells, and ready-made features have no crops to stage" in refusal(neighbours)
    del neighbours["apply"]
    assert list(expand(load_study(neighbours))) == ["smap"]
    del neighbours["proportions"]
    assert read_proportions(load_study(neighbours)) == {}
    for key, words in (("features", "`features` is missing"), ("slides", "`slides` is missing")):
        assert words in refusal({name: value for name, value in neighbours.items() if name != key})
    neighbours["input"] = "slides"
    assert "input is slides and `features` is named too" in refusal(neighbours)


def test_a_border_needs_a_score_and_what_lies_outside(neighbours: dict[str, Any]) -> None:
    edit(neighbours, "slides", ".svs", ".tif")
    neighbours["phantom"] = {}
    add_column(neighbours, "border", ("", "sharp", "blurred"))
    add_column(neighbours, "score", ("", "", ".5"))
    said = refusal(neighbours)
    assert "row 3, column score: is empty" in said
    assert "row 4, column border: is blurred; it is sharp, diffuse or empty" in said
    edit(neighbours, "slides", "blurred", "diffuse")
    edit(neighbours, "slides", "sharp\t", "sharp\t.2")
    assert [row.border for row in read_slides(load_study(neighbours))] == [
        "",
        "sharp",
        "diffuse",
    ]
    neighbours["experiments"] = [PROP]
    del neighbours["healthy"]
    said = refusal(neighbours)
    assert "slide s1 has a border, and the study says not which stages lie outside the region" in said
    assert "slide s0" not in said


def test_labels_of_grids_show_what_is_varied(neighbours: dict[str, Any]) -> None:
    neighbours["experiments"] = [
        SMAP | {"vary": {"mil.placement": ["early", "late"], "mil.alpha": [0.5, "trainable"]}},
        SMAP | {"name": "near", "vary": {"graph.neighbours": [4, 6], "learning_rate": ["1e-3"]}},
        SMAP | {"name": "plain", "mil": {"spectral_norm": False}, "vary": {"mil.label": ["injured", "day"]}},
    ]
    experiments = expand(load_study(neighbours))
    assert list(experiments) == [
        "smap[placement=early,alpha=0.5]",
        "smap[placement=early,alpha=trainable]",
        "smap[placement=late,alpha=0.5]",
        "smap[placement=late,alpha=trainable]",
        "near[neighbours=4,learning_rate=0.001]",
        "near[neighbours=6,learning_rate=0.001]",
        "plain[label=injured]",
        "plain[label=day]",
    ]
    spec = experiments["smap[placement=late,alpha=trainable]"][0]
    assert spec.mil is not None and (spec.mil.placement, spec.mil.alpha) == ("late", "trainable")
    assert spec.mil.label == "injured" and spec.losses == {"slide": 1.0} and spec.id.startswith("smap-f0-s0-")
    near = experiments["near[neighbours=4,learning_rate=0.001]"][0]
    assert near.graph is not None and near.graph.neighbours == 4
    day = experiments["plain[label=day]"][0]
    assert day.label == load_study(neighbours).slide_labels["day"]
    assert len({spec.id for specs in experiments.values() for spec in specs}) == 8 * 6


def test_what_is_rebuilt_from_neighbours_has_a_control_with_permuted_places(
    neighbours: dict[str, Any],
) -> None:
    rebuilding = {"losses": {"prop": 1, "spatial_reconstruction": 1}}
    srmil = {"method": "slide", "mil": {"model": "srmil"}}
    permuted = {"graph": {"coordinates": "permuted"}}
    neighbours["experiments"] = [
        {"name": "rebuilt"} | rebuilding,
        {"name": "srmil"} | srmil | {"vary": {"mask_ratio": [0.3, 0.7]}},
        {"name": "plain"} | srmil | {"losses": {"slide": 1}},
        {"name": "dealt"} | srmil | permuted,
        {"name": "both"} | srmil | {"vary": {"graph.coordinates": ["true", "permuted"]}},
    ]
    experiments = expand(load_study(neighbours))
    assert list(experiments) == [
        "rebuilt",
        "rebuilt[coordinates=permuted]",
        "srmil[mask_ratio=0.3]",
        "srmil[mask_ratio=0.3,coordinates=permuted]",
        "srmil[mask_ratio=0.7]",
        "srmil[mask_ratio=0.7,coordinates=permuted]",
        "plain",
        "dealt",
        "both[coordinates=true]",
        "both[coordinates=permuted]",
    ]
    for label in ("rebuilt", "srmil[mask_ratio=0.7]"):
        for one, control in zip(experiments[label], experiments[control_of(label)], strict=True):
            assert one.graph is not None and one.graph.coordinates == "true"
            changed = {"graph": one.graph.model_copy(update={"coordinates": "permuted"})}
            assert control.model_dump() == one.model_copy(update=changed).model_dump()
            assert control.id != one.id
    assert experiments["srmil[mask_ratio=0.7]"][0].losses == SRMIL_WEIGHTS
    ids = [[spec.id for spec in experiments[label]] for label in ("dealt", "both[coordinates=permuted]")]
    assert ids[0] == ids[1]
    neighbours["graph"] = {"coordinates": "permuted"}
    assert not [label for label in expand(load_study(neighbours)) if "rebuilt[" in label]


@pytest.mark.parametrize(
    ("experiment", "key", "value", "same"),
    [
        (SMAP, "graph.neighbours", 4, False),
        (SMAP, "mil.alpha", 0.2, False),
        (SMAP, "slide_labels.injured.classes.injured", ["d3"], False),
        (SMAP, "slide_labels.day.kind", "ordinal", True),  # the label of another experiment
        (SMAP, "healthy.groups", ["d0", "d3"], True),  # measured against, not learnt from
        (PROP | {"training": {"smooth": "logits"}}, "graph.neighbours", 4, False),
        (PROP | {"losses": {"mse": 1, "cell": 1}}, "healthy.groups", ["d0", "d3"], False),
        (PROP | {"losses": {"mse": 1}}, "healthy.groups", ["d0", "d3"], True),
        (PROP, "graph.neighbours", 4, True),
        (PROP, "mil.alpha", 0.2, True),
        (PROP, "slide_labels", {}, True),
        (PROP, "healthy", None, True),
    ],
)
def test_a_runs_id_changes_with_neighbours_where_it_sees_them(
    neighbours: dict[str, Any], experiment: dict[str, Any], key: str, value: Any, same: bool
) -> None:
    neighbours["experiments"] = [experiment]
    before = set(runs(load_study(neighbours)))
    put(neighbours, key, value)
    after = set(runs(load_study(neighbours)))
    assert (before == after) is same
    assert same or not before & after


def test_models_of_slide_labels_and_spatial_runs_are_not_applied_blindly(
    neighbours: dict[str, Any], tmp_path: Path
) -> None:
    neighbours["experiments"].append(PROP | {"training": {"smooth": "logits"}})
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(neighbours))
    new = {"study": "new", "experiments": [], "apply": {"study": str(other), "experiment": "smap"}}
    said = refusal(neighbours | new)
    assert "apply.experiment smap stages no cell (it learns labels of slides)" in said
    new["apply"] = {"study": str(other), "experiment": "prop"}
    assert applied(load_study(neighbours | new))[1][0].spatial
    crops = {"input": "crops", "crops": neighbours["slides"], "slides": None}
    with pytest.raises(UserError, match=r"apply\.experiment prop needs to know where cells lie"):
        applied(Study(**(neighbours | new | crops)))


def test_a_supervised_ceiling_needs_labels(study: dict[str, Any], tmp_path: Path) -> None:
    study["experiments"].append({"name": "ceiling", "method": "supervised"})
    assert expand(load_study(study))["ceiling"][0].losses == {"cross_entropy": 1.0}
    for number in range(3):
        edit(study, "slides", f"{tmp_path}/s{number}.geojson", "")
    assert "ceiling learns from labels and no row with a group has annotations" in refusal(study)
    study["experiments"][-1]["method"] = "probe"
    assert "ceiling learns from labels and no row with a group has annotations" in refusal(study)


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    for text in ("study: [", "", "just words"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"study\.yaml"):
            load_study(path)


def test_apply_refuses_other_stages_and_other_crops(study: dict[str, Any], tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(study))
    study |= {"study": "new", "experiments": [], "apply": {"study": str(other), "experiment": "combined"}}
    assert len(applied(load_study(study))[1]) == 6
    study["crop"] = {"mpp": 2.0}
    study["stages"] = STAGES[::-1]
    said = refusal(study)
    assert "crops are at 2 um/px and at 0.5" in said
    assert "make them equal" in said
    study["apply"] = {"study": str(other), "experiment": "combind"}
    assert "did you mean combined?" in refusal(study)


def test_bags_larger_than_their_slides_are_named() -> None:
    check_bag_size({"s1": 100, "s2": 120}, 100, "slide")
    with pytest.raises(UserError, match=r"slide s1 \(20\), s3 \(7\) holds.*lower bag_size to 7"):
        check_bag_size({"s1": 20, "s2": 120, "s3": 7}, 100, "slide")


# --- the grid -----------------------------------------------------------------------------------------------


def test_a_grid_has_a_label_and_folds_times_seeds_runs_at_each_point(study: dict[str, Any]) -> None:
    study["experiments"][0]["vary"] = {"sigma": [0.05, 0.1], "losses.prop": [1, 2]}
    experiments = expand(load_study(study))
    assert list(experiments) == [
        "combined[sigma=0.05,losses.prop=1]",
        "combined[sigma=0.05,losses.prop=2]",
        "combined[sigma=0.1,losses.prop=1]",
        "combined[sigma=0.1,losses.prop=2]",
    ]
    specs = experiments["combined[sigma=0.05,losses.prop=2]"]
    assert [(spec.fold, spec.seed) for spec in specs] == [(f, s) for f in range(3) for s in (0, 1)]
    assert {(spec.training.sigma, spec.losses["prop"]) for spec in specs} == {(0.05, 2.0)}
    assert len(runs(load_study(study))) == 24, "all different"


def test_a_run_asked_for_twice_is_one_run(study: dict[str, Any]) -> None:
    study["experiments"].append(
        {"name": "again", "losses": {"prop": 1.0, "simprop": 1}, "vary": {"bins": [6, 8]}}
    )
    experiments = expand(load_study(study))
    assert [spec.id for spec in experiments["again[bins=6]"]] == [spec.id for spec in experiments["combined"]]
    assert not {s.id for s in experiments["again[bins=8]"]} & {s.id for s in experiments["combined"]}


@pytest.mark.parametrize(
    ("key", "value", "same"),
    [
        ("experiments.0.name", "other", True),
        ("experiments.0.part", "design", True),
        ("experiments.0.baseline", True, True),
        ("compare", {"reference": "combined", "metric": "rmse", "alpha": 0.01}, True),
        ("jobs.runs_per_job", 9, True),
        ("training.cache_mb", 1, True),
        ("training.checkpoint_every", 7, True),
        ("encoder.batch_size", 7, True),
        ("training.sigma", 0.2, False),
        ("training.bag_size", 50, False),
        ("encoder.pos_embed", "timm", False),
        ("encoder.pool", "cls+mean", False),
        ("experiments.0.losses", {"prop": 1}, False),
    ],
)
def test_a_runs_id_changes_with_what_shapes_its_numbers_only(
    study: dict[str, Any], key: str, value: Any, same: bool
) -> None:
    before = set(runs(load_study(study)))
    put(study, key, value)
    after = set(runs(load_study(study)))
    assert (before == after) is same
    assert same or not before & after


def test_baselines_run_once_whatever_training_says(study: dict[str, Any]) -> None:
    study["experiments"].append({"name": "most", "method": "majority"})
    before = [spec.id for spec in expand(load_study(study))["most"]]
    put(study, "training.sigma", 0.3)
    put(study, "encoder.pool", "cls+mean")
    specs = expand(load_study(study))["most"]
    assert [spec.id for spec in specs] == before
    assert [(spec.fold, spec.seed, spec.trained) for spec in specs] == [(fold, 0, False) for fold in range(3)]


def test_naming_one_geometry_replaces_the_other(study: dict[str, Any]) -> None:
    study["encoder"] = {"architecture": {"width": 96}, "weights": "none"}
    study["experiments"][0]["encoder"] = {"model": "vit_tiny_patch16_224", "weights": "pretrained"}
    (encoder,) = encoders(load_study(study)).values()
    assert (encoder.model, encoder.architecture) == ("vit_tiny_patch16_224", None)
    assert encoder.id.startswith("vit_tiny_patch16_224-")

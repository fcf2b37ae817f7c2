"""Ready-made features: what a set holds is what runs read, and a damaged set is named, not learnt from."""

import csv
import logging
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

import features_table
from myostage import schema, tables
from myostage.cells.tables import LABELS, POSITIONS
from myostage.errors import UserError
from myostage.features import ready_made, tokens
from myostage.study import inputs
from myostage.study.expand import control_of, expand, runs
from myostage.study.load import load_study
from support.feature_sets import STORED, WIDTH, Written, arguments, generate

ROOT = Path(__file__).parents[2]
ENCODER = '{"features": "UNI"}'


@pytest.fixture(params=list(STORED))
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Written:
    return generate(tmp_path, request.param)


@pytest.fixture
def slides(tmp_path: Path) -> Written:
    return generate(tmp_path, "camelyon16")


def write(bag: ready_made.Bag, folder: Path) -> tuple[Path, Path, Path]:
    out = folder / "tokens.parquet", folder / "positions.parquet", folder / "labels.parquet"
    ready_made.write_bag(
        bag, tokens_out=out[0], positions_out=out[1], labels_out=out[2], encoder_json=ENCODER
    )
    return out


def test_every_bag_is_read_as_it_was_written(made: Written) -> None:
    for name, put in made.bags.items():
        bag = made.read(name)
        assert bag.name == name and bag.label == int(put["label"].squeeze())
        assert bag.features.dtype == np.float32 and (bag.features == put["features"]).all()
        assert bag.instances is not None and bag.instances.dtype == np.int64
        assert (bag.instances == put["instances"].ravel()).all()
        assert bag.positions.dtype == np.float64 and bag.positions.shape == (len(bag.features), 2)
        if made.dataset == "rsna":
            assert (bag.positions[:, 0] == np.arange(len(bag.features))).all()
            assert not bag.positions[:, 1].any()
        else:
            places = [[x // 512, y // 512] for x, y in put["coords"].tolist()]
            left, top = min(x for x, _ in places), min(y for _, y in places)
            assert bag.positions.tolist() == [[x - left, y - top] for x, y in places]


def test_what_is_written_is_what_runs_read(made: Written, tmp_path: Path) -> None:
    for name, put in made.bags.items():
        out = write(made.read(name), tmp_path / "out" / name)
        n = len(put["features"])
        store = tokens.TokenStore(out[0])
        assert store.shape == (1, WIDTH) and store.cells.tolist() == list(range(n))
        assert (store.read().numpy()[:, 0] == put["features"].astype(np.float16)).all()
        assert store.metadata["encoder"] == ENCODER
        positions = tables.read(out[1], POSITIONS)
        assert positions.cell.tolist() == list(range(n))
        assert (positions[["x_um", "y_um"]].to_numpy() == made.read(name).positions).all()
        labels = tables.read(out[2], LABELS)
        assert labels.cell.tolist() == list(range(n)) and (labels.iou == 1).all()
        assert labels.stage.tolist() == put["instances"].ravel().tolist()


def test_bags_have_the_split_and_label_of_the_set(made: Written) -> None:
    expected = [(name, split, int(name[-1]) % 2) for name, split in made.splits.items()]
    assert made.list() == expected
    assert {split for _, split, _ in expected} == {"train", "test"}


def test_one_data_set_per_split_is_opened_and_keeps_no_bag(slides: Written) -> None:
    for _ in range(2):
        for name in slides.bags:
            slides.read(name)
    arguments = [("camelyon16", slides.root, "UNI", 512, split) for split in ("train", "test")]
    for asked in arguments:
        opened, _ = ready_made._opened(*asked)
        assert opened is ready_made._opened(*asked)[0] and not opened.loaded_bags


def test_labels_that_contradict_the_bag_are_unknown(
    made: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    made.put("instances", "bag_1", np.zeros(11, np.int64))
    with caplog.at_level(logging.INFO, "myostage"):
        bag = made.read("bag_1")
    assert bag.label == 1 and bag.instances is None
    assert "bag_1: the labels of its instances are unknown" in caplog.text
    assert not any("bag_1" in str(warning.message) for warning in recwarn)
    labels = tables.read(write(bag, tmp_path / "out")[2], LABELS)
    assert not len(labels)


def test_single_unknown_labels_have_no_row(slides: Written, tmp_path: Path) -> None:
    given = slides.bags["bag_1"]["instances"].copy()
    given[[2, 5]] = -1
    slides.put("instances", "bag_1", given)
    labels = tables.read(write(slides.read("bag_1"), tmp_path / "out")[2], LABELS)
    known = [cell for cell in range(11) if cell not in (2, 5)]
    assert labels.cell.tolist() == known and labels.stage.tolist() == given[known].tolist()


def test_tiles_that_lie_apart_are_told(slides: Written, caplog: pytest.LogCaptureFixture) -> None:
    slides.read("bag_1")
    assert not caplog.text
    slides.put("coords", "bag_1", slides.bags["bag_1"]["coords"] * 2)
    slides.read("bag_1")
    assert "bag_1: the nearest neighbour of an instance lies 2 sides away (median 2)" in caplog.text
    caplog.clear()
    slides.put("coords", "bag_1", slides.bags["bag_1"]["coords"] // 4)
    slides.read("bag_1")
    assert "lies 0 sides away" in caplog.text


def test_a_bag_of_one_tile_is_a_bag(slides: Written, tmp_path: Path) -> None:
    slides.put("features", "bag_0", np.ones((1, WIDTH), np.float64))
    slides.put("instances", "bag_0", np.zeros(1))
    slides.put("coords", "bag_0", np.array([[512, 1024]]))
    bag = slides.read("bag_0")
    assert bag.positions.tolist() == [[0, 0]] and bag.features.shape == (1, WIDTH)
    assert tokens.TokenStore(write(bag, tmp_path / "out")[0]).read().shape == (1, 1, WIDTH)


@pytest.mark.parametrize("beyond", [65520.0, -1e6])
def test_features_beyond_float16_are_refused(slides: Written, tmp_path: Path, beyond: float) -> None:
    bag = slides.read("bag_1")
    bag.features[3, 2] = 65504
    assert np.isfinite(tokens.TokenStore(write(bag, tmp_path / "fits")[0]).read().numpy()).all()
    bag.features[4, 1] = beyond
    with pytest.raises(UserError, match=r"bag bag_1: 1 of 11 instances \(the first: 4\).*float16"):
        write(bag, tmp_path / "out")
    assert not (tmp_path / "out").exists()


FLAWED = np.ones((11, WIDTH), np.float32)
FLAWED[7, 3] = np.nan
NOWHERE = np.ones((11, 2))
NOWHERE[4] = np.nan


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(
    ("what", "values", "message"),
    [
        ("features", FLAWED, "11 x 16 numbers are no finite features"),
        ("features", np.full((11, WIDTH), np.inf), "no finite features"),
        ("features", np.ones((11, 2, WIDTH)), "11 x 2 x 16 numbers are no finite features"),
        (
            "features",
            np.ones((10, WIDTH)),
            r"bag bag_1: .*differ in .*UNI/bag_1.npy 10, .*labels/bag_1.npy 11",
        ),
        ("coords", np.ones((12, 2)), r"bag bag_1: .*differ in .*coords/bag_1.npy 12"),
        ("coords", np.ones((11, 3)), "coords/bag_1.npy: holds no x and y"),
        ("coords", NOWHERE, "coords/bag_1.npy: holds no x and y"),
        ("coords", np.array(3), r"coords/bag_1.npy 0"),
        ("instances", np.zeros(9), r"bag bag_1: .*differ in .*patch_labels/bag_1.npy 9"),
        ("instances", np.zeros((11, 2)), "bag bag_1: torchmil cannot read it"),
        ("instances", np.array([1] + [-2] * 10), "patch_labels/bag_1.npy: holds labels other than 0, 1"),
        ("label", np.array([2]), r"labels/bag_1.npy: holds \[2\] where a label is 0 or 1"),
        ("label", np.array([0, 1]), r"labels/bag_1.npy: holds \[0, 1\]"),
    ],
)
def test_damaged_bags_are_named(slides: Written, what: str, values: np.ndarray, message: str) -> None:
    slides.put(what, "bag_1", values)
    with pytest.raises(UserError, match=message):
        slides.read("bag_1")
    assert slides.read("bag_0").label == 0


@pytest.mark.parametrize("what", ["features", "label", "instances", "coords"])
def test_an_archive_in_place_of_an_array_is_named(slides: Written, what: str) -> None:
    file = slides.file(what, "bag_1")
    with file.open("wb") as archive:
        np.savez(archive, np.zeros(3))
    with pytest.raises(UserError, match=f"{re.escape(str(file))}: not a readable array"):
        slides.read("bag_1")


@pytest.mark.parametrize("what", ["features", "label", "instances", "coords"])
@pytest.mark.parametrize(("content", "message"), [(None, "is missing"), (b"", "not a readable array")])
def test_missing_and_half_copied_files_are_named(
    slides: Written, what: str, content: bytes | None, message: str
) -> None:
    file = slides.file(what, "bag_1")
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(file))}: {message}"):
        slides.read("bag_1")


def test_an_empty_bag_is_named(made: Written) -> None:
    for what, values in made.bags["bag_1"].items():
        if what != "label":
            made.put(what, "bag_1", values[:0])
    with pytest.raises(UserError, match=r"bag bag_1: .*bag_1.npy holds no instance"):
        made.read("bag_1")


def test_an_unknown_bag_is_named_with_the_nearest(slides: Written) -> None:
    with pytest.raises(UserError, match=r"splits.csv: no bag bag_11 \(did you mean bag_1\?\)"):
        slides.read("bag_11")


def both(source: Written, message: str) -> None:
    with pytest.raises(UserError, match=message):
        source.read("bag_0")
    with pytest.raises(UserError, match=message):
        source.list()


def test_a_set_that_is_not_there_is_named(made: Written, tmp_path: Path) -> None:
    both(replace(made, root=tmp_path / "nowhere"), "nowhere: no such folder")
    (tmp_path / "splits.csv").unlink()
    both(made, "splits.csv: is missing")


def test_features_that_are_not_there_are_answered_by_those_that_are(made: Written, tmp_path: Path) -> None:
    message = rf"features_UNO: no such features \(features_{made.stored} there\)"
    with pytest.raises(UserError, match=message):
        ready_made.bags(made.dataset, tmp_path, "UNO")
    with pytest.raises(UserError, match=message):
        ready_made.read_bag(made.dataset, tmp_path, "UNO", "bag_0")
    if made.dataset != "rsna":
        with pytest.raises(UserError, match=r"patches_256: no such folder \(patches_512 there\).*patch_px"):
            ready_made.bags(made.dataset, tmp_path, made.stored, 256)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no columns bag_name and split"),
        ("bag_name,split\n", "no columns bag_name and split"),
        ("bag,split\nbag_0,train\n", "no columns bag_name and split"),
        ("bag_name,split\nbag_0,train\nbag_0,test\n", "splits.csv: bag_0 in two splits"),
        ("bag_name,split\nbag_0,tr\xe4in\n", "not a readable CSV"),
    ],
)
def test_mistakes_of_the_splits_are_named(slides: Written, text: str, message: str) -> None:
    (slides.root / "splits.csv").write_bytes(text.encode("latin-1"))
    both(slides, message)


def test_bags_without_features_are_left_out_and_told(
    slides: Written, caplog: pytest.LogCaptureFixture
) -> None:
    slides.file("features", "bag_2").unlink()
    assert [name for name, _, _ in slides.list()] == ["bag_0", "bag_1", "bag_3"]
    assert re.search(r"1 of 4 bags .*are left out: bag_2", caplog.text)
    for name in ("bag_0", "bag_1", "bag_3"):
        slides.file("features", name).unlink()
    with pytest.raises(UserError, match="features_UNI: holds no bag of"):
        slides.list()


def test_all_bad_labels_of_a_set_are_named_at_once(slides: Written) -> None:
    slides.put("label", "bag_0", np.array([3]))
    slides.file("label", "bag_2").unlink()
    with pytest.raises(UserError, match=r"bag_0.npy: holds \[3\].*bag_2.npy: is missing"):
        slides.list()


def test_the_slide_table_is_one_that_studies_read(
    made: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    features_table.main(arguments(made))
    table = tmp_path / "slides.tsv"
    table.write_text(capsys.readouterr().out)
    assert str(made.root) not in table.read_text()
    source = ready_made.SOURCES[made.dataset]
    monkeypatch.setenv(source.variable, str(made.root))
    columns = [column.name for column in inputs.SLIDE_COLUMNS]
    lines = inputs.read_tsv(str(table), columns[:4], columns[4:])
    assert [line["slide"] for line in lines] == list(made.bags)
    assert [line["animal"] for line in lines] == list(made.bags)
    assert [line["split"] for line in lines] == ["train", "train", "train", "test"]
    assert [line["group"] for line in lines] == [*source.groups, *source.groups]
    paths = [schema.expand_path(line["path"]) for line in lines]
    assert paths == [str(made.file("features", name)) for name in made.bags]


def test_names_that_no_slide_may_have_are_refused(slides: Written) -> None:
    slides.put("features", "a b", np.ones((1, WIDTH)))
    slides.put("label", "a b", np.array(0))
    with (slides.root / "splits.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["a b", "train"])
    with pytest.raises(UserError, match=r"splits.csv names bags 'a b'; use letters"):
        features_table.main(arguments(slides))


def test_the_command_ends_with_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = str(ROOT / "scripts/features_table.py")
    monkeypatch.setattr(sys, "argv", [script, "panda", str(tmp_path / "none"), "--features", "UNI"])
    # SystemExit with a text: Python prints it to stderr and exits with 1
    with pytest.raises(SystemExit, match=rf"^{re.escape(str(tmp_path))}/none: no such folder[^\n]+$"):
        runpy.run_path(script, run_name="__main__")


def test_the_rule_names_every_bag_that_fails_and_makes_the_others(
    made: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.put("features", "bag_2", made.bags["bag_2"]["features"][:0])
    study = tmp_path / "results"
    given: dict[str, Any] = {
        "features": {
            "dataset": made.dataset,
            "root": str(made.root),
            "features": made.stored,
            "patch_px": 512,
        },
        "encoder_json": ENCODER,
        "encoder": "uni",
        "slides": ["bag_0", "bag_2", "bag_3"],
    }
    work: dict[str, Any] = {}
    monkeypatch.setattr(
        "myostage.runtime.jobs.run", lambda job, function: work.update(job=job, function=function)
    )
    text = (ROOT / "scripts/features.py").read_text()
    job = SimpleNamespace(
        rule="features",
        params=_Params(given | {"code": "x"}),
        log=[str(study / "logs/features/b1.log")],
        output=[str(study / "made/features/b1.json")],
    )
    exec(compile(text, "features.py", "exec"), {"snakemake": job})
    with pytest.raises(UserError, match=r"bag_2: .*differ in .*2 of 3 are done"):
        work["function"](job)
    for name in ("bag_0", "bag_3"):
        folder = study / "slides" / name
        stored = tokens.TokenStore(folder / "tokens/uni.parquet").read().numpy()[:, 0]
        assert (stored == made.bags[name]["features"].astype(np.float16)).all()
        assert len(tables.read(folder / "labels.parquet", LABELS)) == len(stored)
        assert len(tables.read(folder / "positions.parquet", POSITIONS)) == len(stored)
    assert not (study / "slides/bag_2/labels.parquet").exists()


class _Params(dict[str, Any]):
    """Params of a job, as Snakemake gives them: by key and by attribute."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


@pytest.mark.parametrize("dataset", list(STORED))
def test_study_files_run_on_their_sets(
    tmp_path: Path,
    dataset: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = ready_made.SOURCES[dataset]
    features_table.main(arguments(generate(tmp_path, dataset, bags=10)))
    (tmp_path / "slides.tsv").write_text(capsys.readouterr().out)
    monkeypatch.setenv(source.variable, str(tmp_path))
    text = (ROOT / f"config/{dataset}.yaml").read_text()
    given = yaml.safe_load(text)
    # the steps at the head of the file write the table that the study reads
    assert f"> {given['slides']}\n" in text.split("study:")[0]
    study = load_study(given | {"slides": str(tmp_path / "slides.tsv")})
    assert study.features is not None and study.features.features == STORED[dataset]
    assert study.stages == source.groups
    labels = expand(study)
    assert set(labels) == {experiment.name for experiment in study.experiments} | {control_of("srmil")}
    assert len(runs(study)) == len(labels) * study.folds * len(study.seeds)
    models = {experiment.mil["model"] for experiment in study.experiments}
    assert {"abmil", "smap", "smtap", "srmil", "dsmil", "clam", "transmil", "transformer_abmil"} == models

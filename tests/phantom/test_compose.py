"""Composed studies: exact proportions, no crop and no subject twice, and errors that say what to lower."""

import re
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import compose_bags
import slide_proportions
from myostage.cells.crops import crop_images
from myostage.errors import UserError
from myostage.learning.folds import assign_folds
from myostage.phantom import compose
from myostage.study.inputs import (
    crop_slides,
    read_crops,
    read_proportions,
    read_slide_proportions,
    read_slides,
)
from myostage.study.load import load_study
from myostage.study.sections.study import Study
from support.slide_files import real

ROOT = Path(__file__).parents[2]
STAGES = ["low", "middle", "high"]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Study files name paths from the repository."""
    monkeypatch.chdir(ROOT)


def table(folder: Path, per_stage: int = 200, subjects: int = 0, extra: str = "") -> Path:
    """A table of labelled crops, whose images are there but empty of meaning."""
    image = folder / "images"
    image.mkdir()
    rows = ["path\tlabel" + ("\tsubject" if subjects else "")]
    for number in range(per_stage * len(STAGES)):
        path = image / f"{number}.png"
        path.write_bytes(f"PNG {number}".encode())
        # a subject holds cells of all stages
        subject = f"\tp{number // len(STAGES) % subjects}" if subjects else ""
        rows.append(f"{path}\t{STAGES[number % len(STAGES)]}{subject}")
    file = folder / "labelled.tsv"
    file.write_text("\n".join(rows) + "\n" + extra)
    return file


def composed(folder: Path, source: Path, **options: Any) -> Study:
    defaults = {"stages": "low,middle,high", "groups": 4, "animals": 3, "cells": 30, "seed": 0}
    defaults |= {"draw": "drift", "proportions": None, "leave_out": None}
    defaults |= {"table": str(source), "out": folder / "mine"}
    compose_bags.main(Namespace(**(defaults | options)))
    return load_study(folder / "mine" / "study.yaml")


def counted(study: Study) -> tuple[dict[str, Counter[int]], dict[str, Counter[int]]]:
    """Crops of each stage by group and by slide, from the crop table."""
    groups: dict[str, Counter[int]] = {}
    slides: dict[str, Counter[int]] = {}
    for slide, rows in crop_slides(study).items():
        for row in rows:
            assert row.label is not None
            groups.setdefault(row.group, Counter())[row.label] += 1
            slides.setdefault(slide, Counter())[row.label] += 1
    return groups, slides


def test_proportions_are_those_of_the_crops(tmp_path: Path) -> None:
    study = composed(tmp_path, table(tmp_path))
    groups, slides = counted(study)
    assert list(groups) == ["g1", "g2", "g3", "g4"] and len(slides) == 12
    for given, found in (
        (read_proportions(study), groups),
        (read_slide_proportions(study), slides),
    ):
        assert set(given) == set(found)
        for name, share in given.items():
            exact = np.array([found[name][k] for k in range(3)]) / sum(found[name].values())
            assert np.abs(share - exact).max() < 1e-9
    assert all(sum(count.values()) == 30 for count in slides.values())
    assert study.slide_proportions is not None


def test_no_crop_stands_twice_and_labels_stay(tmp_path: Path) -> None:
    source = table(tmp_path)
    label = dict(line.split("\t") for line in source.read_text().splitlines()[1:])
    rows = read_crops(composed(tmp_path, source))
    assert len({row.path for row in rows}) == len(rows) == 360
    assert all(STAGES[row.label or 0] == label[row.path] for row in rows)
    # an animal belongs to one group, so that folds keep groups apart
    assert len({(row.group, row.animal) for row in rows}) == len({row.animal for row in rows}) == 12


def test_groups_drift_from_the_first_stage_to_the_last(tmp_path: Path) -> None:
    study = composed(tmp_path, table(tmp_path), cells=40)
    means = [share @ np.arange(3) for share in read_proportions(study).values()]
    assert (np.diff(means) > 0).all() and means[0] < 0.6 and means[-1] > 1.4
    drawn = compose.drift(5, 6)
    assert np.allclose(drawn.sum(1), 1) and (drawn.argmax(1)[[0, -1]] == [0, 5]).all()
    assert np.allclose(drawn, drawn[::-1, ::-1])


def test_a_seed_draws_the_same_study_and_another_another(tmp_path: Path) -> None:
    source = table(tmp_path)
    texts = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        composed(folder, source, seed=seed, draw="dirichlet", cells=10)
        texts.append((folder / "mine" / "crops.tsv").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_given_proportions_are_exact_whatever_the_seed(tmp_path: Path) -> None:
    given = tmp_path / "given.tsv"
    given.write_text("group\tlow\tmiddle\thigh\nearly\t3\t1\t0\nlate\t0\t1\t2\n")
    source = table(tmp_path)
    options = {"groups": None, "proportions": str(given), "cells": 80, "animals": 2}
    for seed in range(3):
        study = composed(tmp_path, source, seed=seed, **options)
        groups, slides = counted(study)
        assert list(groups) == ["early", "late"] and study.folds == 2
        assert groups["early"] == {0: 120, 1: 40}
        assert groups["late"] == {1: 53, 2: 107}  # 53.33 and 106.67: the larger remainder gets the cell
        assert len(set(map(str, slides.values()))) > 2, "animals of a group differ"
    with pytest.raises(UserError, match="--groups out"):
        composed(tmp_path, source, proportions=str(given))
    # of 200 crops of a stage 133 a animal fit exactly: not one more, and proportions are never fitted
    with pytest.raises(
        UserError, match=r"stage low has 200 crops .* 201 are asked for; --cells 133 would do"
    ):
        composed(tmp_path, source, **options | {"cells": 134})
    assert sum(counted(composed(tmp_path, source, **options | {"cells": None}))[0]["early"].values()) == 266


def test_counts_are_apportioned_by_largest_remainder() -> None:
    shares = np.array([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3], [0.7, 0.3, 0.0]])
    assert compose.apportion(shares, 10).tolist() == [[5, 3, 2], [4, 3, 3], [7, 3, 0]]
    drawn = np.random.default_rng(0).dirichlet(np.ones(6), 50)
    for cells in (7, 100, 1000):
        counts = compose.apportion(drawn, cells)
        assert (counts.sum(1) == cells).all() and np.abs(counts - cells * drawn).max() < 1


def test_fitted_proportions_are_the_nearest_that_the_pool_has() -> None:
    drawn, have = compose.drift(4, 3), np.array([40, 200, 200])
    assert np.allclose(compose.fit_shares(drawn, have, 20), drawn), "enough of all: nothing is fitted"
    fitted = compose.fit_shares(drawn, have, 90)
    asked = 90 * fitted.sum(0)
    assert (asked <= have + 0.5).all() and asked[0] > 39 and np.allclose(fitted.sum(1), 1)
    # nothing else that fits is nearer: odds of stages that are not scarce stay
    assert np.allclose(fitted[:, 1] / fitted[:, 2], drawn[:, 1] / drawn[:, 2])

    def divergence(shares: compose.Shares) -> float:
        return float((shares * np.log(shares / drawn)).sum())

    rng = np.random.default_rng(0)
    for _ in range(200):
        other = fitted + 0.02 * rng.normal(size=fitted.shape)
        other = np.clip(other, 1e-9, None)
        other /= other.sum(1, keepdims=True)
        if (90 * other.sum(0) <= asked).all():
            assert divergence(other) >= divergence(fitted)
    with pytest.raises(UserError, match="too few crops"):
        compose.fit_shares(drawn, have, 120)


@pytest.mark.parametrize("subjects", [0, 150])
def test_a_scarce_stage_does_not_halve_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], subjects: int
) -> None:
    """Six stages as unequal as real ones, most of them with few cells of a subject."""
    stages = [f"s{k}" for k in range(6)]
    have = dict(zip(stages, (74, 70, 182, 146, 197, 150), strict=True))
    rng = np.random.default_rng(0)
    rows = ["path\tlabel" + ("\tsubject" if subjects else "")]
    for stage, count in have.items():
        for number in range(count):
            path = tmp_path / f"{stage}_{number}.png"
            path.write_bytes(f"PNG {stage} {number}".encode())
            own = int(stages.index(stage) * subjects / 6 + rng.integers(max(subjects // 4, 1))) % max(
                subjects, 1
            )
            rows.append(f"{path}\t{stage}" + (f"\tp{own}" if subjects else ""))
    source = tmp_path / "labelled.tsv"
    source.write_text("\n".join(rows) + "\n")
    study = composed(tmp_path, source, stages=",".join(stages), groups=5, animals=5, cells=None)
    groups, slides = counted(study)
    assert sum(sum(count.values()) for count in groups.values()) >= 0.9 * 819
    assert len({sum(count.values()) for count in slides.values()}) == 1
    means = [share @ np.arange(6) for share in read_proportions(study).values()]
    assert (np.diff(means) > 0).all() and means[-1] - means[0] > 3
    said = capsys.readouterr().out
    assert "of 819 labelled crops" in said and "fitted to the crops that there are" in said
    assert re.search(r"g2: .*s1 0\.48 to 0\.\d\d", said)
    if subjects:
        splits = assign_folds(
            pd.DataFrame(
                [(name, name.split("_")[0], name.split("_")[1], 1) for name in slides],
                columns=["slide", "group", "animal", "cells"],
            ),
            study.folds,
        )
        fold = dict(zip(slides, splits, strict=True))
        subject = {line.split("\t")[0]: line.split("\t")[2] for line in source.read_text().splitlines()[1:]}
        folds: dict[str, set[int]] = {}
        for row in read_crops(study):
            folds.setdefault(subject[row.path], set()).add(fold[f"{row.group}_{row.animal}"])
        assert all(len(found) == 1 for found in folds.values()), "a subject in two folds"


@pytest.mark.real
def test_real_smear_cells_are_composed_as_the_page_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of 200 and 224 px; frames are subjects; one class is outside the order."""
    source = real("pap-cells/labels.tsv")
    page = (ROOT / "docs/crops.md").read_text()
    order = re.search(r"--stages \\\n +([\w,]+)", page)[1]  # type: ignore[index]
    study = composed(tmp_path, source, stages=order, leave_out="columnar", groups=None, animals=5, cells=None)
    stated = re.search(r"(\d+) animals of (\d+) cells: (\d+) of the (\d+) cells", page)
    assert stated is not None
    animals, cells, used, pool = map(int, stated.groups())
    rows = read_crops(study)
    assert len(rows) == used == animals * cells and f"{used} of {pool} labelled" in capsys.readouterr().out
    sizes = {Image.open(row.path).size for row in rows[::20]}
    assert sizes == {(200, 200), (224, 224)} and crop_images(rows[::20], tmp_path / "crops.parquet") == 40
    frames = {
        str(source.parent / path): frame
        for path, _, frame in (line.split("\t") for line in source.read_text().splitlines()[1:])
    }
    owners: dict[str, set[str]] = {}
    for row in rows:
        owners.setdefault(frames[row.path], set()).add(row.animal)
    assert all(len(found) == 1 for found in owners.values())
    assert (study.folds, list(study.seeds)) == (5, [0, 1, 2])
    assert study.prediction.priors == ("group", "transport")


def test_groups_keep_their_spread_where_one_stage_is_all_there_is(tmp_path: Path) -> None:
    """Of 600 crops that are all but of one stage, taking all would leave groups that do not differ."""
    source = table(tmp_path)
    rows = source.read_text().splitlines()
    few = [row for number, row in enumerate(rows) if not row.endswith("\tlow") or number < 60]
    few = [row for number, row in enumerate(few) if not row.endswith("\thigh") or number < 60]
    source.write_text("\n".join(few) + "\n")
    study = composed(tmp_path, source, cells=None)
    means = np.array([share @ np.arange(3) for share in read_proportions(study).values()])
    drawn = compose.drift(4, 3) @ np.arange(3)
    assert means.std() >= 0.74 * drawn.std()
    with pytest.raises(UserError, match="no crop of stage none; add some"):
        composed(tmp_path, source, stages="low,middle,high,none")


def test_a_subject_stays_in_one_animal(tmp_path: Path) -> None:
    source = table(tmp_path, subjects=40)
    subject = {line.split("\t")[0]: line.split("\t")[2] for line in source.read_text().splitlines()[1:]}
    study = composed(tmp_path, source, cells=20)
    rows = read_crops(study)
    assert len(rows) == 12 * 20
    owners: dict[str, set[str]] = {}
    for row in rows:
        owners.setdefault(subject[row.path], set()).add(row.animal)
    assert all(len(animals) == 1 for animals in owners.values())
    # crops of 15 of each of 3 stages per subject: no animal can do with one subject
    assert len(owners) > 12


def test_a_pool_too_small_says_what_would_do(tmp_path: Path) -> None:
    source = table(tmp_path, per_stage=50)
    with pytest.raises(
        UserError, match=r"too few crops for 4 groups of 90 cells; --cells (\d+) would do"
    ) as caught:
        composed(tmp_path, source)
    assert not (tmp_path / "mine").exists()
    fits = int(re.search(r"--cells (\d+)", str(caught.value))[1])  # type: ignore[index]
    assert fits == 12
    composed(tmp_path, source, cells=fits)


def test_too_few_subjects_are_named(tmp_path: Path) -> None:
    source = table(tmp_path, subjects=11)
    with pytest.raises(UserError, match=r"11 subjects for 12 animals, .*; lower --animals or --groups"):
        composed(tmp_path, source, cells=5)
    # a subject holds equal parts of all stages: proportions that are given cannot be had of it without waste
    given = tmp_path / "given.tsv"
    given.write_text("group\tlow\tmiddle\thigh\nearly\t1\t0\t0\nlate\t0\t0\t1\n")
    options = {"groups": None, "proportions": str(given), "animals": 2}
    with pytest.raises(
        UserError, match=r"group \w+ lacks \d+ of stage .*one subject.*; --cells \d+ would do"
    ):
        composed(tmp_path, source, cells=90, **options)
    study = composed(tmp_path, source, cells=None, **options)
    assert read_proportions(study)["early"].tolist() == [1, 0, 0]


def test_labels_outside_the_order_are_left_out_by_name(tmp_path: Path) -> None:
    source = table(tmp_path, extra="x.png\tother\ny.png\tother\nz.png\tother\n")
    with pytest.raises(
        UserError, match=r"'other' \(3 rows, the first is row 602\) is no stage .*--leave-out"
    ):
        composed(tmp_path, source)
    assert len(read_crops(composed(tmp_path, source, leave_out="other"))) == 360
    for wrong, message in (("low", "is a stage"), ("othr", "is no label here")):
        with pytest.raises(UserError, match=message):
            composed(tmp_path, source, leave_out=wrong)


def test_images_lie_where_their_table_lies(tmp_path: Path) -> None:
    source = table(tmp_path)
    source.write_text(source.read_text().replace(f"{tmp_path}/", ""))
    assert all(Path(row.path).is_file() for row in read_crops(composed(tmp_path, source)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\nlow\n", "no column path"),
        (
            "path\tlabel\na.png\tmidle\n",
            r"'midle' \(1 rows, the first is row 2\) is no stage .*did you mean middle",
        ),
        ("path\tlabel\na.png\tlow\na.png\thigh\n", "row 3, column path: a.png stands twice"),
        ("path\tlabel\n\tlow\n", "row 2, column path: is empty"),
        ("path\tlabel\tanimal\na.png\tlow\t\n", "row 2: names no animal"),
        ("path\tlabel\tanimal\tsubject\na.png\tlow\tm\tm\n", "mean the same"),
        ("path\tlable\na.png\tlow\n", "did you mean label"),
    ],
)
def test_mistakes_of_the_table_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.tsv"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        compose.read_pool(file, STAGES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": "low"}, "two stages or more"),
        ({"stages": "low,low"}, "each once"),
        ({"stages": "low,mid dle"}, "'mid dle'"),
        ({"cells": 0}, "--cells is 0"),
        ({"groups": 1, "animals": 1}, "cannot be cut into folds"),
        ({"out": Path("my study")}, "'my study'"),
    ],
)
def test_mistakes_of_the_command_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        composed(tmp_path, table(tmp_path), **options)
    assert not Path("my study").exists()


def test_crop_alone_is_the_image_and_beside_a_path_its_name(tmp_path: Path) -> None:
    file = tmp_path / "labelled.tsv"
    file.write_text("crop\tlabel\na.png\tlow\nb.png\thigh\n")
    pool = compose.read_pool(file, STAGES)
    assert pool.paths == ["a.png", "b.png"] and pool.names == ["c000001", "c000002"]
    file.write_text("crop\tpath\tlabel\none\ta.png\tlow\n")
    assert compose.read_pool(file, STAGES).names == ["one"]


def test_the_commands_of_the_page_work_word_for_word(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/crops.md").read_text(), re.DOTALL)
    listing, drawing, composing, running = blocks
    # in the order of a trial: draw, list, compose; a folder of its own stands for the repository
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/demo").symlink_to(ROOT / "config/demo")
    said = ""
    # images of users are of several formats, and links to where they are kept
    (tmp_path / "kept/old").mkdir(parents=True)
    Image.new("RGB", (224, 224), "red").save(tmp_path / "kept/old/large.JPG")
    Image.new("RGB", (200, 180), "blue").save(tmp_path / "kept/old/other.tif")
    (tmp_path / "kept/old/notes.txt").write_text("no image")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/more").symlink_to(tmp_path / "kept")
    for block in (drawing, listing, composing):
        block = block.replace(".venv/bin/python", sys.executable)
        said = subprocess.run(
            ["bash", "-ec", block], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout
    assert running.strip() in said
    assert len(list((tmp_path / "images").rglob("*.png"))) == 1000
    rows = (tmp_path / "labelled.tsv").read_text().splitlines()
    assert len(rows) == 1003 and {"images/more/old/large.JPG\told", "images/more/old/other.tif\told"} < set(
        rows
    )
    assert "5 groups of 5 animals with 40 cells each: 1000 of 1002 labelled crops" in said
    assert (tmp_path / "config/mine/study.yaml").exists()


def test_a_counted_slide_is_the_row_of_the_ablation() -> None:
    study = load_study("config/demo_ablation.yaml", files=False)
    given = read_slide_proportions(study)
    slides = {slide.slide: slide for slide in read_slides(study)}
    assert set(given) == set(slides)
    # drawn anew, wherever the demo's own slides are
    slide = slides["d5_a1"].model_copy(update={"annotations": "not/drawn.geojson"})
    counts = slide_proportions.counts(study, slide, read_proportions(study))
    assert np.abs(counts / counts.sum() - given["d5_a1"]).max() < 1e-9

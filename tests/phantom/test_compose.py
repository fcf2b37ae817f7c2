"""Composed studies: exact proportions, no crop and no subject twice, and errors that say what to lower."""

import re
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compose_bags
import slide_proportions
from myostage.errors import UserError
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
    defaults |= {"draw": "drift", "proportions": None, "table": str(source), "out": folder / "mine"}
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


def test_given_proportions_are_followed(tmp_path: Path) -> None:
    given = tmp_path / "given.tsv"
    given.write_text("group\tlow\tmiddle\thigh\nearly\t3\t1\t0\nlate\t0\t1\t3\n")
    study = composed(tmp_path, table(tmp_path), groups=None, proportions=str(given), cells=80, animals=2)
    shares = read_proportions(study)
    assert list(shares) == ["early", "late"] and study.folds == 2
    assert shares["early"][2] == 0 == shares["late"][0]
    # 160 cells: four standard errors
    assert abs(shares["early"][0] - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 160)
    with pytest.raises(UserError, match="--groups out"):
        composed(tmp_path, tmp_path / "labelled.tsv", proportions=str(given))


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


def test_a_pool_too_small_says_what_to_lower(tmp_path: Path) -> None:
    source = table(tmp_path, per_stage=50)
    with pytest.raises(
        UserError, match=r"stage middle has 50 crops .* (\d+) are asked for.*--cells to about"
    ) as caught:
        composed(tmp_path, source)
    assert not (tmp_path / "mine").exists()
    fits = int(re.search(r"about (\d+)", str(caught.value))[1])  # type: ignore[index]
    composed(tmp_path, source, cells=fits - 2)


def test_too_few_subjects_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"animal a\d+ of group g\d lacks .*one subject"):
        composed(tmp_path, table(tmp_path, subjects=11), cells=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\nlow\n", "no column path"),
        ("path\tlabel\na.png\tmidle\n", r"row 2, column label: 'midle' is no stage .*did you mean middle"),
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
    for block in (drawing, listing, composing):
        block = block.replace(".venv/bin/python", sys.executable)
        said = subprocess.run(
            ["bash", "-ec", block], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout
    assert running.strip() in said
    assert len(list((tmp_path / "images").rglob("*.png"))) == 1000
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

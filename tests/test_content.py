"""Of a file that the user gives its content counts, not its time."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myostage.runtime import checksums, provenance
from support import dry_run, slide_files, tiny

SNAKEFILE = tiny.ROOT / "Snakefile"
SLIDES = ("d0a", "d0b", "d5a", "d5b")
LARGE = checksums.SMALL_BYTES + 2**20


def replace(path: Path, start: int, length: int = 8) -> None:
    """Write other bytes at ``start``; the file keeps its size and its time, as after `cp -p`."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(start)
        other = bytes(byte ^ 0x2A for byte in file.read(length))
        file.seek(start)
        file.write(other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_size == before.st_size


def touch(folder: Path) -> None:
    """Give all files a new time."""
    for path in folder.rglob("*"):
        if path.is_file() and "results" not in path.parts and ".snakemake" not in path.parts:
            os.utime(path)


# --- what a checksum of a large file sees -------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "slide.tif"
    path.write_bytes(np.random.default_rng(0).bytes(LARGE))
    return path


@pytest.mark.parametrize(
    "start", [0, 8, checksums.SAMPLE_BYTES - 8, LARGE - checksums.SAMPLE_BYTES, LARGE - 8]
)
def test_head_and_tail_of_a_large_file_count(large: Path, start: int) -> None:
    before = checksums.given(large)
    replace(large, start)
    assert checksums.given(large) != before


def test_a_large_file_with_another_middle_is_another(
    large: Path,
) -> None:
    before = checksums.given(large)
    replace(large, LARGE // 3, LARGE // 3)
    assert checksums.given(large) != before


def test_every_byte_of_a_large_file_counts_where_asked(large: Path) -> None:
    between = next(
        start for start in range(LARGE) if not any(abs(start - block) <= 2**17 for block in blocks(LARGE))
    )
    sampled, whole = checksums.given(large), checksums.given(large, every_byte=True)
    replace(large, between)
    assert checksums.given(large) == sampled
    assert checksums.given(large, every_byte=True) != whole


def blocks(size: int) -> list[int]:
    last = checksums.SAMPLES - 1
    return [(size - checksums.SAMPLE_BYTES) * number // last for number in range(checksums.SAMPLES)]


def test_every_byte_of_a_small_file_counts_and_its_time_does_not(tmp_path: Path) -> None:
    path = tmp_path / "annotations.geojson"
    path.write_bytes(np.random.default_rng(0).bytes(2**21))
    before = checksums.given(path)
    os.utime(path, (1, 1))
    assert checksums.given(path) == before
    for start in range(0, 2**21, 2**17 + 3):
        replace(path, start)
        assert checksums.given(path) != before
        replace(path, start)


# --- which jobs run again -----------------------------------------------------------------------------------


def of_slides(folder: Path, **changes: Any) -> Path:
    """A study of slides, annotations, a Cellpose model and weights that are given; nothing is opened."""
    (folder / "phantom").mkdir()
    for number, name in enumerate(SLIDES):
        (folder / f"phantom/{name}.tif").write_bytes(np.random.default_rng(number).bytes(2**21))
        outlines = '{"type": "FeatureCollection", "features": [' + " " * (2**21 + number) + "]}"
        (folder / f"phantom/{name}.geojson").write_text(outlines)
    for name in ("cellpose.pt", "encoder.safetensors", "dino.safetensors"):
        (folder / name).write_bytes(name.encode() * 99)
    content = tiny.of_cells(
        {"name": "prop", "losses": {"prop": 1}},
        {
            "name": "dino",
            "losses": {"prop": 1},
            "training": {"unfreeze": "none"},
            "encoder": {"weights": str(folder / "dino.safetensors"), "dino": {"steps": 3}},
        },
    )
    content.pop("phantom")
    content["segmentation"] = {"model": str(folder / "cellpose.pt")}
    content["encoder"] |= {"weights": str(folder / "encoder.safetensors")}
    content["jobs"] = {"slides_per_job": 2, "runs_per_job": 4, "threads": 1}
    return tiny.lay_out(folder, content | changes)


def of_trained_segmentation(folder: Path) -> Path:
    study = of_slides(
        folder, segmentation={"train": {"images": "images.tsv", "start": str(folder / "cellpose.pt")}}
    )
    (folder / "images.tsv").write_text("image\tmasks\tmpp\nimage.png\tmasks.png\t1\n")
    for name in ("image.png", "masks.png"):
        (folder / name).write_bytes(name.encode() * 99)
    return study


def of_crops(folder: Path) -> Path:
    rows = ["crop\tpath\tgroup\tanimal\tlabel"]
    for slide in SLIDES:
        for number in range(3):
            (folder / f"{slide}{number}.png").write_bytes(f"{slide}{number}".encode() * 9)
            rows.append(f"{slide}{number}\t{slide}{number}.png\t{slide[:2]}\t{slide}\tintact")
    study = of_slides(folder)
    encoder = tiny.study()["encoder"] | {"weights": str(folder / "encoder.safetensors")}
    prop = {"name": "prop", "losses": {"prop": 1}}
    content = tiny.of_cells(prop, input="crops", crops="crops.tsv", encoder=encoder)
    for key in ("phantom", "slides", "segmentation", "tiling", "healthy", "slide_labels"):
        content.pop(key)
    (folder / "crops.tsv").write_text("\n".join(rows) + "\n")
    return tiny.write(study, content)


def contents(plan: dry_run.Plan) -> dict[str, Any]:
    """What each job of a plan knows of the files that the user gives: where this changes it runs again."""
    return {
        dry_run.name(job): job.params.content
        for job in plan.graph.jobs
        if job.output and "content" in job.params.keys()  # noqa: SIM118
    }


@pytest.mark.parametrize(
    ("lay_out", "file", "rules"),
    [
        (of_slides, "phantom/d5a.tif", {"check", "tile", "segment", "crop"}),
        (of_slides, "phantom/d5a.geojson", {"label"}),
        (of_slides, "cellpose.pt", {"segment"}),
        (of_slides, "encoder.safetensors", {"embed"}),
        (of_slides, "dino.safetensors", {"dino"}),
        (of_trained_segmentation, "image.png", {"segment_train"}),
        (of_trained_segmentation, "masks.png", {"segment_train"}),
        (of_trained_segmentation, "cellpose.pt", {"segment_train"}),
        (of_crops, "d5a1.png", {"collect"}),
        (of_crops, "encoder.safetensors", {"embed"}),
    ],
)
def test_a_file_that_was_replaced_and_keeps_its_time_runs_again_what_reads_it(
    lay_out: Callable[[Path], Path], file: str, rules: set[str], tmp_path: Path
) -> None:
    study = lay_out(tmp_path)
    plan = dry_run.plan(SNAKEFILE, tmp_path, study)
    before = contents(plan)
    given = {
        str(path)
        for job in plan.graph.jobs
        for path in job.input
        if "results" not in Path(path).parts and not path.endswith(".ipynb")
    }
    assert str(file) in given or str(tmp_path / file) in given
    touched = [
        path for job in plan.graph.jobs for path in job.input if str(path) in given and not path.is_ancient
    ]
    assert not touched, "their time counts"
    replace(tmp_path / file, (tmp_path / file).stat().st_size // 2)
    after = contents(dry_run.plan(SNAKEFILE, tmp_path, study))
    assert before.keys() == after.keys()
    changed = {job for job in before if before[job] != after[job]}
    assert {job.partition(":")[0].partition("_vit")[0] for job in changed} == rules
    # of the two jobs of two slides each, one reads the file
    assert file not in ("phantom/d5a.tif",) or len(changed) == 4


def test_a_slide_that_is_drawn_counts_by_what_it_is_drawn_from_until_it_is_replaced(tmp_path: Path) -> None:
    content = tiny.of_cells({"name": "prop", "losses": {"prop": 1}})
    study = tiny.lay_out(tmp_path, content)

    def planned() -> dict[str, Any]:
        return contents(dry_run.plan(SNAKEFILE, tmp_path, study))

    before = planned()
    slide = tmp_path / "phantom/d5a.tif"
    (tmp_path / "phantom/made").mkdir(parents=True)
    slide.write_bytes(np.random.default_rng(0).bytes(LARGE))
    said = provenance.statement({}, [str(slide)])
    (tmp_path / "phantom/made/phantom_slides1.json").write_text(provenance.to_json(said))
    assert planned() == before
    os.utime(slide)
    assert planned() == before
    replace(slide, 0)
    readers = {"check", "tile:slides1", "segment:slides1", "crop:slides1"}
    after = planned()
    assert {job for job in before if before[job] != after[job]} == readers
    replace(slide, 0)
    tiny.write(study, content | {"phantom": content["phantom"] | {"seed": 8}})
    after = planned()
    assert {job for job in before if before[job] != after[job]} == {*readers, "label"}


@pytest.mark.workflow
def test_a_touched_slide_runs_nothing_and_a_replaced_one_runs_its_check_again(tmp_path: Path) -> None:
    study = of_slides(tmp_path)
    pixels = np.random.default_rng(0).integers(100, 255, (2000, 1600, 3), dtype=np.uint8)
    for number, name in enumerate(SLIDES):
        slide_files.write_pyramid(tmp_path / f"phantom/{name}.tif", np.roll(pixels, number, axis=0), 1.0)
    assert (tmp_path / "phantom/d5b.tif").stat().st_size > 2**20
    target = "results/tiny/checked.parquet"

    def planned() -> set[str]:
        return dry_run.plan(SNAKEFILE, tmp_path, study, target).jobs

    made = tiny.run(tmp_path, target)
    assert made.returncode == 0, made.stderr[-4000:]
    assert planned() == set()
    touch(tmp_path)
    assert planned() == set()
    size = (tmp_path / "phantom/d5b.tif").stat().st_size
    for start in (0, size // 2, size - 8):
        replace(tmp_path / "phantom/d5b.tif", start)
        assert planned() == {"check"}
        replace(tmp_path / "phantom/d5b.tif", start)
        assert planned() == set()


@pytest.mark.workflow
def test_slides_that_are_drawn_anew_are_checked_in_the_same_run(tmp_path: Path) -> None:
    content = tiny.of_cells({"name": "prop", "losses": {"prop": 1}})
    study = tiny.lay_out(tmp_path, content)
    target = "results/tiny/checked.parquet"
    made = tiny.run(tmp_path, target)
    assert made.returncode == 0, made.stderr[-4000:]
    assert dry_run.plan(SNAKEFILE, tmp_path, study, target).jobs == set()
    tiny.write(study, content | {"phantom": content["phantom"] | {"seed": 8}})
    again = dry_run.plan(SNAKEFILE, tmp_path, study, target).jobs
    assert "check" in again and any(job.startswith("phantom") for job in again)

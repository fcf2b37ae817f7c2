"""A disk that is full whatever is written: one sentence, no half-written file, no traceback beside it."""

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from safetensors.torch import save_file

from myostage import tables
from myostage.features import tokens
from myostage.features.held import Held
from myostage.figures import style
from myostage.report import drawing, pages
from myostage.runtime import jobs
from myostage.runtime.checkpoints import Checkpoints
from myostage.slides import pixels
from support import disks, logs, tiny

MANY = 200_000
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 255, (400, 400, 3)).astype(np.uint8)
TABLE = tables.Table("trial", "numbers", (tables.Column("n", tables.FLOAT64, "", "a number"),))


def write_table(folder: Path) -> None:
    tables.write(folder / "table.parquet", pd.DataFrame({"n": RNG.random(MANY)}), TABLE)


def write_tokens(folder: Path) -> None:
    with tokens.writer(folder / "tokens.parquet", tokens=5, width=100) as out:
        for start in range(0, 2000, 100):
            out.write(np.arange(start, start + 100, dtype=np.int32), torch.rand(100, 5, 100).half())


def save_checkpoint(folder: Path) -> None:
    Checkpoints(folder, "of a run").save(0, 1, {"a": torch.rand(MANY), "b": torch.rand(MANY)})


def save_model(folder: Path) -> None:
    with tables.atomic(folder / "model.safetensors") as temporary:
        save_file({"a": torch.rand(MANY)}, temporary)


def hold_embeddings(folder: Path) -> None:
    Held(0).hold(iter([torch.rand(MANY // 2, 1), torch.rand(MANY // 2, 1)]), MANY, folder)


def save_picture(folder: Path) -> None:
    pixels.save_png(NOISE, folder / "picture.png")


def save_figure(folder: Path) -> None:
    figure, axes = plt.subplots(figsize=(12, 12))
    axes.imshow(NOISE)
    try:
        style.save(figure, folder / "figure")
    finally:
        plt.close(figure)


def write_numbers(folder: Path) -> None:
    drawing._write_csv(folder / "figure.csv", pd.DataFrame({"n": RNG.random(MANY)}))


def write_page(folder: Path) -> None:
    pages.write_page(folder / "page.html", "a page", [], ["a sentence " * MANY])


def write_slide(folder: Path) -> None:
    with tables.atomic(folder / "slide.tif") as temporary, tifffile.TiffWriter(temporary) as file:
        file.write(NOISE)


def write_receipt(folder: Path) -> None:
    jobs.write_json(folder / "receipt.json", {"outputs": {str(number): 0 for number in range(MANY)}})


WRITERS: list[Callable[[Path], None]] = [
    write_table, write_tokens, save_checkpoint, save_model, hold_embeddings, save_picture, save_figure,
    write_numbers, write_page, write_slide, write_receipt,
]  # fmt: skip


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk with 100 kB to spare."""
    with disks.small(tmp_path_factory.mktemp("full") / "disk", "400k") as folder:
        disks.fill(folder, 100_000)
        yield folder


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The library's log, as it was, afterwards."""
    with logs.kept() as found:
        yield found


def job(log: Path, output: Path) -> Any:
    return SimpleNamespace(
        rule="train",
        input=[],
        output=[str(output)],
        log=[str(log)],
        resources={},
        params=SimpleNamespace(items=dict),
    )


@pytest.mark.usefixtures("logger")
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_full_disk_is_one_sentence_whatever_is_written(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], None]
) -> None:
    with pytest.raises(SystemExit) as caught:
        jobs.run(job(tmp_path / "train.log", disk / "output"), lambda _: write(disk))
    assert caught.value.code == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("train: the disk of ") and " is full: free space there" in said
    assert [path.name for path in disk.iterdir()] == ["ballast"]


@pytest.mark.usefixtures("logger")
def test_a_log_that_does_not_fit_adds_no_traceback(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = disk / "logs/train/a.log"

    def work(snakemake: Any) -> None:
        for number in range(50):
            jobs.log.debug("%d %s", number, "x" * 5000)
        write_table(disk)

    with pytest.raises(SystemExit):
        jobs.run(job(log, disk / "output"), work)
    logging.shutdown()
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"train: the disk of {log.parent} is full: ")
    log.unlink()


@pytest.mark.workflow
def test_a_workflow_does_not_start_on_a_full_disk(tmp_path: Path) -> None:
    with disks.small(tmp_path / "disk", "1m") as folder:
        tiny.lay_out(folder, tiny.study())
        disks.fill(folder, 0)
        result = tiny.run(folder)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "the disk of results/tiny is full: free space there" in result.stderr


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("in a notebook: OSError: [Errno 28] No space left on device: 'a.png'"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    ],
)
def test_a_full_disk_is_known_by_its_words_too(error: Exception, tmp_path: Path) -> None:
    assert jobs._of_disk(error, tmp_path)


def test_an_error_that_follows_a_full_disk_is_one_of_the_disk(tmp_path: Path) -> None:
    error = ValueError("closed too early")
    error.__context__ = OSError(errno.ENOSPC, "full")
    assert jobs._of_disk(error, tmp_path)
    error.__context__ = OSError(errno.EACCES, "denied")
    assert jobs._of_disk(error, tmp_path) is None


def test_other_errors_stay_as_they_are_on_a_disk_with_room(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="folds overlap"), tables.atomic(tmp_path / "a") as temporary:
        temporary.write_text(json.dumps({}))
        raise RuntimeError("folds overlap")
    assert jobs._of_disk(RuntimeError("folds overlap"), tmp_path) is None and list(tmp_path.iterdir()) == []

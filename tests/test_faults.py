"""A study that is killed at any stage, at any moment, goes on and ends with the same numbers."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from support import tiny

pytestmark = pytest.mark.workflow

# every rule that runs in this study, by the folder of its logs, in the order of the data
STAGES = (
    "phantom", "check", "tile", "segment", "crop", "label", "split", "embed", "tokens", "precheck",
    "baselines", "train", "evaluate", "stage", "export", "look", "summary",
)  # fmt: skip
# the longest of them, which CI kills
LONGEST = ("segment", "train", "look")
SECONDS = 600
# how long a run took, and when, is no number of the study
CLOCKS = {"runs.parquet", "outcome.parquet"}


def content() -> dict[str, Any]:
    """Two experiments that learn and two that do not. No slide is left out because its job was killed."""
    named = {"name": "combined", "losses": {"simprop": 1, "prop": 1}}, {"name": "prop", "losses": {"prop": 1}}
    majorities = ({"name": name, "method": name} for name in ("majority", "group_majority"))
    training = tiny.study()["training"] | {"steps": 40, "checkpoint_every": 4}
    return tiny.of_cells(*named, *majorities, training=training, on_bad_slide="skip")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    tiny.lay_out(folder, content())
    finish(folder)
    return folder


def finish(folder: Path) -> None:
    result = tiny.run(folder)
    assert result.returncode == 0, result.stderr[-6000:]


def kill_at(folder: Path, stage: str, seconds: float) -> None:
    """Kill the workflow and all of its jobs so long after a job of the stage has begun."""
    started = time.time_ns()
    process = subprocess.Popen(
        tiny.command(folder),
        cwd=tiny.ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not any(
            log.stat().st_mtime_ns > started for log in folder.glob(f"results/tiny/logs/{stage}/*.log")
        ):
            assert process.poll() is None, f"the workflow ended before {stage}"
            assert time.time_ns() - started < SECONDS * 1e9, f"{stage} did not begin"
            time.sleep(0.02)
        time.sleep(seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def go_on(folder: Path, stages: Sequence[str], seed: int) -> None:
    """Kill the study once at each stage, at random moments, and let it end."""
    moments = random.Random(seed)
    for stage in stages:
        kill_at(folder, stage, moments.uniform(0, 4))
    finish(folder)


def assert_equal(folder: Path, other: Path) -> None:
    """Every table of both is there and holds the same, bit for bit; so do the numbers behind the figures."""
    files = [
        {
            str(path.relative_to(root / "results/tiny"))
            for path in itertools.chain(*map(root.rglob, ("*.parquet", "*.csv")))
        }
        for root in (folder, other)
    ]
    assert files[0] == files[1] and len(files[0]) > 40
    for file in sorted(files[0]):
        one, two = (root / "results/tiny" / file for root in (folder, other))
        if file.endswith(".csv"):
            assert one.read_bytes() == two.read_bytes(), file
        elif one.name not in CLOCKS:
            pd.testing.assert_frame_equal(
                pd.read_parquet(one), pd.read_parquet(two), check_exact=True, obj=file
            )


def test_a_study_killed_at_its_longest_stages_ends_with_the_same_numbers(
    undisturbed: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    shutil.copytree(undisturbed, killed)
    # what is deleted is made again, and what depends on it
    for cells in killed.glob("results/tiny/slides/*/cells.parquet"):
        cells.unlink()
    shutil.rmtree(killed / "results/tiny/runs")
    go_on(killed, LONGEST, seed=0)
    assert_equal(killed, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2])
def test_a_study_killed_at_every_stage_ends_with_the_same_numbers(
    undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    tiny.lay_out(tmp_path, content())
    go_on(tmp_path, STAGES, seed)
    assert_equal(tmp_path, undisturbed)

"""A study that is killed at any stage, at any moment, goes on and ends with the same numbers."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from support import tiny

pytestmark = pytest.mark.workflow

# every rule that runs in this study, by the folder of its logs
STAGES = {
    "phantom", "check", "tile", "segment", "crop", "label", "split", "embed", "tokens", "precheck",
    "baselines", "train", "evaluate", "geometry", "gradients", "stage", "export", "look", "summary",
}  # fmt: skip
# what takes longest of what makes numbers
LONGEST = {"segment", "train", "evaluate"}
NUMBERS = ("tables", "stages")
# how long a run took, and when, is no number of the study
CLOCKS = {"runs.parquet", "outcome.parquet", "cost.csv"}


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
    finish(folder, *NUMBERS)
    return folder


def finish(folder: Path, *targets: str) -> None:
    result = tiny.run(folder, *targets)
    assert result.returncode == 0, result.stderr[-6000:]


def kill(folder: Path, stages: set[str], seconds: float, *targets: str) -> set[str]:
    """Kill the workflow with all its jobs, so long after a job of one of the stages has begun.

    Returns the stages of which jobs had begun; none where the workflow ended first.
    """
    started = time.time_ns()

    def begun() -> set[str]:
        logs = folder.glob("results/tiny/logs/*/*.log")
        return stages & {log.parent.name for log in logs if log.stat().st_mtime_ns > started}

    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            tiny.command(folder, *targets), cwd=tiny.ROOT, start_new_session=True, stdout=said, stderr=said
        )
        while process.poll() is None and not begun():
            time.sleep(0.02)
        if process.returncode is None:
            time.sleep(seconds)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return begun()
    assert process.returncode == 0, (folder / "said.txt").read_text()[-6000:]
    return set()


def go_on(folder: Path, stages: set[str], seed: int, *targets: str) -> None:
    """Kill the study at each stage, at random moments, until nothing is left to do."""
    moments = random.Random(seed)
    left = set(stages)
    while begun := kill(folder, left, moments.uniform(0, 2), *targets):
        left -= begun
    assert not left


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
        if one.name in CLOCKS:
            continue
        if file.endswith(".csv"):
            assert one.read_bytes() == two.read_bytes(), file
        else:
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
    go_on(killed, LONGEST, 0, *NUMBERS)
    assert_equal(killed, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2])
def test_a_study_killed_at_every_stage_ends_with_the_same_numbers(
    undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    finish(undisturbed)
    tiny.lay_out(tmp_path, content())
    go_on(tmp_path, STAGES, seed)
    assert_equal(tmp_path, undisturbed)

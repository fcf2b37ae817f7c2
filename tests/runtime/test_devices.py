"""Every job takes a GPU of its own, and gives it back however it ends."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from myostage.runtime import devices

SCRIPTS = Path(__file__).parents[2] / "scripts"
# Prints the GPU it holds and keeps it until its input ends.
JOB = """
import logging, pathlib, sys
from myostage.runtime import devices
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
devices.LOCKS = pathlib.Path(sys.argv[1])
devices.POLL_SECONDS = 0.05
with devices.own_gpu(1) as own:
    sys.stdin.read()
"""


class Jobs(AbstractContextManager["Jobs"]):
    """Processes that hold a GPU each."""

    def __init__(self, locks: Path) -> None:
        self.locks = locks
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, visible: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), devices.VISIBLE: visible}
        environment["PYTHONUNBUFFERED"] = "1"
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, str(self.locks)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


def line(process: subprocess.Popen[str]) -> str:
    """The next line of a job's log."""
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No SLURM, no device of this machine, and a folder of its own for the locks."""
    for name in ("SLURM_JOB_ID", devices.VISIBLE):
        monkeypatch.delenv(name, raising=False)
    for name in ("locks", "dev"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(devices, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path / "dev")
    monkeypatch.setattr(devices, "POLL_SECONDS", 0.05)
    return tmp_path / "locks"


@pytest.fixture
def jobs(locks: Path) -> Iterator[Jobs]:
    with Jobs(locks) as running:
        yield running


def test_nothing_happens_without_a_gpu(locks: Path) -> None:
    with devices.own_gpu(1) as own:
        assert own is None and devices.VISIBLE not in os.environ
    assert not list(locks.iterdir())


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_are_none(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VISIBLE, visible)
    with devices.own_gpu(1) as own:
        assert own is None and os.environ[devices.VISIBLE] == visible


def test_a_job_that_wants_none_takes_none(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VISIBLE, "0,1")
    with devices.own_gpu(0) as own:
        assert own is None and os.environ[devices.VISIBLE] == "0,1"
    assert not list(locks.iterdir())


def test_devices_are_counted_from_their_files(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (tmp_path / "dev" / name).touch()
    with devices.own_gpu(1) as own:
        assert own == "0"
    with devices.own_gpu(5) as own:
        assert own == os.environ[devices.VISIBLE] == "0,1"
    assert devices.VISIBLE not in os.environ


def test_visible_devices_come_back_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VISIBLE, "GPU-8f3a/x, 5")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), devices.own_gpu(1) as own:
            assert own == os.environ[devices.VISIBLE] == "GPU-8f3a/x"
            raise ZeroDivisionError
        assert os.environ[devices.VISIBLE] == "GPU-8f3a/x, 5"


def test_several_gpus_are_taken_together(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert line(jobs.start("a,b,c")) == "on GPU a"
    monkeypatch.setenv(devices.VISIBLE, "a,b,c")
    with devices.own_gpu(2) as own:
        assert own == "b,c"
    assert devices._try_all(["a", "b", "c"], 3) == {}
    with devices.own_gpu(2) as own:  # nothing is kept by the attempt that found too few
        assert own == "b,c"


def test_slurm_has_assigned_the_gpu(locks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "dev/nvidia0").touch()
    with devices.own_gpu(1) as own:
        assert own is None
    monkeypatch.setenv(devices.VISIBLE, "0")
    with devices.own_gpu(1) as own:
        assert own is None
    assert not list(locks.iterdir())


def test_jobs_in_one_allocation_share_out_its_gpus(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert line(jobs.start("0,1")) == "on GPU 0"
    assert line(jobs.start("0,1")) == "on GPU 1"
    monkeypatch.setenv("SLURM_JOB_ID", "8")  # whose first GPU is called 0 as well
    assert line(jobs.start("0,1")) == "on GPU 0"


def test_two_jobs_get_different_gpus_and_a_third_waits(jobs: Jobs) -> None:
    first, second = jobs.start("a,b"), jobs.start("a,b")
    assert {line(first), line(second)} == {"on GPU a", "on GPU b"}
    third = jobs.start("b,a")
    assert line(third) == "waiting for a GPU: other jobs are on b, a"
    assert first.stdin
    first.stdin.close()
    assert line(third).startswith("on GPU ")  # and not a second line on waiting


def test_a_killed_job_frees_its_gpu(jobs: Jobs) -> None:
    first = jobs.start("a")
    assert line(first) == "on GPU a"
    second = jobs.start("a")
    assert line(second).startswith("waiting")
    first.kill()
    assert line(second) == "on GPU a"


def test_no_lock_through_a_link(
    locks: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(devices.VISIBLE, "a")
    (locks / "myostage-gpu-a.lock").symlink_to(locks / "elsewhere")
    with caplog.at_level(logging.WARNING, "myostage"), devices.own_gpu(1) as own:
        assert own is None
    assert not (locks / "elsewhere").exists()
    assert f"no locks on GPUs can be kept in {locks}" in caplog.text


def test_locks_are_for_all_users(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VISIBLE, "a")
    mask = os.umask(0o077)
    try:
        with devices.own_gpu(1):
            assert (locks / "myostage-gpu-a.lock").stat().st_mode & 0o777 == 0o644
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(mask)

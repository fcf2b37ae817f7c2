"""The preflight on a real SLURM: its GPUs are pretended, and that is all it may find."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import one_node
from support.one_node import Cluster

ROOT = Path(__file__).parent.parent.parent
SITE = "partition: cpu\ngpu_partition: gpu\nmax_mem_mb: 8000\n"

pytestmark = pytest.mark.slurm


@pytest.fixture
def environment(slurm: Cluster, tmp_path: Path) -> dict[str, str]:
    """A site of its own, and a cluster on which nothing runs."""
    slurm.clear()
    site = tmp_path / "site.yaml"
    site.write_text(SITE)
    return {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "MYOSTAGE_SITE": str(site)}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def start(environment: dict[str, str], results: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "scripts/cluster_check.py", "--results", str(results), *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def nothing_left(slurm: Cluster, results: Path) -> bool:
    return not slurm.run("squeue", "--noheader") and list(results.iterdir()) == []


def test_everything_works_but_the_pretended_gpu(
    slurm: Cluster, environment: dict[str, str], results: Path
) -> None:
    with start(environment, results, "--timeout", "120") as check:
        said, error = check.communicate(timeout=180)
    assert error == ""
    assert check.returncode == 1
    lines = [line for line in said.splitlines() if line.startswith(("ok ", "warning ", "FAILED "))]
    (failed,) = [line for line in lines if not line.startswith("ok ")]
    host = one_node.host()
    assert failed == (
        f"FAILED   no GPU visible to torch in the GPU job on {host}: the node has no NVIDIA driver"
    )
    assert f"ok       CPU job ran on {host} after a wait of" in said
    assert f"ok       GPU job ran on {host} after a wait of" in said
    assert "ok       SLURM gave the GPU job one GPU (CUDA_VISIBLE_DEVICES=0)" in said
    assert "slurm-status-command: squeue" in said
    assert said.splitlines()[-1] == "1 check FAILED: mend what is said below each."
    assert nothing_left(slurm, results)


def test_without_the_gpu_job_all_is_well(slurm: Cluster, environment: dict[str, str], results: Path) -> None:
    with start(environment, results, "--timeout", "120", "--no-gpu") as check:
        said, _ = check.communicate(timeout=180)
    assert check.returncode == 0
    assert said.splitlines()[-1] == "The cluster can run the workflow."


def test_a_job_that_waits_too_long_is_told_and_cancelled(
    slurm: Cluster, environment: dict[str, str], results: Path
) -> None:
    other = slurm.submit("sleep 120", f"--cpus-per-task={one_node.CPUS}", "--time=5")
    slurm.wait(other, "RUNNING")
    with start(environment, results, "--timeout", "2", "--no-gpu") as check:
        said, _ = check.communicate(timeout=60)
    slurm.cancel(other)
    assert check.returncode == 1
    assert "CPU job is accepted and expected to start in" in said
    assert "FAILED   CPU job has not ended within 2 s (pending, " in said
    slurm.clear()
    assert nothing_left(slurm, results)


def test_ctrl_c_leaves_nothing(slurm: Cluster, environment: dict[str, str], results: Path) -> None:
    other = slurm.submit("sleep 120", f"--cpus-per-task={one_node.CPUS}", "--time=5")
    slurm.wait(other, "RUNNING")
    with start(environment, results) as check:
        one_node.until(lambda: len(slurm.run("squeue", "--noheader").splitlines()) == 3, 30, "jobs are sent")
        check.send_signal(signal.SIGINT)
        _, error = check.communicate(timeout=60)
    slurm.cancel(other)
    assert check.returncode == 130
    assert error == "stopped; the jobs are cancelled and their files removed\n"
    one_node.until(lambda: nothing_left(slurm, results), 10, "nothing is left")


def test_a_partition_that_is_not_there_costs_no_job(
    slurm: Cluster, environment: dict[str, str], results: Path
) -> None:
    Path(environment["MYOSTAGE_SITE"]).write_text("partition: cup\n")
    before = len(slurm.jobs())
    with start(environment, results, "--no-gpu") as check:
        said, _ = check.communicate(timeout=60)
    assert check.returncode == 1
    assert "FAILED   there is no partition cup (did you mean cpu?)" in said
    assert len(slurm.jobs()) == before
    assert not results.exists()


def test_an_account_cannot_be_charged_where_nobody_counts(
    slurm: Cluster, environment: dict[str, str], results: Path
) -> None:
    Path(environment["MYOSTAGE_SITE"]).write_text(SITE + "account: lab\n")
    with start(environment, results) as check:
        said, _ = check.communicate(timeout=60)
    assert check.returncode == 1
    assert "FAILED   account lab is given, but without accounting" in said

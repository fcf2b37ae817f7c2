"""The preflight on a real SLURM: its GPUs are pretended, and that is all it may find."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import one_node
from support.one_node import Cluster

ROOT = Path(__file__).parents[2]
SITE = "partition: cpu\ngpu_partition: gpu\nmax_mem_mb: 8000\n"
# this cluster has no accounting, and the test does not wait for polling made for jobs of hours
PROFILE = [
    "--workflow-profile=profiles/slurm",
    "--slurm-no-account",
    "--slurm-status-command=squeue",
    "--slurm-init-seconds-before-status-checks=3",
    "--seconds-between-status-checks=3",
]

pytestmark = pytest.mark.slurm


@pytest.fixture
def site(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site of its own, and a cluster on which nothing runs."""
    slurm.clear()
    file = tmp_path / "site.yaml"
    file.write_text(SITE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MYOSTAGE_SITE", str(file))
    return file


def start(results: Path, gpu: bool = True) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "snakemake", "-s", "rules/cluster_check.smk", "--forceall", *PROFILE]
    return subprocess.Popen(
        [*command, "--config", f"results={results}", f"gpu={gpu}"],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_nothing_left(slurm: Cluster, results: Path) -> None:
    one_node.until(lambda: not slurm.run("squeue", "--noheader"), 20, "no job is left")
    assert not list(results.rglob("*"))


def test_all_works_but_the_pretended_gpu(slurm: Cluster, site: Path, tmp_path: Path) -> None:
    with start(tmp_path / "results") as check:
        said, error = check.communicate(timeout=300)
    assert check.returncode == 1, error
    (failed,) = [line for line in said.splitlines() if line.startswith(("warning ", "FAILED "))]
    host = one_node.host()
    assert failed == f"FAILED   torch sees no GPU in the GPU job on {host}: the node has no NVIDIA driver"
    for job in ("CPU job", "GPU job"):
        assert f"ok       the {job} ran on {host} after a wait of" in said
    assert said.splitlines()[-1] == "1 check FAILED: do what stands below each."
    assert_nothing_left(slurm, tmp_path / "results")


def test_ctrl_c_leaves_no_job_and_no_file(slurm: Cluster, site: Path, tmp_path: Path) -> None:
    other = slurm.submit("sleep 240", f"--cpus-per-task={one_node.CPUS}", "--time=5")
    slurm.wait(other, "RUNNING")
    with start(tmp_path / "results") as check:
        one_node.until(
            lambda: len(slurm.run("squeue", "--noheader").splitlines()) == 3, 60, "both jobs are sent"
        )
        check.send_signal(signal.SIGINT)
        said, _ = check.communicate(timeout=60)
    slurm.cancel(other)
    assert check.returncode != 0
    assert "stopped by you: the jobs are cancelled and their files removed" in said
    assert_nothing_left(slurm, tmp_path / "results")


def test_a_job_that_dies_is_a_sentence(slurm: Cluster, site: Path, tmp_path: Path) -> None:
    other = slurm.submit("sleep 240", f"--cpus-per-task={one_node.CPUS}", "--time=5")
    slurm.wait(other, "RUNNING")
    with start(tmp_path / "results", gpu=False) as check:
        one_node.until(
            lambda: len(slurm.run("squeue", "--noheader").splitlines()) == 2, 60, "the job is sent"
        )
        (job,) = [job.id for job in slurm.jobs() if job.state == "PENDING"]
        slurm.cancel(job)
        said, _ = check.communicate(timeout=120)
    slurm.cancel(other)
    assert check.returncode == 1
    assert (
        "FAILED   the CPU job failed: it printed nothing\n             another person or job ended it" in said
    )
    assert_nothing_left(slurm, tmp_path / "results")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("partition: cup\n", "FAILED   there is no partition cup (did you mean cpu?)"),
        ("account: lab\n", "FAILED   account lab is given, but without accounting"),
    ],
)
def test_a_wrong_site_costs_no_job(slurm: Cluster, site: Path, tmp_path: Path, key: str, said: str) -> None:
    site.write_text(key)
    before = len(slurm.jobs())
    with start(tmp_path / "results") as check:
        printed, _ = check.communicate(timeout=60)
    assert check.returncode == 1
    assert said in printed
    assert len(slurm.jobs()) == before
    assert not (tmp_path / "results").exists()

"""A study through `profiles/slurm` on a real SLURM: the same numbers as here, whatever happens to jobs."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from myostage.study import plan
from myostage.study.sections.encoder import Encoder
from support import disks
from support.one_node import Cluster, Job, until
from support.tiny import ROOT, SNAKEMAKE, lay_out, of_cells, runs

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]

PROFILE = [
    "--workflow-profile=profiles/slurm",
    # this cluster has no accounting, and tests do not wait for polling made for jobs of hours
    "--slurm-no-account",
    "--slurm-status-command=squeue",
    "--slurm-init-seconds-before-status-checks=5",
    "--latency-wait=10",
]
TARGETS = ["tables"]
# Training is frozen while something is done to it, so it needs no more steps than a few checkpoints.
STEPS, CHECKPOINT_EVERY = 1500, 20
MINUTES = 60.0


def content() -> dict[str, Any]:
    small = of_cells(
        {"name": "combined", "losses": {"simprop": 1, "prop": 1}},
        {"name": "majority", "method": "majority"},
        compare={"reference": "combined"},
    )
    small["training"] |= {"steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY}
    small["jobs"] = {"slides_per_job": 2, "runs_per_job": 1, "threads": 1}
    return small


def encoder() -> str:
    return Encoder(**content()["encoder"]).id


@cache
def batches() -> dict[str, str]:
    """The job of each run that trains."""
    cut = plan.run_batches(runs(content()), content()["jobs"]["runs_per_job"])
    return {spec.id: job for job, specs in cut.items() for spec in specs if spec.trained}


class Snakemake:
    """A Snakemake at work in a folder."""

    def __init__(self, folder: Path, *arguments: str, partition: str = "gpu") -> None:
        self.folder = folder
        site = folder / "site.yaml"
        site.write_text(yaml.safe_dump({"partition": "cpu", "gpu_partition": partition, "max_mem_mb": 4000}))
        where = ["--directory", str(folder), "--configfile", str(folder / "study.yaml")]
        self.log = folder / f"snakemake{len(list(folder.glob('snakemake*.log')))}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*SNAKEMAKE, *arguments, *where],
                cwd=ROOT,
                env={**os.environ, "MYOSTAGE_SITE": str(site)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.log.read_text()

    def ends(self, seconds: float = 15 * MINUTES) -> int:
        return self.process.wait(seconds)

    def ends_well(self) -> None:
        assert self.ends() == 0, self.said()[-6000:]


@pytest.fixture(scope="module")
def through(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snakemake]:
    """The study through the profile up to training, begun before the other tests, since it mostly waits."""
    folder = tmp_path_factory.mktemp("through")
    small = content()
    # this copy trains from scratch, the one that it is compared with does not
    scratch = tmp_path_factory.mktemp("scratch")
    small["jobs"]["scratch"] = str(scratch)
    lay_out(folder, small)
    targets = ["results/tiny/precheck/slide_12.json", "results/tiny/segmentation_quality.parquet"]
    started = Snakemake(folder, *targets, f"results/tiny/made/tokens/{encoder()}.json", *PROFILE)
    yield started
    if started.process.poll() is None:
        os.killpg(started.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def here(through: Snakemake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study on this machine, undisturbed."""
    folder = tmp_path_factory.mktemp("here")
    lay_out(folder, content())
    Snakemake(folder, *TARGETS, "--cores=2", "--resources", "gpu=2").ends_well()
    return folder


def copy(here: Path, folder: Path) -> Path:
    """That study with everything but its training and what follows."""
    shutil.copytree(here, folder, ignore=shutil.ignore_patterns("runs", "figures", "*.log"))
    results = folder / "results/tiny"
    shutil.rmtree(results / "made/train")
    shutil.rmtree(results / "made/baselines")
    for table in ("metrics", "comparisons", "confusion", "reliability", "scores", "runs"):
        (results / f"{table}.parquet").unlink()
    return folder


@pytest.fixture
def copied(here: Path, tmp_path: Path) -> Path:
    return copy(here, tmp_path / "copied")


@pytest.fixture(scope="module")
def greedy(slurm: Cluster, here: Path, tmp_path_factory: pytest.TempPathFactory) -> Snakemake:
    """A study whose first try of a job has too little memory; at work while other tests run."""
    folder = copy(here, tmp_path_factory.mktemp("greedy") / "copied")
    target = "results/tiny/made/baselines/all.json"
    return Snakemake(folder, target, *PROFILE, "--set-resources", "baselines:mem_mb=150*attempt**3")


@pytest.fixture(scope="module")
def broken(slurm: Cluster, here: Path, tmp_path_factory: pytest.TempPathFactory) -> Snakemake:
    """A study with a slide that opens and cannot be read."""
    folder = copy(here, tmp_path_factory.mktemp("broken") / "copied")
    small = content()
    small.pop("phantom")
    small.pop("compare")
    small["on_bad_slide"] = "skip"
    small["experiments"] = [{"name": "majority", "method": "majority"}]
    lay_out(folder, small)
    # slides of a user have no statement of what was drawn
    shutil.rmtree(folder / "phantom/made")
    slide = folder / "phantom/d0a.tif"
    image = bytearray(slide.read_bytes())
    # the header is whole, so that `check` is content; the pixels are not
    image[2000 : len(image) // 2] = bytes(len(image) // 2 - 2000)
    slide.write_bytes(image)
    return Snakemake(folder, "results/tiny/splits.parquet", *PROFILE)


def training(slurm: Cluster, folder: Path) -> dict[str, str]:
    """Ids of the training jobs of a folder that are at work, by batch."""
    found = {}
    for job in running(slurm, folder, "rule_train"):
        for pid in processes(slurm, job.id):
            open_files = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists()]
            for file in open_files:
                if "/logs/train/" in file:
                    found[Path(file).stem] = job.id
    return found


def processes(slurm: Cluster, job: str) -> list[int]:
    """The process that trains; one of an array has two numbers."""
    return slurm.processes(slurm.show(job)["JobId"], "train.py")


def running(slurm: Cluster, folder: Path, rule: str) -> list[Job]:
    return [
        job
        for job in slurm.jobs()
        if job.workdir == str(folder) and job.comment.startswith(rule) and job.state == "RUNNING"
    ]


def newest(folder: Path, run: str) -> str:
    """The newest checkpoint of a run; empty where there is none."""
    return max((path.name for path in folder.glob(f"results/tiny/runs/{run}/checkpoint/*.pt")), default="")


def froze(slurm: Cluster, folder: Path, *runs: str) -> list[str]:
    """Stop the process of each run as soon as it has a checkpoint newer than now; their jobs."""
    marks = {run: newest(folder, run) for run in runs}
    jobs: dict[str, str] = {}

    def all_stopped() -> bool:
        for run in runs:
            if run not in jobs and newest(folder, run) > marks[run]:
                jobs[run] = training(slurm, folder)[batches()[run]]
                for pid in processes(slurm, jobs[run]):
                    os.kill(pid, signal.SIGSTOP)
        return len(jobs) == len(runs)

    until(all_stopped, 5 * MINUTES, f"{' and '.join(runs)} train")
    return [jobs[run] for run in runs]


def equal(one: Path, other: Path) -> None:
    """Both folders hold the same predictions and metrics, bit for bit."""
    runs = sorted(path.name for path in (one / "results/tiny/runs").iterdir())
    assert len(runs) == 4
    for run in runs:
        for name in ("predictions", "history"):
            file = f"results/tiny/runs/{run}/{name}.parquet"
            pd.testing.assert_frame_equal(
                pd.read_parquet(one / file), pd.read_parquet(other / file), check_exact=True
            )
    file = "results/tiny/metrics.parquet"
    pd.testing.assert_frame_equal(
        pd.read_parquet(one / file), pd.read_parquet(other / file), check_exact=True
    )


def device(slurm: Cluster, job: str) -> str:
    """The one GPU that a job sees."""
    (pid, *_) = processes(slurm, job)
    environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
    (seen,) = [line.partition("=")[2] for line in environment if line.startswith("CUDA_VISIBLE_DEVICES=")]
    return seen


def test_snakemake_killed_goes_on_where_it_was(
    slurm: Cluster, copied: Path, here: Path, greedy: Snakemake
) -> None:
    run = min(batches())
    targets = [f"results/tiny/made/{name}.json" for name in (f"train/{batches()[run]}", "baselines/all")]
    killed = Snakemake(copied, *targets, *PROFILE)
    (job,) = froze(slurm, copied, run)
    until(lambda: "(Rule: baselines)" in killed.said(), 3 * MINUTES, "the baselines are done")

    # a second one, from another working directory: refused
    refused = Snakemake(copied, *targets, *PROFILE)
    assert refused.ends() != 0
    assert f"process {killed.process.pid} on" in refused.said() and "Traceback" not in refused.said()

    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    refused = Snakemake(copied, *targets, *PROFILE)
    assert refused.ends() != 0
    assert f"scancel {job}" in refused.said() and "Traceback" not in refused.said()
    slurm.cancel(job)
    slurm.wait(job, "CANCELLED", seconds=MINUTES)
    last = Snakemake(copied, *targets, *PROFILE)
    last.ends_well()
    assert "Rule: train" in last.said() and "Rule: baselines" not in last.said()
    file = f"results/tiny/runs/{run}/predictions.parquet"
    pd.testing.assert_frame_equal(
        pd.read_parquet(copied / file), pd.read_parquet(here / file), check_exact=True
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes."""
    with disks.small(tmp_path / "disk", "48m") as folder:
        yield folder


def test_a_full_and_a_read_only_disk_are_told(slurm: Cluster, copied: Path, small_disk: Path) -> None:
    results = copied / "results/tiny"
    moved = small_disk / "tiny"
    shutil.copytree(results, moved, ignore=shutil.ignore_patterns("tokens"))
    shutil.rmtree(moved / "made/embed")
    shutil.rmtree(results)
    results.symlink_to(moved)
    disks.fill(small_disk, 100_000)
    target = f"results/tiny/made/embed/{encoder()}/slides1.json"
    full = Snakemake(copied, target, *PROFILE, "--retries=0")
    assert full.ends() != 0
    logs = full.said() + "".join(log.read_text() for log in copied.glob(".snakemake/slurm_logs/**/*.log"))
    assert re.search(r"the disk of results/tiny\S* is full", logs) and "Traceback" not in full.said()
    assert (moved / "slides/d0a/crops.parquet").exists()

    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = Snakemake(copied, target, *PROFILE)
    assert refused.ends() != 0
    assert "not writable" in refused.said() or "read-only" in refused.said()
    assert "Traceback" not in refused.said()


def test_harmed_in_every_way_it_ends_with_the_same_numbers(
    slurm: Cluster, through: Snakemake, here: Path
) -> None:
    through.ends_well()
    folder = through.folder
    harmed = Snakemake(folder, *TARGETS, *PROFILE, partition="scavenge")
    first, second = sorted(batches())

    # preempted: both go back into the queue, by SLURM itself
    preempted = froze(slurm, folder, first, second)
    assert sorted(device(slurm, job) for job in preempted) == ["0", "1"]
    urgent = slurm.submit("sleep 2", "--partition=urgent", "--gpus=2")
    slurm.wait(urgent, "COMPLETED", seconds=3 * MINUTES)
    assert [slurm.show(job)["Restarts"] for job in preempted] == ["1", "1"]

    # one cancelled, the other beyond its time limit
    cancelled, expired = froze(slurm, folder, first, second)
    slurm.expire(expired)
    slurm.cancel(cancelled)
    slurm.wait(cancelled, "CANCELLED", seconds=MINUTES)
    slurm.wait(expired, "TIMEOUT", seconds=90)

    # one killed without a warning, the other on a node that is lost and comes back
    killed, lost = froze(slurm, folder, first, second)
    for pid in processes(slurm, killed):
        os.kill(pid, signal.SIGKILL)
    slurm.wait(killed, "FAILED", seconds=2 * MINUTES)
    slurm.node_down()
    until(lambda: slurm.show(lost)["Restarts"] == "1", MINUTES, "the lost job is queued again")
    slurm.node_up()

    harmed.ends_well()
    assert "Submitted array job" in harmed.said()
    equal(folder, here)
    logs = [*folder.glob(".snakemake/slurm_logs/**/*.log"), *folder.glob("results/tiny/logs/train/*.log")]
    told = "".join(log.read_text() for log in logs)
    for run in (first, second):
        assert not list((folder / f"results/tiny/runs/{run}/checkpoint").glob("*"))
        # it went on, from its copy of the tokens, and did not start anew
        assert f"{run}: resumed at step" in told
    assert "copied 4 files" in told


def test_killed_for_memory_it_gets_more(greedy: Snakemake) -> None:
    greedy.ends_well()
    logs = greedy.folder.glob(".snakemake/slurm_logs/rule_baselines/*.log")
    assert "exceeded memory limit" in "".join(log.read_text() for log in logs)


def test_a_slide_that_breaks_its_job_is_left_out_and_named(broken: Snakemake) -> None:
    broken.ends_well()
    splits = pd.read_parquet(broken.folder / "results/tiny/splits.parquet").set_index("slide")
    assert splits.loc["d0a", "cells"] == 0 and (splits.drop("d0a")["cells"] > 0).all()

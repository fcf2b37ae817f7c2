"""What the cluster of the tests does to jobs: it kills, preempts and loses them as a large one does."""

from collections.abc import Iterator

import pytest

from support import one_node
from support.one_node import Cluster, until

pytestmark = pytest.mark.slurm


@pytest.fixture(autouse=True)
def nothing_left(slurm: Cluster) -> Iterator[None]:
    slurm.clear()
    yield


def state_in_queue(slurm: Cluster, job: str) -> str:
    (state,) = [one.state for one in slurm.jobs() if one.id == job]
    return state


def test_two_gpu_jobs_at_once_see_one_gpu_each(slurm: Cluster) -> None:
    options = ("--partition=gpu", "--gpus=1", "--mem=100")
    jobs = [slurm.submit("echo $CUDA_VISIBLE_DEVICES; sleep 60", *options) for _ in range(3)]
    for job in jobs[:2]:
        slurm.wait(job, "RUNNING")
    assert slurm.state(jobs[2]) == "PENDING"
    until(lambda: all(slurm.output(job) for job in jobs[:2]), 10, "both jobs speak")
    assert sorted(slurm.output(job).strip() for job in jobs[:2]) == ["0", "1"]


def test_a_job_is_listed_with_its_comment_and_folder(slurm: Cluster) -> None:
    job = slurm.submit("true", "--comment=rule a: b|c", "--job-name=d e")
    slurm.wait(job, "COMPLETED")
    (listed,) = [one for one in slurm.jobs() if one.id == job]
    assert listed == (job, "COMPLETED", "d e", "rule a: b|c", str(one_node.RUN), "cpu")


def test_more_memory_than_asked_for_is_fatal(slurm: Cluster) -> None:
    script = "python3 -c 'import time; kept = b\"x\" * {} * 1_000_000; time.sleep({})'"
    greedy = slurm.submit(script.format(400, 60), "--mem=200")
    modest = slurm.submit(script.format(100, 4), "--mem=200")
    slurm.wait(greedy, "FAILED", "OUT_OF_MEMORY")
    assert state_in_queue(slurm, greedy) in ("FAILED", "OUT_OF_MEMORY")
    assert "exceeded memory limit" in slurm.output(greedy)
    slurm.wait(modest, "COMPLETED")


def test_a_process_killed_fails_its_job(slurm: Cluster) -> None:
    job = slurm.submit("python3 -c 'import time; time.sleep(60)'")
    slurm.wait(job, "RUNNING")
    assert len(slurm.kill(job, "python3 -c")) == 1
    slurm.wait(job, "FAILED")
    assert slurm.show(job)["ExitCode"] == "137:0"
    until(lambda: slurm.processes(job) == [], 5, "nothing of the job is left")


def test_a_preempted_job_runs_again(slurm: Cluster) -> None:
    low = slurm.submit(
        "echo begins; sleep 2", "--partition=scavenge", "--cpus-per-task=8", "--open-mode=append"
    )
    slurm.wait(low, "RUNNING")
    high = slurm.submit("sleep 1", "--partition=urgent", "--cpus-per-task=8")
    slurm.wait(low, "PENDING")
    slurm.wait(high, "COMPLETED")
    slurm.wait(low, "COMPLETED")
    assert slurm.show(low)["Restarts"] == "1"
    assert "DUE TO PREEMPTION" in slurm.output(low)
    assert slurm.output(low).splitlines()[-1] == "begins"


def test_a_node_that_is_lost_fails_its_jobs_or_starts_them_again(slurm: Cluster) -> None:
    again = slurm.submit("sleep 2", "--requeue")
    once = slurm.submit("sleep 60", "--no-requeue")
    for job in (again, once):
        slurm.wait(job, "RUNNING")
    slurm.node_down()
    slurm.wait(once, "NODE_FAIL")
    slurm.wait(again, "PENDING")
    assert not slurm.idle()
    slurm.node_up()
    slurm.wait(again, "COMPLETED")
    assert slurm.show(again)["Restarts"] == "1"
    slurm.wait(slurm.submit("true"), "COMPLETED")


def test_nothing_stays_after_a_stop_and_it_starts_again(slurm: Cluster) -> None:
    kept = one_node.KEPT.exists()
    job = slurm.submit("trap '' TERM; sleep 60; sleep 60", "--job-name=stubborn")
    slurm.wait(job, "RUNNING")
    until(lambda: len(slurm.processes(job)) > 1, 10, "the job has begun")
    slurm.stop()
    assert one_node.leftovers() == []
    slurm.start()
    if kept:
        one_node.KEPT.touch()
    slurm.wait(slurm.submit("true"), "COMPLETED")

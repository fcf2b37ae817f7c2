"""Schedules counted by hand, what holds for every schedule, and timings that are missing or none."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myostage.cluster import schedule
from myostage.cluster.schedule import Job, Rate, Timings
from myostage.errors import UserError
from myostage.study import config
from myostage.study.sections import LEARNING, Encoder, Study

ROOT = Path(__file__).parents[2]
RATES = {
    "check": Rate(1, 1),
    "tile": Rate(1, 1),
    "segment": Rate(10, 20),
    "crop": Rate(1, 0.5),
    "split": Rate(1, 0.1),
    "embed": Rate(10, 1e-6),
    "train": Rate(10, 2),
    "baselines": Rate(10, 0),
    "evaluate": Rate(1, 0.2),
    "look": Rate(1, 0),
}
TIMINGS = Timings("demo", RATES, (11.0, 12.0))


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def demo(at_root: None) -> Study:
    return config.load_study("config/demo.yaml", files=False)


def spans(jobs: list[Job], gpus: int = 2, cores: int = 1, wait: float = 0.0) -> list[tuple[float, float]]:
    return schedule.simulate(jobs, gpus, cores, wait)


def test_three_jobs_on_two_gpus() -> None:
    jobs = [Job("train", 3, gpu=True), Job("train", 2, gpu=True), Job("train", 2, gpu=True)]
    assert spans(jobs) == [(0, 3), (0, 2), (2, 4)]
    found = schedule.result(1, jobs, gpus=2, cores=1)
    # 2 GPUs x 4 s, of which 7 s are used
    assert (found.makespan, found.gpu_seconds, found.gpu_idle_seconds) == (4, 7, 1)
    assert found.gpu_idle_share == pytest.approx(1 / 8)


def test_a_job_starts_when_all_its_inputs_are_there() -> None:
    jobs = [Job("tile", 1), Job("segment", 5, gpu=True, after=(0,)), Job("crop", 2, after=(0, 1))]
    assert spans(jobs) == [(0, 1), (1, 6), (6, 8)]


def test_gpus_and_cores_are_taken_apart() -> None:
    jobs = [Job("tile", 4), Job("tile", 4), Job("train", 4, gpu=True)]
    assert spans(jobs, gpus=1, cores=1) == [(0, 4), (4, 8), (0, 4)]


def test_without_a_gpu_everything_takes_cores() -> None:
    jobs = [Job("train", 4, gpu=True), Job("tile", 1)]
    assert spans(jobs, gpus=0, cores=1) == [(0, 4), (4, 5)]
    found = schedule.result(1, jobs, gpus=0, cores=1)
    assert (found.gpu_seconds, found.gpu_idle_seconds, found.gpu_idle_share) == (0, 0, 0)


def test_every_job_waits_in_the_queue_and_holds_no_slot_meanwhile() -> None:
    jobs = [Job("tile", 1), Job("tile", 1), Job("crop", 1, after=(0,))]
    # the third is submitted at 11
    assert spans(jobs, cores=1, wait=10) == [(10, 11), (11, 12), (21, 22)]


def test_gpus_idle_between_two_stages_but_not_before_the_first() -> None:
    jobs = [
        Job("tile", 7),
        Job("segment", 2, gpu=True, after=(0,)),
        Job("crop", 3, after=(1,)),
        Job("embed", 2, gpu=True, after=(2,)),
        Job("look", 9, after=(3,)),
    ]
    found = schedule.result(1, jobs, gpus=1, cores=1)
    assert (found.makespan, found.gpu_idle_seconds) == (23, 3)


def test_the_share_of_starting() -> None:
    jobs = [Job("train", 10, 4, gpu=True), Job("look", 10, 1)]
    assert schedule.result(1, jobs, gpus=1, cores=1).start_share == 0.25


@st.composite
def graphs(draw: st.DrawFn) -> list[Job]:
    jobs: list[Job] = []
    for number in range(draw(st.integers(1, 14))):
        before = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        seconds = draw(st.integers(0, 20))
        jobs.append(Job("any", seconds, gpu=draw(st.booleans()), after=tuple(before)))
    return jobs


@given(graphs(), st.integers(0, 3), st.integers(1, 3), st.integers(0, 5))
def test_what_holds_for_every_schedule(jobs: list[Job], gpus: int, cores: int, wait: int) -> None:
    found = spans(jobs, gpus, cores, wait)
    longest: list[float] = []
    for job, (start, end) in zip(jobs, found, strict=True):
        assert end - start == job.seconds
        assert start >= wait + max((found[before][1] for before in job.after), default=0)
        longest.append(wait + job.seconds + max((longest[before] for before in job.after), default=0))
    summary = schedule.result(1, jobs, gpus, cores, wait)
    assert summary.makespan >= max(longest)
    for kind, slots in ((True, gpus), (False, cores)):
        own = [span for job, span in zip(jobs, found, strict=True) if (job.gpu and gpus > 0) == kind]
        # never more at a time than there are slots
        for at, _ in own:
            assert sum(start <= at < end for start, end in own) <= slots
        if slots:
            assert summary.makespan >= sum(end - start for start, end in own) / slots
    assert summary.gpu_idle_seconds >= 0 <= summary.gpu_idle_share < 1


def made(runs_per_job: int, makespan: float, gpu_seconds: float) -> schedule.Result:
    return schedule.Result(runs_per_job, 1, 1, makespan, gpu_seconds, 0.0, 0.0, 0.0)


def test_the_best_has_the_fewest_gpu_hours_within_two_percent() -> None:
    results = [made(1, 100, 9), made(2, 101.9, 7), made(4, 102.1, 5)]
    assert schedule.best(results).runs_per_job == 2
    assert schedule.best([made(8, 100, 7), made(4, 100, 7)]).runs_per_job == 4
    assert schedule.advice(results).startswith(
        "Take jobs.runs_per_job: 2: its makespan, 2 min, is within 2 %"
    )


def test_the_chain_of_the_demo(demo: Study) -> None:
    jobs = schedule.build(demo, 3, TIMINGS, gpus=2, snakemake_seconds=5)
    # 15 slides in 2 batches, 2 encoders, 5 experiments of 3 runs, 6 baseline runs in one job, 2 figures
    count = {rule: sum(job.rule == rule for job in jobs) for rule in RATES}
    assert count == {
        "check": 1,
        "tile": 2,
        "segment": 2,
        "crop": 2,
        "split": 1,
        "embed": 4,
        "train": 5,
        "baselines": 1,
        "evaluate": 1,
        "look": 2,
    }
    first = {rule: next(job for job in jobs if job.rule == rule) for rule in RATES}
    assert {rule for rule, job in first.items() if job.gpu} == {"segment", "embed", "train"}
    assert first["check"].seconds == 5 + 1 + 15
    # 7 slides, 100 times as fast as on a core
    assert first["segment"].seconds == pytest.approx(5 + 10 + 7 * 20 / 100)
    assert first["evaluate"].seconds == pytest.approx(5 + 1 + 21 * 0.2)
    assert (first["look"].seconds, first["look"].start_seconds) == (5 + 11, 6)
    # 300 steps of 5 ms, the least that a GPU is taken to need, and 1.5 s for the end of a run
    assert first["train"].seconds == pytest.approx(5 + 10 + 3 * 3)
    # two embeddings, of its own encoder alone, and the folds
    assert [jobs[before].rule for before in first["train"].after] == ["split", "embed", "embed"]
    assert all(before < number for number, job in enumerate(jobs) for before in job.after)


def test_on_cores_a_run_takes_its_estimate_times_what_was_measured(demo: Study) -> None:
    spec = config.runnable(demo)["prop"][0]
    job = next(job for job in schedule.build(demo, 1, TIMINGS, gpus=0) if job.rule == "train")
    combined = config.runnable(demo)["combined"][0]
    assert job.seconds - job.start_seconds == pytest.approx(2 * schedule.cpu_seconds(combined))
    assert schedule.cpu_seconds(combined) > schedule.cpu_seconds(spec) > schedule.gpu_seconds(spec) / 2


@pytest.mark.parametrize("gpus", [0, 8])
def test_packing_changes_processes_and_no_work(demo: Study, gpus: int) -> None:
    def work(size: int) -> float:
        jobs = schedule.build(demo, size, TIMINGS, gpus)
        return sum(job.seconds - job.start_seconds for job in jobs if job.rule == "train")

    assert work(1) == pytest.approx(work(2)) == pytest.approx(work(64))
    results = [
        schedule.result(size, schedule.build(demo, size, TIMINGS, gpus), gpus, 64) for size in (1, 2, 4)
    ]
    assert [found.training_jobs for found in results] == [15, 10, 5]
    assert [found.jobs for found in results] == [31, 26, 21]
    shares = [found.start_share for found in results]
    assert shares == sorted(shares, reverse=True)


def test_a_larger_encoder_embeds_longer(demo: Study) -> None:
    own = Encoder.model_validate({"architecture": {"patch_px": 8, "width": 96}, "weights": "none"})
    twice = Encoder.model_validate({"architecture": {"patch_px": 8, "width": 192}, "weights": "none"})
    named = Encoder(model="vit_base_patch8_224.dino")
    # 3 frozen blocks of 65 tokens
    assert schedule.embedding(own) == 3 * 65 * 96**2
    assert schedule.embedding(twice) == 4 * schedule.embedding(own)
    assert schedule.embedding(named) == 11 * 65 * 768**2


def test_a_rate_from_jobs_of_different_size() -> None:
    assert schedule.fit(14, [(24, 5), (34, 10)]) == Rate(14, 2)
    # none took as long as starting is said to take
    assert schedule.fit(14, [(6, 2), (4, 2)]) == Rate(4, 0.5)


@pytest.fixture
def timings(tmp_path: Path, demo: Study) -> Callable[..., Path]:
    """Write timings of the demo that follow exactly from RATES, without some rules."""

    def write(*left_out: str) -> Path:
        folder = tmp_path / "results" / "demo" / "benchmarks"
        jobs = {
            (rule, job): RATES[rule].start + RATES[rule].each * amount
            for rule, amounts in schedule.units(demo).items()
            for job, amount in amounts.items()
        }
        jobs |= {("look", "counts"): 11.0, ("look", "sizes"): 12.0, ("precheck", "slide_60"): 1.0}
        for (rule, job), seconds in jobs.items():
            if rule not in left_out:
                file = folder / rule / f"{job}.tsv"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"s\th:m:s\tmax_rss\n{seconds!r}\t0:00:00\t-\n")
        return folder

    return write


def test_rates_are_found_again_in_timings(timings: Callable[..., Path]) -> None:
    found = schedule.measured(timings(), start_seconds=10)
    assert found.study == "demo"
    assert found.figures == (11, 12)
    for rule, rate in RATES.items():
        assert (found.rates[rule].start, found.rates[rule].each) == pytest.approx((rate.start, rate.each)), (
            rule
        )


def test_a_timed_study_without_baselines(
    timings: Callable[..., Path], demo: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [one for one in demo.experiments if one.method in LEARNING]
    alone = demo.model_copy(update={"experiments": own})
    folder = timings("baselines")
    monkeypatch.setattr(config, "load_study", lambda *_, **__: alone)
    assert schedule.measured(folder, start_seconds=10).rates["baselines"] == Rate(10, 0)


def test_what_was_not_measured_is_named(timings: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"no timings of segment, evaluate, look; let demo run to its end"):
        schedule.measured(timings("segment", "evaluate", "look"))


def test_no_timings_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no timings there; run `make demo` first"):
        schedule.read(tmp_path / "results" / "demo" / "benchmarks")


@pytest.mark.parametrize("text", ["", "s\n", "seconds\n3\n", "s\nfast\n"])
def test_a_file_that_is_no_timing(tmp_path: Path, text: str) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "prop-1.tsv").write_text(text)
    with pytest.raises(UserError, match=r"prop-1\.tsv is no timing of Snakemake"):
        schedule.read(tmp_path)


def test_repeated_timings_are_averaged_and_folders_joined(tmp_path: Path) -> None:
    (tmp_path / "embed" / "vit").mkdir(parents=True)
    (tmp_path / "embed" / "vit" / "slides1.tsv").write_text("s\n3\n5\n")
    assert schedule.read(tmp_path) == {"embed": {"vit_slides1": 4}}


def test_a_study_that_trains_nothing(demo: Study) -> None:
    baselines = [one for one in demo.experiments if one.method == "majority"]
    with pytest.raises(UserError, match="study demo trains nothing"):
        schedule.build(demo.model_copy(update={"experiments": baselines}), 1, TIMINGS, gpus=1)


def test_the_command(
    timings: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["config/demo.yaml", "--timings", str(timings()), "--gpus", "2", "--runs-per-job", "4,1"]
    monkeypatch.setattr(sys, "argv", ["schedule.py", *arguments])
    runpy.run_path(str(ROOT / "scripts" / "schedule.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("demo on 2 GPUs and 64 slots")
    assert lines[2].split()[:3] == ["runs/job", "training", "jobs"]
    assert [line.split()[:3] for line in lines[3:5]] == [["1", "15", "31"], ["4", "5", "21"]]
    assert any(line.startswith("Take jobs.runs_per_job: 4: its makespan") for line in lines)
    assert any(line.startswith("Measured on demo") for line in lines)
    assert any(line.startswith("Assumed:") for line in lines)

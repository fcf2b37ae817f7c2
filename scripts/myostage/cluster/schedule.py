"""How long a study would take on a cluster, by the number of runs that one training job holds.

Many runs per job start few processes and leave GPUs idle at the end; few runs per job the other way round.
The study's jobs are scheduled here as a cluster would: a job starts as soon as its inputs are there and a
slot is free, first come, first served. Its seconds are those that Snakemake measured on the demo, carried
over as :func:`fit` and :func:`build` say.
"""

import csv
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from myostage.cluster.estimate import (
    GPU_SPEED,
    GPU_STEP_SECONDS,
    JOB_SECONDS,
    RUN_SECONDS,
    duration,
    geometry,
    step_seconds,
)
from myostage.errors import UserError
from myostage.study import config, plan
from myostage.study.inputs import read_slides
from myostage.study.sections import Encoder, RunSpec, Study

RUNS_PER_JOB = (1, 2, 4, 8, 16, 32, 64)
# Seconds until Snakemake has started on a node and read the rules; the job itself starts then.
SNAKEMAKE_SECONDS = 5.0
# A makespan so much longer than the smallest is as good.
TOLERANCE = 0.02
# Blocks of the ViTs by the size in timm's name.
DEPTHS = {"tiny": 12, "small": 12, "base": 12, "large": 24, "huge": 32, "giant": 40}
# Rules whose jobs start by importing torch. All others start as the shortest job does that was measured.
TORCH_RULES = ("segment", "embed", "train", "baselines")


@dataclass(frozen=True)
class Rate:
    """Seconds of a rule's jobs on one core: ``start`` (imports), then ``each`` per unit of work."""

    start: float
    each: float


@dataclass(frozen=True)
class Timings:
    """What was measured: rates by rule, in the units of :func:`units`, and seconds of every figure."""

    study: str
    rates: dict[str, Rate]
    figures: tuple[float, ...]


@dataclass(frozen=True)
class Job:
    """A job: its seconds, how many of them it spends starting, and the numbers of the jobs it waits for."""

    rule: str
    seconds: float
    start_seconds: float = 0.0
    gpu: bool = False
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Result:
    """The schedule of a study for one value of `runs_per_job`; all times in seconds."""

    runs_per_job: int
    training_jobs: int
    jobs: int
    makespan: float
    gpu_seconds: float
    gpu_idle_seconds: float
    gpu_idle_share: float
    start_share: float


def simulate(jobs: Sequence[Job], gpus: int, cores: int, wait: float = 0.0) -> list[tuple[float, float]]:
    """Start and end of every job, by list scheduling.

    Parameters
    ----------
    jobs
        Every job after those that it waits for.
    gpus
        GPUs; a GPU job takes one. Without any, GPU jobs take a core like all others.
    cores
        Slots of the other jobs, which take one each.
    wait
        Seconds that a job spends in the queue even where a slot is free.

    Returns
    -------
    list[tuple[float, float]]
        Seconds after the first job was submitted, in the order of ``jobs``.
    """
    slot = ["gpu" if job.gpu and gpus else "core" for job in jobs]
    free = {"gpu": gpus, "core": cores}
    missing = [len(job.after) for job in jobs]
    followers: list[list[int]] = [[] for _ in jobs]
    for number, job in enumerate(jobs):
        for before in job.after:
            followers[before].append(number)
    spans = [(0.0, 0.0)] * len(jobs)
    ready: dict[str, list[tuple[float, int]]] = {"gpu": [], "core": []}
    # (time, whether the job may start from then on, else it has ended, job)
    events = [(wait, True, number) for number, job in enumerate(jobs) if not job.after]
    heapq.heapify(events)
    while events:
        now = events[0][0]
        while events and events[0][0] == now:
            _, may_start, number = heapq.heappop(events)
            if may_start:
                heapq.heappush(ready[slot[number]], (now, number))
                continue
            free[slot[number]] += 1
            for follower in followers[number]:
                missing[follower] -= 1
                if not missing[follower]:
                    heapq.heappush(events, (now + wait, True, follower))
        for kind, line in ready.items():
            while line and free[kind]:
                _, number = heapq.heappop(line)
                free[kind] -= 1
                spans[number] = (now, now + jobs[number].seconds)
                heapq.heappush(events, (spans[number][1], False, number))
    return spans


def result(runs_per_job: int, jobs: Sequence[Job], gpus: int, cores: int, wait: float = 0.0) -> Result:
    """Schedule the ``jobs`` and sum up; GPUs idle from the first GPU job's start to the last one's end."""
    spans = simulate(jobs, gpus, cores, wait)
    on_gpu = [span for job, span in zip(jobs, spans, strict=True) if job.gpu] if gpus else []
    busy = sum(end - start for start, end in on_gpu)
    held = gpus * (max(end for _, end in on_gpu) - min(start for start, _ in on_gpu)) if on_gpu else 0.0
    # a sum of ends minus starts may miss zero by rounding
    idle = max(0.0, held - busy)
    seconds = sum(job.seconds for job in jobs)
    return Result(
        runs_per_job=runs_per_job,
        training_jobs=sum(job.rule == "train" for job in jobs),
        jobs=len(jobs),
        makespan=max((end for _, end in spans), default=0.0),
        gpu_seconds=busy,
        gpu_idle_seconds=idle,
        gpu_idle_share=idle / held if held else 0.0,
        start_share=sum(job.start_seconds for job in jobs) / seconds if seconds else 0.0,
    )


def best(results: Iterable[Result]) -> Result:
    """The fewest GPU hours among the makespans within 2 % of the smallest."""
    listed = list(results)
    limit = (1 + TOLERANCE) * min(found.makespan for found in listed)
    return min(
        (found for found in listed if found.makespan <= limit),
        key=lambda found: (found.gpu_seconds, found.makespan, found.runs_per_job),
    )


def build(
    study: Study,
    runs_per_job: int,
    timings: Timings,
    gpus: int,
    snakemake_seconds: float = SNAKEMAKE_SECONDS,
) -> list[Job]:
    """The jobs of a study from check to figures, with ``runs_per_job`` in place of its own.

    On a GPU the work of segment and embed takes :data:`~estimate.GPU_SPEED` times less than was
    measured on a core, and training takes what :mod:`estimate` says. Slides and cells per slide
    are taken to be like those of the study that was timed.

    Raises
    ------
    UserError
        The study trains nothing, so that `runs_per_job` means nothing.
    """
    experiments = config.runnable(study)
    if not any(specs[0].trained for specs in experiments.values()):
        raise UserError(f"study {study.study} trains nothing, so runs_per_job changes nothing; name another")
    jobs: list[Job] = []

    def add(rule: str, seconds: float, after: Iterable[int], gpu: bool = False) -> int:
        start = snakemake_seconds + timings.rates[rule].start
        jobs.append(Job(rule, start + seconds, start, gpu, tuple(after)))
        return len(jobs) - 1

    def work(rule: str, amount: float) -> float:
        return timings.rates[rule].each * amount

    faster = GPU_SPEED if gpus else 1.0
    slides = [row.slide for row in read_slides(study)]
    batches = plan.batches(slides, study.jobs.slides_per_job, "slides")
    crops = {}
    if study.input == "slides":
        checked = add("check", work("check", len(slides)), ())
        for batch, members in batches.items():
            tiled = add("tile", work("tile", len(members)), (checked,))
            segmented = add("segment", work("segment", len(members)) / faster, (tiled,), gpu=True)
            crops[batch] = add("crop", work("crop", len(members)), (segmented,))
    else:
        crops = dict.fromkeys(batches, add("crop", work("crop", len(slides)), ()))
    split = add("split", work("split", len(slides)), dict.fromkeys(crops.values()))
    tokens: dict[str, list[int]] = {}
    for encoder, settings in config.encoders(study).items():
        for batch, members in batches.items():
            seconds = work("embed", len(members) * embedding(settings)) / faster
            tokens.setdefault(encoder, []).append(add("embed", seconds, (crops[batch],), gpu=True))
    runs = []
    cut = plan.run_batches(experiments, runs_per_job)
    for specs in cut.values():
        if specs[0].trained:
            after = (split, *tokens[specs[0].encoder.id])
            seconds = sum(map(gpu_seconds, specs)) if gpus else work("train", sum(map(cpu_seconds, specs)))
            runs.append(add("train", seconds, after, gpu=True))
        else:
            runs.append(add("baselines", work("baselines", len(specs)), (split,)))
    evaluated = add("evaluate", work("evaluate", sum(map(len, cut.values()))), runs)
    for seconds in timings.figures:
        add("look", seconds - timings.rates["look"].start, (evaluated,))
    return jobs


def read(folder: str | Path) -> dict[str, dict[str, float]]:
    """Seconds by rule and job of a folder of timings, ``{rule}/{batch}.tsv``; the mean of repeated ones.

    Raises
    ------
    UserError
        No timings there, or a file that is none.
    """
    folder = Path(folder)
    found: dict[str, dict[str, float]] = {}
    for file in sorted(folder.glob("*/**/*.tsv")):
        rule, *parts = file.relative_to(folder).with_suffix("").parts
        try:
            with file.open(encoding="utf-8", newline="") as lines:
                seconds = [float(row["s"]) for row in csv.DictReader(lines, delimiter="\t")]
            found.setdefault(rule, {})["_".join(parts)] = sum(seconds) / len(seconds)
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            raise UserError(
                f"{file} is no timing of Snakemake (a column s, in seconds); delete it and run `make demo`"
            ) from None
    if not found:
        raise UserError(f"{folder}: no timings there; run `make demo` first")
    return found


def measured(folder: str | Path, start_seconds: float = JOB_SECONDS) -> Timings:
    """The rates of the study whose timings lie in ``{results}/{study}/benchmarks``.

    Parameters
    ----------
    folder
        The timings; the study file is config/{study}.yaml.
    start_seconds
        Seconds that a job takes to import torch.

    Raises
    ------
    UserError
        No timings, none of a rule, or no such study file.
    """
    taken = read(folder)
    name = Path(folder).absolute().parent.name
    study = config.load_study(Path("config") / f"{name}.yaml", files=False)
    rates: dict[str, Rate] = {}
    # only starting, or hardly more
    light = min(seconds for jobs in taken.values() for seconds in jobs.values())
    known = units(study)
    for rule, amounts in known.items():
        jobs = taken.get(rule, {})
        pairs = [(jobs[job], amount) for job, amount in amounts.items() if job in jobs]
        if pairs:
            rates[rule] = fit(start_seconds if rule in TORCH_RULES else light, pairs)
    if "train" in rates and not known["baselines"]:
        # they do little but start
        rates["baselines"] = Rate(rates["train"].start, 0.0)
    rates["look"] = Rate(light, 0.0)
    missing = [rule for rule in known if rule not in rates] + ([] if "look" in taken else ["look"])
    if missing:
        raise UserError(f"{folder}: no timings of {', '.join(missing)}; let {name} run to its end first")
    return Timings(study.study, rates, tuple(taken["look"].values()))


def units(study: Study) -> dict[str, dict[str, float]]:
    """Work of every job by rule and name, in the unit that its seconds grow with.

    Slides; for embed slides x (blocks x tokens x width squared); for train the CPU seconds that
    :mod:`myostage.cluster.estimate` says; runs for baselines and evaluate.
    """
    slides = [row.slide for row in read_slides(study)]
    batches = plan.batches(slides, study.jobs.slides_per_job, "slides")
    runs = plan.run_batches(config.runnable(study), study.jobs.runs_per_job)
    untrained = sum(len(specs) for specs in runs.values() if not specs[0].trained)
    counts = {batch: float(len(members)) for batch, members in batches.items()}
    every = {"all": float(len(slides))}
    return {
        "check": every,
        "tile": counts,
        "segment": counts,
        "crop": counts,
        "split": every,
        "embed": {
            f"{encoder}_{batch}": count * embedding(settings)
            for encoder, settings in config.encoders(study).items()
            for batch, count in counts.items()
        },
        "train": {batch: sum(map(cpu_seconds, specs)) for batch, specs in runs.items() if specs[0].trained},
        "baselines": {"all": float(untrained)} if untrained else {},
        "evaluate": {"all": float(sum(map(len, runs.values())))},
    }


def fit(start: float, jobs: Sequence[tuple[float, float]]) -> Rate:
    """The rate of jobs of (seconds, work), of which each spent ``start`` starting, or all if it took less."""
    start = min(start, *(seconds for seconds, _ in jobs))
    return Rate(start, sum(seconds - start for seconds, _ in jobs) / sum(work for _, work in jobs))


def embedding(encoder: Encoder) -> float:
    """Work of the frozen blocks on one cell, blocks x tokens x width squared."""
    tokens, width = geometry(encoder)
    if encoder.architecture is not None:
        depth = encoder.architecture.depth
    else:
        depth = next((blocks for size, blocks in DEPTHS.items() if size in str(encoder.model)), 12)
    return float(max(depth - encoder.trained_blocks, 1) * tokens * width**2)


def cpu_seconds(spec: RunSpec) -> float:
    """CPU seconds of a run by :mod:`myostage.cluster.estimate`."""
    return RUN_SECONDS + _steps(spec) * step_seconds(spec)


def gpu_seconds(spec: RunSpec) -> float:
    """GPU seconds of a run by :mod:`myostage.cluster.estimate`."""
    return RUN_SECONDS + _steps(spec) * max(step_seconds(spec) / GPU_SPEED, GPU_STEP_SECONDS)


def _steps(spec: RunSpec) -> int:
    return spec.training.steps * (2 if spec.head_afterwards else 1)


def table(results: Sequence[Result]) -> str:
    """The results as aligned text, one row per `runs_per_job`."""
    rows = [
        (
            "runs/job",
            "training jobs",
            "all jobs",
            "makespan, min",
            "GPU h asked",
            "GPU h idle",
            "idle",
            "starting",
        )
    ]
    rows += [
        (
            f"{found.runs_per_job}",
            f"{found.training_jobs}",
            f"{found.jobs}",
            f"{found.makespan / 60:.1f}",
            f"{found.gpu_seconds / 3600:.2f}",
            f"{found.gpu_idle_seconds / 3600:.2f}",
            f"{found.gpu_idle_share:.0%}",
            f"{found.start_share:.0%}",
        )
        for found in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows
    )


def advice(results: Sequence[Result]) -> str:
    """Which `runs_per_job` to take, in one sentence."""
    found = best(results)
    text = f"Take jobs.runs_per_job: {found.runs_per_job}: its makespan, {duration(found.makespan)}, is "
    if not found.gpu_seconds:
        return text + "the smallest."
    return text + (
        f"within {100 * TOLERANCE:g} % of the smallest, and of those that are it asks for the fewest "
        f"GPU hours, {found.gpu_seconds / 3600:.2f}."
    )


def basis(timings: Timings, gpus: int, snakemake_seconds: float) -> str:
    """What of the schedule was measured and what was assumed."""
    rates = timings.rates
    slide = ", ".join(f"{rule} {rates[rule].each:.2f} s" for rule in ("check", "tile", "segment", "crop"))
    text = (
        f"Measured on {timings.study}, on one core, beside the start: per slide {slide}, embed "
        f"{1e6 * rates['embed'].each:.2f} s per million of blocks x tokens x width^2; per run evaluate "
        f"{rates['evaluate'].each:.2f} s; a training run {rates['train'].each:.2f} times its estimate; "
        f"{len(timings.figures)} figures of {sum(timings.figures) / len(timings.figures):.0f} s.\n"
        f"Assumed: {rates['train'].start:.0f} s until a training job has imported torch and "
        f"{snakemake_seconds:g} s until Snakemake has started on a node; slides and cells per slide as "
        "there; "
    )
    text += (
        f"on a GPU segment and embed {GPU_SPEED:g} times as fast as on a core, and training as estimated for "
        f"a core, {GPU_SPEED:g} times as fast too, but no step below {GPU_STEP_SECONDS * 1e3:g} ms.\n"
        if gpus
        else "no GPU, so every job takes one core.\n"
    )
    return text + (
        "Left out: Cellpose and encoders that the study trains itself, and small jobs beside the chain "
        "(labels, checks of bags, stages, export, geometry, summary)."
    )

"""Simulate the schedule of a study on a cluster, for several numbers of runs per training job.

python scripts/schedule.py config/paper.yaml --gpus 8 --cores 64
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from myostage.cluster import schedule
from myostage.cluster.estimate import JOB_SECONDS
from myostage.errors import UserError
from myostage.study import config


def _at_least(text: str, least: int) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is less than {least}")
    return value


def _natural(text: str) -> int:
    return _at_least(text, 0)


def _positive(text: str) -> int:
    return _at_least(text, 1)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no duration in seconds")
    return value


def _sizes(text: str) -> list[int]:
    return sorted({_positive(part) for part in text.split(",")})


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, which value to take, and what was measured and assumed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", help="name of a study in config/, or its YAML file")
    parser.add_argument(
        "--timings",
        default="results/demo/benchmarks",
        help="{results}/{study}/benchmarks of a study that has run on cores (%(default)s)",
    )
    parser.add_argument("--gpus", type=_natural, default=8, help="GPUs, one per GPU job (%(default)s)")
    parser.add_argument("--cores", type=_positive, default=64, help="slots of all other jobs (%(default)s)")
    parser.add_argument(
        "--runs-per-job",
        type=_sizes,
        default=list(schedule.RUNS_PER_JOB),
        help="values to compare, separated by commas (powers of 2 up to 64)",
    )
    parser.add_argument(
        "--start-seconds",
        type=_seconds,
        default=JOB_SECONDS,
        help="seconds until a job has imported torch (%(default)s)",
    )
    parser.add_argument(
        "--snakemake-seconds",
        type=_seconds,
        default=schedule.SNAKEMAKE_SECONDS,
        help="seconds until Snakemake has started on a node and read the rules (%(default)s)",
    )
    parser.add_argument(
        "--wait", type=_seconds, default=0.0, help="seconds that every job waits in the queue (%(default)s)"
    )
    given = parser.parse_args(arguments)
    named = given.study.endswith((".yaml", ".yml"))
    file = Path(given.study) if named else Path("config") / f"{given.study}.yaml"
    timings = schedule.measured(given.timings, given.start_seconds)
    study = config.load_study(file, files=False)
    results = []
    for size in given.runs_per_job:
        jobs = schedule.build(study, size, timings, given.gpus, given.snakemake_seconds)
        results.append(schedule.result(size, jobs, given.gpus, given.cores, given.wait))
    print(
        f"{study.study} on {given.gpus} GPUs and {given.cores} slots for other jobs, {given.wait:g} s in the "
        "queue per job:\n"
    )
    print(f"{schedule.table(results)}\n")
    print(f"{schedule.advice(results)}\n")
    print(schedule.basis(timings, given.gpus, given.snakemake_seconds))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))

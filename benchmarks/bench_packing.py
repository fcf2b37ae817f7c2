"""Time that a GPU waits for jobs to start, by the number of training runs that share a job.

    python benchmarks/bench_packing.py [--runs-per-job 1,2,4,8]

Writes benchmarks/results/packing.json. A study of four drawn slides is made up to its tokens; then its 8
training runs are done in jobs of 1, 2, 4 and 8 runs, one job at a time, as one GPU does them. The same
runs are trained every time, from the same copy. Told are the wall seconds of Snakemake, their ratio to one
run per job, and what training itself took by the outcome of the runs; the rest is the start of jobs, when a
GPU waits.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.tiny import SNAKEMAKE, lay_out, study  # noqa: E402

SEEDS = [0, 1, 2, 3]


def content(runs_per_job: int, steps: int) -> dict[str, Any]:
    """The study: one experiment, 2 folds x 4 seeds."""
    small = study()
    small["experiments"] = [{"name": "combined", "losses": {"simprop": 1, "prop": 1}}]
    small["training"] |= {"steps": steps, "checkpoint_every": steps}
    small["seeds"] = SEEDS
    small["jobs"] |= {"runs_per_job": runs_per_job}
    return small


def snakemake(folder: Path, *arguments: str) -> float:
    """Wall seconds."""
    where = ["--directory", str(folder), "--configfile", str(folder / "study.yaml"), "--cores", "2"]
    started = time.perf_counter()
    subprocess.run(
        [*SNAKEMAKE, *arguments, "--resources", "gpu=1", *where, "--quiet", "all"], check=True, cwd=ROOT
    )
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs-per-job", default="1,2,4,8")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "packing.json")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary) / "base"
        base.mkdir()
        lay_out(base, content(1, arguments.steps))
        snakemake(base, "tables", "--omit-from", "train")
        for size in map(int, arguments.runs_per_job.split(",")):
            folder = Path(temporary) / str(size)
            shutil.copytree(base, folder)
            lay_out(folder, content(size, arguments.steps))
            wall = snakemake(folder, "tables", "--until", "train")
            outcomes = [pd.read_parquet(file) for file in folder.glob("results/tiny/runs/*/outcome.parquet")]
            trained = float(pd.concat(outcomes)["seconds"].sum())
            jobs = len(list(folder.glob("results/tiny/made/train/*.json")))
            rows.append(
                {
                    "runs_per_job": size,
                    "jobs": jobs,
                    "runs": len(outcomes),
                    "wall_s": round(wall, 1),
                    "training_s": round(trained, 1),
                    "starting_share": round(1 - trained / wall, 3),
                    "ratio_to_one": round(rows[0]["wall_s"] / wall, 2) if rows else 1.0,
                }
            )
            print(json.dumps(rows[-1]))
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"cpu ({platform.machine()}), one job at a time",
        "steps": arguments.steps,
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

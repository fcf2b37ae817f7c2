"""What Snakemake needs to plan a study, and to start a job of it on a node, by the study's size.

    python benchmarks/bench_scale.py [--sizes 250x500,500x1000,1000x2000]

Writes benchmarks/results/scale.json and scale.png. The studies are tables and placeholders in a temporary
folder: no slide is opened, no job runs. Measured for every size, each in a process of its own:

dry-run
    ``snakemake --dry-run --quiet all`` from start to end: wall, CPU seconds and peak memory.
parse
    The command that an executor runs on a node for one training job (``--target-jobs ... --allowed-rules
    train --mode remote``), stopped when the rules are read: wall until then, and of it importing Snakemake,
    its own preparations, and reading the rules. Heavy modules that reading them asks for are listed; there
    should be none, although Snakemake itself imports pandas. The best of ``--repeats`` is taken.

The slope is that of log wall against log runs; 1 means that twice the study takes twice the time.
"""

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from myostage import palette  # noqa: E402
from myostage.figures.style import PNG_DPI, STYLE  # noqa: E402
from myostage.study.load import load_study  # noqa: E402
from myostage.study.plan import Plan  # noqa: E402

SIZES = ((250, 500), (500, 1000), (1000, 2000))
FOLDS, POINTS, GROUPS = 5, 20, 10
STAGES = ("damaged", "small_myotube", "large_myotube", "recovered", "intact")
# What a dry-run of the largest study may take, and reading the rules in any.
DRY_RUN_GOAL_S, DRY_RUN_GOAL_GB, PARSE_GOAL_S = 30.0, 1.0, 2.0
# What no rule may import: seconds, on every node, for nothing.
HEAVY = ("cellpose", "matplotlib", "pandas", "pyarrow", "scipy", "skimage", "sklearn", "timm", "torch")
# Snakemake with a clock around its Snakefile, which ends when that is read.
DRIVER = """
import builtins, json, os, sys, time

start = time.perf_counter()
from snakemake import cli
from snakemake.workflow import Workflow

imported, before, include = time.perf_counter(), set(sys.modules), Workflow.include
asked, load = set(), builtins.__import__

# Snakemake has loaded some modules already, so what the rules ask for is not seen in sys.modules alone.
def noted(name, *arguments, **options):
    asked.add(name.partition(".")[0])
    return load(name, *arguments, **options)

def timed(self, *arguments, **options):
    outermost, begun = not self.included_stack, time.perf_counter()
    builtins.__import__ = noted
    include(self, *arguments, **options)
    if outermost:
        end = time.perf_counter()
        found = {
            "import_s": imported - start,
            "prepare_s": begun - imported,
            "parse_s": end - begun,
            "rules": len(list(self.rules)),
            "by_snakemake": sorted({name.partition(".")[0] for name in before}),
            "by_parsing": sorted(asked),
        }
        with open(sys.argv[1], "w") as file:
            json.dump(found, file)
        os._exit(0)

Workflow.include = timed
cli.main(sys.argv[2:])
"""


@dataclass(frozen=True)
class Cost:
    """What a process and its children took: wall and CPU in seconds, the peak of the largest in MB."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


def write_study(folder: Path, slides: int, runs: int) -> Path:
    """Write a study of so many slides and runs, its tables and its placeholders; returns the study file.

    Raises
    ------
    ValueError
        The runs are no multiple of the folds.
    """
    points, rest = divmod(runs, FOLDS)
    if rest:
        raise ValueError(f"{runs} runs are no multiple of {FOLDS} folds")
    (folder / "slides").mkdir(parents=True)
    lines = ["slide\tpath\tgroup\tanimal"]
    for i in range(slides):
        file = folder / "slides" / f"s{i}.svs"
        file.write_bytes(b"placeholder")
        lines.append(f"s{i}\t{file}\td{i % GROUPS}\tm{i // 2}")
    (folder / "slides.tsv").write_text("\n".join(lines) + "\n")
    lines = ["\t".join(("group", *STAGES))]
    lines += [f"d{i}" + f"\t{1 / len(STAGES):g}" * len(STAGES) for i in range(GROUPS)]
    (folder / "proportions.tsv").write_text("\n".join(lines) + "\n")
    sigmas = [round(0.01 * (i + 1), 2) for i in range(POINTS)]
    study = {
        "study": "scale",
        "results": str(folder / "results"),
        "stages": list(STAGES),
        "proportions": str(folder / "proportions.tsv"),
        "slides": str(folder / "slides.tsv"),
        "segmentation": {"model": "cyto3", "diameter_um": 40},
        "encoder": {"model": "vit_base_patch8_224.dino", "weights": "none"},
        "folds": FOLDS,
        "seeds": [0],
        "experiments": [
            {
                "name": f"e{i}",
                "losses": {"simprop": 1, "prop": 1},
                # another number of bins makes them other runs
                "training": {"bins": 4 + i},
                "vary": {"sigma": sigmas[: points - i * POINTS]},
            }
            for i in range(math.ceil(points / POINTS))
        ],
        "jobs": {"slides_per_job": 8, "runs_per_job": 8},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return file


def run(command: Sequence[str], folder: Path) -> Cost:
    """Run a command in ``folder`` to its end; RuntimeError with its last lines where it fails."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - begun
        output.seek(0)
        said = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{said[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, said)


def dry_run(study: Path, quiet: str) -> Cost:
    """Plan the whole study."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    return run([*command, "--configfile", str(study), "--dry-run", "--quiet", quiet], study.parent)


def parse(study: Path, batch: str) -> dict[str, Any]:
    """Start the job of a batch of runs as an executor does on a node, as far as the rules are read."""
    told = study.parent / "parse.json"
    command = [sys.executable, "-c", DRIVER, str(told), "--snakefile", str(ROOT / "Snakefile")]
    command += ["--configfile", str(study), "--target-jobs", f"train:batch={batch}"]
    command += ["--allowed-rules", "train", "--cores", "1", "--attempt", "1", "--force-use-threads"]
    taken = run([*command, "--nolock", "--mode", "remote"], study.parent)
    return {"wall_s": taken.wall_s, **json.loads(told.read_text())}


def measure(slides: int, runs: int, repeats: int) -> dict[str, Any]:
    """All numbers of one size."""
    with tempfile.TemporaryDirectory() as name:
        file = write_study(Path(name) / "study", slides, runs)
        study = load_study(file)
        batches = Plan(study).run_batches
        assert sum(map(len, batches.values())) == runs
        planned = dry_run(file, "all")
        # the same once more with its table of jobs, which `--quiet all` hides; not timed
        counted = re.search(r"^total\s+(\d+)$", dry_run(file, "rules").output, re.MULTILINE)
        assert counted, "the dry-run counts no jobs"
        parsed = min(
            (parse(file, next(iter(batches))) for _ in range(repeats)), key=lambda found: found["wall_s"]
        )
    return {
        "slides": slides,
        "runs": runs,
        "jobs": int(counted[1]),
        "rules": parsed["rules"],
        "dry_run_s": round(planned.wall_s, 1),
        "dry_run_cpu_s": round(planned.cpu_s, 1),
        "dry_run_peak_gb": round(planned.peak_mb / 1024, 3),
        "job_start_s": round(parsed["wall_s"], 2),
        "job_start_import_s": round(parsed["import_s"], 2),
        "job_start_prepare_s": round(parsed["prepare_s"], 2),
        "job_start_parse_s": round(parsed["parse_s"], 2),
        "parse_share": round(parsed["parse_s"] / parsed["wall_s"], 3),
        "heavy_modules_by_parsing": [module for module in HEAVY if module in parsed["by_parsing"]],
        "heavy_modules_by_snakemake": [module for module in HEAVY if module in parsed["by_snakemake"]],
    }


def slope(rows: Sequence[dict[str, Any]], number: str) -> float | None:
    """Slope of log ``number`` against log runs; None for a single size."""
    if len(rows) < 2:
        return None
    return round(
        float(np.polyfit(np.log([r["runs"] for r in rows]), np.log([r[number] for r in rows]), 1)[0]), 2
    )


def draw(rows: Sequence[dict[str, Any]], slopes: dict[str, float | None]) -> Figure:
    """Seconds against runs, both logarithmic, with the goals as dashed lines."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        runs = [row["runs"] for row in rows]
        series = {
            "dry_run_s": ("dry-run", "o", DRY_RUN_GOAL_S),
            "job_start_s": ("start of a job on a node", "s", None),
            "job_start_parse_s": ("reading the rules alone", "^", PARSE_GOAL_S),
        }
        for colour, (number, (label, marker, goal)) in zip(
            palette.series_colours(len(series)), series.items(), strict=True
        ):
            steep = "" if slopes[number] is None else f", slope {slopes[number]:.2f}"
            axes.loglog(runs, [row[number] for row in rows], marker + "-", color=colour, label=label + steep)
            if goal is not None:
                axes.axhline(goal, color=colour, linestyle="--", linewidth=0.8)
                axes.text(runs[0], goal * 1.05, f"goal, {goal:g} s", color=colour, fontsize="small")
        axes.set_xticks(runs, [f"{row['runs']}\n{row['slides']}" for row in rows])
        axes.minorticks_off()
        seconds = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
        low, high = axes.get_ylim()
        axes.set_yticks(seconds, [f"{value:g}" for value in seconds])
        axes.set_ylim(low, high)
        axes.set_xlabel("runs, and slides below")
        axes.set_ylabel("seconds")
        largest = rows[-1]
        axes.set_title(
            f"A study of {largest['slides']} slides and {largest['runs']} runs is planned in "
            f"{largest['dry_run_s']:.0f} s"
        )
        figure.legend(loc="outside lower center")
    return figure


def _sizes(text: str) -> list[tuple[int, int]]:
    pairs = [tuple(map(int, part.split("x"))) for part in text.split(",")]
    sizes = sorted((slides, runs) for slides, runs in pairs)
    if any(slides < 2 * max(FOLDS, GROUPS) or runs <= 0 or runs % FOLDS for slides, runs in sizes):
        raise argparse.ArgumentTypeError(
            f"sizes need at least {2 * max(FOLDS, GROUPS)} slides and a multiple of {FOLDS} runs"
        )
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sizes", type=_sizes, default=list(SIZES), help="slides x runs, as 250x500,500x1000"
    )
    parser.add_argument("--repeats", type=int, default=2, help="starts of a job, of which the best is taken")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "scale.json")
    arguments = parser.parse_args()
    rows = []
    for slides, runs in arguments.sizes:
        rows.append(measure(slides, runs, arguments.repeats))
        print(json.dumps(rows[-1]), flush=True)
    numbers = ("dry_run_s", "dry_run_cpu_s", "dry_run_peak_gb", "job_start_s", "job_start_parse_s")
    slopes = {number: slope(rows, number) for number in numbers}
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "snakemake": version("snakemake"),
        "sizes": rows,
        "slopes": slopes,
        "goals_of_the_largest": {
            f"dry_run_s < {DRY_RUN_GOAL_S:g}": rows[-1]["dry_run_s"] < DRY_RUN_GOAL_S,
            f"dry_run_peak_gb < {DRY_RUN_GOAL_GB:g}": rows[-1]["dry_run_peak_gb"] < DRY_RUN_GOAL_GB,
            f"job_start_parse_s < {PARSE_GOAL_S:g}": rows[-1]["job_start_parse_s"] < PARSE_GOAL_S,
            "no heavy modules by parsing": not rows[-1]["heavy_modules_by_parsing"],
        },
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    draw(rows, slopes).savefig(arguments.out.with_suffix(".png"), dpi=PNG_DPI)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

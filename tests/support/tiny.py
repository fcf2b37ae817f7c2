"""A study so small that it runs in a minute or two: four drawn slides, a small encoder, few steps."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
STAGES = ["damaged", "small_myotube", "large_myotube", "recovered", "intact"]


def study() -> dict[str, Any]:
    return {
        "study": "tiny",
        "stages": STAGES,
        "proportions": "proportions.tsv",
        "slides": "slides.tsv",
        "phantom": {"seed": 7, "width_um": 300, "height_um": 260},
        "tiling": {"mpp": 1.0, "overlap_px": 96},
        "segmentation": {"model": str(ROOT / "config/demo/cellpose.pt")},
        "encoder": {
            "model": None,
            "architecture": {"patch_px": 8, "width": 96, "depth": 4, "heads": 3},
            "weights": str(ROOT / "config/demo/encoder.safetensors"),
            "pos_embed": "timm",
        },
        "training": {"steps": 6, "bag_size": 12, "checkpoint_every": 2},
        "folds": 2,
        "seeds": [0],
        "experiments": [
            {"name": "combined", "losses": {"simprop": 1, "prop": 1}},
            {"name": "simprop", "losses": {"simprop": 1}},
            {"name": "majority", "method": "majority"},
            {
                "name": "grid",
                "losses": {"simprop": 1, "prop": 1},
                "vary": {"sigma": [0.1, 0.3]},
                "part": "grid",
            },
            {
                "name": "dino",
                "losses": {"prop": 1},
                "training": {"unfreeze": "none"},
                "encoder": {"dino": {"steps": 3, "batch_size": 8, "prototypes": 32, "local_crops": 1}},
                "baseline": True,
            },
            {"name": "diverging", "losses": {"prop": 1}, "training": {"learning_rate": 1e30}},
            {"name": "absent", "losses": {"prop": 1}, "encoder": {"weights": "absent.pth"}},
        ],
        "compare": {"reference": "combined"},
        "jobs": {"slides_per_job": 4, "runs_per_job": 4, "threads": 1},
    }


def lay_out(folder: Path, content: dict[str, Any]) -> None:
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    (folder / "proportions.tsv").write_text(
        "group\t" + "\t".join(STAGES) + "\nd0\t0\t0\t0\t0\t1\nd5\t0.17\t0.28\t0.55\t0\t0\n"
    )
    rows = [
        f"{g}{a}\tphantom/{g}{a}.tif\t{g}\t{g}{a}\tphantom/{g}{a}.geojson" for g in ("d0", "d5") for a in "ab"
    ]
    (folder / "slides.tsv").write_text("slide\tpath\tgroup\tanimal\tannotations\n" + "\n".join(rows) + "\n")


def command(folder: Path, *targets_and_options: str) -> list[str]:
    settings = ["--directory", str(folder), "--configfile", str(folder / "study.yaml"), "--cores", "2"]
    return [*SNAKEMAKE, *targets_and_options, "--resources", "gpu=2", *settings]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, *arguments), capture_output=True, text=True, cwd=ROOT)

"""A study so small that it runs in minutes: four drawn slides, a small encoder, few steps."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from myostage.study.expand import expand
from myostage.study.run import RunSpec
from myostage.study.sections.study import Study

ROOT = Path(__file__).parents[2]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
# a column that nothing uses
TREATMENT = {"d0a": "none", "d0b": "drug", "d5a": "none", "d5b": "drug"}
STAGES = ["damaged", "small_myotube", "large_myotube", "recovered", "intact"]


def study() -> dict[str, Any]:
    """Experiments of cells and of slides, so that a single run of it shows every rule at work."""
    both, slide = {"simprop": 1, "prop": 1}, {"method": "slide", "part": "attention"}
    return {
        "study": "tiny",
        "stages": STAGES,
        "proportions": "proportions.tsv",
        "slides": "slides.tsv",
        "healthy": {"groups": ["d0"], "stages": ["intact"]},
        "slide_labels": {
            "injured": {"kind": "binary", "classes": {"well": ["d0"], "injured": ["d5"]}},
            "day": {"kind": "ordinal", "column": "day", "classes": {"early": ["0"], "late": ["5"]}},
        },
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
            {"name": "combined", "losses": both},
            {"name": "simprop", "losses": {"simprop": 1}},
            {"name": "majority", "method": "majority"},
            {"name": "grid", "losses": both, "vary": {"sigma": [0.1, 0.3]}, "part": "grid"},
            {
                "name": "dino",
                "losses": {"prop": 1},
                "training": {"unfreeze": "none"},
                "encoder": {"dino": {"steps": 3, "batch_size": 8, "prototypes": 32, "local_crops": 1}},
                "baseline": True,
            },
            {"name": "diverging", "losses": {"prop": 1}, "training": {"learning_rate": 1e30}},
            {"name": "absent", "losses": {"prop": 1}, "encoder": {"weights": "absent.pth"}},
            {"name": "long", "losses": both, "training": {"steps": 200, "checkpoint_every": 4}},
            {"name": "prop", "losses": {"prop": 1}},
            {"name": "smooth", "losses": {"prop": 1}, "training": {"smooth": "logits"}},
            {"name": "rebuilt", "losses": {"prop": 1, "spatial_reconstruction": 1}},
            {
                "name": "terms",
                "losses": {"mse": 1, "dist": 1, "supcr": 1, "cell": 1},
                "training": {"steps": 12},
                "vary": {"score": ["expected_stage", "score"]},
                "part": "regression",
            },
            {"name": "abmil", "mil": {"model": "abmil"}, **slide},
            {"name": "smap", "vary": {"mil.placement": ["early", "late"]}, **slide},
            {"name": "by_day", "mil": {"label": "day"}, **slide},
            {"name": "slide_diverging", "training": {"learning_rate": 1e30}, **slide},
            {"name": "srmil", "mil": {"model": "srmil", "width": 4}, "method": "slide", "part": "spatial"},
        ],
        "compare": {"reference": "combined", "slides": "abmil"},
        "jobs": {"slides_per_job": 4, "runs_per_job": 4, "threads": 1},
    }


def of_cells(*experiments: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The study with these experiments alone, none of them of slides."""
    return study() | {"experiments": list(experiments), "compare": {}} | changes


def runs(content: dict[str, Any]) -> dict[str, list[RunSpec]]:
    """Runs of each experiment of a study."""
    return expand(Study(**content))


def lay_out(folder: Path, content: dict[str, Any]) -> Path:
    """Write the study file and its tables; the study file."""
    (folder / "proportions.tsv").write_text(
        "group\t" + "\t".join(STAGES) + "\nd0\t0\t0\t0\t0\t1\nd5\t0.1\t0.15\t0.25\t0\t0.5\n"
    )
    rows = [["slide", "path", "group", "animal", "annotations", "day", "score", "border", "treatment"]]
    for name, score, border in (
        ("d0a", 0, ""),
        ("d0b", 0, ""),
        ("d5a", 0.4, "sharp"),
        ("d5b", 0.6, "diffuse"),
    ):
        files = f"phantom/{name}.tif", f"phantom/{name}.geojson"
        rows.append([name, files[0], name[:2], name, files[1], name[1], str(score), border, TREATMENT[name]])
    (folder / "slides.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    return write(folder / "study.yaml", content)


def write(path: Path, content: dict[str, Any]) -> Path:
    """Write a study file."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))  # the order of classes means something
    return path


def command(folder: Path, *targets_and_options: str) -> list[str]:
    settings = ["--directory", str(folder), "--configfile", str(folder / "study.yaml"), "--cores", "2"]
    return [*SNAKEMAKE, *targets_and_options, "--resources", "gpu=2", *settings]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, *arguments), capture_output=True, text=True, cwd=ROOT)

"""Braces, spaces, umlauts, quotes and leading zeros in names and paths work, from slides to crops."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from myostage import tables
from myostage.cells.tables import CELLS, LABELS
from myostage.slides.tables import SLIDES
from support import tiny
from support.slide_files import write_pyramid

pytestmark = pytest.mark.workflow

REPOSITORY = ("Snakefile", "rules", "scripts", "config", "profiles", "envs", "notebooks")
FOLDER = "Läufe {x} <2>"
FILES = {"010": "010 {b} 'ä'.tif", "01": "{}#1 & 2;.tif", "1e3": 'no "quotes".tif', "no": "{batch}.tif"}


def test_odd_names_work_from_slides_to_crops(tmp_path: Path) -> None:
    repository, here = tmp_path / "mein répo", tmp_path / "mein lauf"
    for part in REPOSITORY:
        copy = shutil.copytree if (tiny.ROOT / part).is_dir() else shutil.copy
        (repository / part).parent.mkdir(parents=True, exist_ok=True)
        copy(tiny.ROOT / part, repository / part)
    (here / FOLDER).mkdir(parents=True)
    rows = ["slide\tpath\tgroup\tanimal\tannotations"]
    pixels = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    pixels[..., 2] //= 4
    for number, (name, file) in enumerate(FILES.items()):
        path = Path(FOLDER) / file
        write_pyramid(here / path, np.roll(pixels, number, 0), 1.0)
        outline = '[{"geometry": {"type": "Polygon", "coordinates": [[[9, 9], [60, 9], [60, 60], [9, 9]]]}}]'
        (here / path.with_suffix(".geojson")).write_text(outline)
        rows.append(
            f"{name}\t{path}\t{'007' if number < 2 else '07'}\t0{number}\t{path.with_suffix('.geojson')}"
        )
    (here / "tafel ü.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    shares = "group\t" + "\t".join(tiny.STAGES) + "\n007\t1\t0\t0\t0\t0\n07\t0\t0\t0\t0\t1\n"
    (here / "proportions.tsv").write_text(shares)
    content = tiny.study() | {"slides": "tafel ü.tsv", "results": "mein ordner ü", "phantom": None}
    content |= {"experiments": [{"name": "prop", "losses": {"prop": 1}}], "compare": {}, "slide_labels": {}}
    content["healthy"] = {"groups": ["07"], "stages": ["intact"]}
    tiny.write(here / "study.yaml", content)
    made = here / "mein ordner ü/tiny"
    target = "mein ordner ü/tiny/segmentation_quality.parquet"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "Snakefile"), target]
    settings = [
        "--until",
        "label",
        "crop",
        "--directory",
        str(here),
        "--configfile",
        str(here / "study.yaml"),
    ]
    result = subprocess.run(
        [*command, *settings, "--cores", "2"], capture_output=True, text=True, cwd=repository
    )
    assert result.returncode == 0, result.stderr[-4000:]
    found = tables.read(made / "checked.parquet", SLIDES).set_index("slide")
    assert found["path"].to_dict() == {name: f"{FOLDER}/{file}" for name, file in FILES.items()}
    assert found["group"].to_dict() == {"010": "007", "01": "007", "1e3": "07", "no": "07"}
    for name in FILES:
        tables.read(made / f"slides/{name}/cells.parquet", CELLS)
        tables.read(made / f"slides/{name}/labels.parquet", LABELS)

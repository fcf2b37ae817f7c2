"""Records are found by listing their folder, and cost the Snakefile no import of what draws them."""

import subprocess
import sys
from pathlib import Path

import pytest

from myostage.figures import record

SCRIPTS = Path(record.__file__).parents[2]
READ = "from myostage.figures.record import records; records()"
DRAW = f"{READ}; import myostage.report.drawing, myostage.figures.views, myostage.evaluation.algebra"
TORCH = {"torch", "torchvision", "timm", "lightly", "cellpose"}


@pytest.mark.parametrize(
    ("statement", "absent"), [(READ, TORCH | {"pandas", "matplotlib", "scipy"}), (DRAW, TORCH)]
)
def test_records_and_figures_are_light(statement: str, absent: set[str]) -> None:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPTS, check=True, capture_output=True, text=True
    )
    assert not absent & set(loaded.stdout.split())


def test_a_record_has_a_caption_for_the_report() -> None:
    assert len(record.records()) > 20
    for key, figure in record.records().items():
        assert figure.caption.endswith(".") and figure.category, key
        assert figure.endings[0] == ".png" and (".html" in figure.endings) == figure.tabular

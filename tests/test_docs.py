"""Pages name what is there, and the figure of the rooms is that of the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_in_backticks_are_there(page: Path) -> None:
    """Files of this repository; what a user writes is called mine in these pages."""
    named = re.findall(
        r"`((?:scripts|rules|tests|config|envs|profiles|docs|notebooks)/[\w./]+)`",
        page.read_text(encoding="utf-8"),
    )
    named = [name for name in named if "mine" not in name and name != "profiles/slurm/partitions.yaml"]
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_figure_of_the_rooms_is_that_of_the_code() -> None:
    drawn = subprocess.run(
        [sys.executable, ROOT / "docs/draw_architecture.py"], capture_output=True, text=True, check=True
    ).stdout
    assert drawn == (ROOT / "docs/architecture.svg").read_text(encoding="utf-8"), "run `make docs`"

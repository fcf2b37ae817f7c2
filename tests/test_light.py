"""What reads results and draws them loads no deep learning: a study's tables, figures and page stay quick."""

import ast
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"
LIGHT = (
    "summary",
    "baselines",
    "evaluate",
    "evaluate_slides",
    "evaluate_worlds",
    "world_summary",
    "headline",
    "localise",
    "algebra",
    "geometry",
    "collect",
)
HEAVY = ("torch", "timm", "torchvision")


def _imports(script: str) -> str:
    tree = ast.parse((SCRIPTS / f"{script}.py").read_text(encoding="utf-8"))
    lines = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert any("myostage" in line for line in lines), f"{script} imports nothing of the library"
    return "\n".join(lines)


def test_scripts_of_results_and_figures_load_no_deep_learning() -> None:
    figures = [f"import myostage.figures.{file.stem}" for file in (SCRIPTS / "myostage/figures").glob("*.py")]
    parts = {name: _imports(name) for name in LIGHT} | {"figures": "\n".join(figures)}
    parts["probe"] = "import myostage.learning.probe"
    # One after another in one process: the first that loads too much is the one to blame.
    check = f"loaded = sorted(set({HEAVY}) & sys.modules.keys())\nassert not loaded, (NAME, loaded)\n"
    code = "import sys\n" + "".join(
        f"{text}\n{check.replace('NAME', repr(name))}" for name, text in parts.items()
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=SCRIPTS)

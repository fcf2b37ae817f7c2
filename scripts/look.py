"""Draw the figures of a theme by its notebook, or one of them whose files are gone."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import papermill

from myostage import tables
from myostage.errors import UserError
from myostage.runtime import jobs, provenance, receipts

# what shapes a figure, beside its input files
SHAPING = ("key", "files", "parameters", "code")


def _as_rst(text: str) -> str:
    """The text as reStructuredText shows it, which would take |k - k'| for a substitution."""
    return text.replace("|", "\\|")


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    figures = smk.params.figures
    statements = {name: paths.study(f"figures/made/{name}.json") for name in figures}
    recipes = {
        name: provenance.recipe("look", {key: figure[key] for key in SHAPING}, figure["inputs"])
        for name, figure in figures.items()
    }
    waiting = [name for name in figures if not receipts.is_made(statements[name], recipes[name])]
    faults = draw(smk, {name: figures[name] for name in waiting}) if waiting else {}
    for name, figure in figures.items():
        with tables.atomic(paths.log("look", name).removesuffix(".log") + ".rst") as temporary:
            temporary.write_text(_as_rst(figure["caption"]) + "\n", encoding="utf-8")
    for name in waiting:
        if not faults.get(name, "the notebook ended before it was drawn"):
            jobs.write_json(statements[name], provenance.statement(recipes[name], figures[name]["outputs"]))
    failed: dict[str, list[str]] = {}
    for name, fault in faults.items():
        if fault:
            failed.setdefault(fault, []).append(name)
    if failed:
        each = "; ".join(f"{', '.join(names)} cannot be drawn: {fault}" for fault, names in failed.items())
        raise UserError(f"{each} (the others are there; see {_executed(smk)})")
    if smk.rule.startswith("look_"):
        jobs.write_json(smk.output[0], receipts.receipt("look", statements.items()))


def draw(smk: Any, figures: dict[str, Any]) -> dict[str, str]:
    """Draw figures by the notebook; returns why each failed, nothing (empty text) of those that are drawn."""
    # The kernel would compile every module that it imports once more.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes.json"
        try:
            nbformat.validate(nbformat.read(smk.input.notebook, as_version=4))
        except Exception as error:  # nbformat raises whatever it meets
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{smk.input.notebook}: not a readable notebook ({reason[:99]}); fetch the repository anew"
            ) from None
        papermill.execute_notebook(
            smk.input.notebook,
            _executed(smk),
            parameters={
                "scripts": str(provenance.LIBRARY.parent),
                "out": str(Path(jobs.paths(smk).study("figures")).resolve()),
                "figures": {
                    name: {key: figure[key] for key in ("key", "files", "parameters")}
                    for name, figure in figures.items()
                },
                "outcomes": str(outcomes),
            },
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
        )
        found: dict[str, str] = json.loads(outcomes.read_text(encoding="utf-8"))
    return found


def _executed(smk: Any) -> str:
    """The executed notebook, beside the log; no log itself, which Snakemake would print where a job fails."""
    return str(Path(smk.log[0]).with_suffix(".ipynb"))


jobs.run(snakemake, work)

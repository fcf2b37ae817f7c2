"""A study of worlds from its file to its page; what is added or changed runs alone."""

from pathlib import Path

import pandas as pd
import pytest

from support import drawn_worlds, tiny

pytestmark = pytest.mark.workflow


def states(folder: Path) -> dict[str, int]:
    """When the outcome of every run was written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in folder.glob("worlds/*/outcome.parquet")}


def test_from_the_study_file_to_the_page_and_again_with_an_experiment_more(tmp_path: Path) -> None:
    content = drawn_worlds.study()
    content["training"]["choose"] = {"vary": {"learning_rate": [1e-3, 1e-2]}, "parts": 2}
    content["experiments"][2]["training"] = {"choose": None}
    tiny.write(tmp_path / "study.yaml", content)
    done = tiny.run(tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    made = tmp_path / "results/worlds"
    before = states(made)
    assert len(before) == 2 * 2 * 4
    measured = pd.read_parquet(made / "worlds.parquet")
    assert measured["value"].notna().all()
    assert len(measured.drop_duplicates(["point", "experiment", "world"])) == 2 * 2 * 4
    compared = pd.read_parquet(made / "worlds_comparisons.parquet")
    assert set(compared["worlds"]) == {2}
    assert set(pd.read_parquet(made / "worlds_choices.parquet")["experiment"]) == {"prop", "combined"}
    for figure in ("regimes", "regimes_noise", "convergence"):
        assert (made / f"figures/{figure}.svg").exists()
    assert "combined against prop over noise" in (made / "summary.html").read_text(encoding="utf-8")
    # an experiment more, and a run that is gone
    gone = next(iter(before))
    (made / "worlds" / gone / "predictions.parquet").unlink()
    content["experiments"].append({"name": "simprop", "losses": {"simprop": 1}})
    tiny.write(tmp_path / "study.yaml", content)
    done = tiny.run(tmp_path, "results/worlds/worlds.parquet")
    assert done.returncode == 0, done.stderr[-4000:]
    after = states(made)
    assert len(after) == 2 * 2 * 5
    assert [name for name, time in before.items() if after[name] != time] == [gone]

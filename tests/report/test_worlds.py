"""The page and the figures of worlds say what the tables hold."""

from pathlib import Path
from typing import Any

import pandas as pd

from myostage.report import drawing, worlds
from myostage.study.sections.study import Study
from myostage.study.structure import Structure
from myostage.study.worlds import Worlds
from support import drawn_worlds


def facts(**changes: Any) -> worlds.Facts:
    content = drawn_worlds.study()
    content["experiments"] = content["experiments"][:3]
    known = Worlds(Study(**content)).facts
    tables = {"worlds": drawn_worlds.measured(), "comparisons": drawn_worlds.compared()}
    return worlds.Facts(
        **known
        | {"structure": Structure(**known["structure"]), "maps": drawn_worlds.MAPS}
        | tables
        | {"curves": drawn_worlds.curves(), "choices": None}
        | changes
    )


def test_sentences_say_gains_costs_and_what_could_have_been_found() -> None:
    (noise, both) = worlds.describe_regimes(facts(), "combined")
    assert noise.startswith("combined against prop over noise: gains at 1 of 3 points, most at overlap=1")
    assert "costs at 1 of 3 points, most at overlap=0.3" in noise
    assert "minimum detectable effect" in noise
    assert "costs at none of 6 points" in both


def test_what_was_run_is_counted_and_failed_runs_are_named() -> None:
    rows = drawn_worlds.measured()
    said = worlds.describe_run(facts(worlds=rows))
    assert said[0] == "3 experiments at 9 points of 2 maps, 8 independent worlds each: 216 runs."
    rows.loc[(rows["experiment"] == "combined") & (rows["world"] == 1), ["status", "value"]] = [
        "failed",
        None,
    ]
    assert worlds.describe_run(facts(worlds=rows))[-1].startswith("combined: 9 runs diverged")


def test_a_loss_that_still_falls_limits_what_is_said() -> None:
    first, second = worlds.describe_convergence(facts())
    assert "prop .0 %" in first
    assert second.startswith("The loss of combined still changes by more than 2 %")


def test_the_page_has_every_part_and_no_traceback_of_missing_ones(tmp_path: Path) -> None:
    choices = pd.DataFrame(
        {
            "experiment": ["prop"] * 2,
            "candidate": [0, 1],
            "settings": ["learning_rate 0.001", "learning_rate 0.003"],
            "divergence": [0.2, float("nan")],
            "slides": [6, 6],
            "chosen": [True, False],
        }
    )
    png = tmp_path / "regimes.png"
    figure = drawing.make(
        "regimes",
        {"comparisons": drawn_worlds.write(tmp_path).as_posix()},
        {"maps": drawn_worlds.MAPS, "metric": "accuracy", "alpha": 0.05, "shown": "combined"},
    )
    drawing.write(figure, png.with_suffix(""))
    worlds.write(tmp_path / "page.html", facts(choices=choices, figures=[("regimes", png)]))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for words in (
        "learning_rate 0.001, of 2 candidates",
        "Has training converged?",
        "overlap=1,mixing=0",
        "data:image",
    ):
        assert words in page


def test_the_overview_shows_one_experiment_over_every_map(tmp_path: Path) -> None:
    drawn = drawing.make(
        "regimes",
        {"comparisons": drawn_worlds.write(tmp_path).as_posix()},
        {"maps": drawn_worlds.MAPS, "metric": "accuracy", "alpha": 0.05, "shown": "combined"},
    )
    assert set(drawn.numbers["experiment"]) == {"combined"}
    assert len(drawn.numbers) == 9
    assert "gains at 2, costs at 1 of 9 points" in drawn.figure.get_suptitle().replace("\n", " ")
    hatched = [patch for axes in drawn.figure.axes for patch in axes.patches if patch.get_hatch()]
    # of the six points of the heat map all but the one with an effect
    assert len(hatched) == 5

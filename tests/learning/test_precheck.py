"""Folds that cannot teach a stage, and bags that nothing fills, are refused before a run trains."""

from pathlib import Path

import pandas as pd
import pytest

from myostage import tables
from myostage.errors import UserError
from myostage.learning import precheck
from myostage.learning.tables import SPLITS

STAGES = ["damaged", "recovered", "intact"]


def splits(path: Path, rows: list[tuple[str, str, int, int]]) -> Path:
    frame = pd.DataFrame(rows, columns=["slide", "group", "cells", "fold"]).assign(
        animal=lambda t: t["slide"]
    )
    tables.write(path, frame.astype({"cells": "int32", "fold": "int32"}), SPLITS)
    return path


def test_a_fold_that_holds_out_all_of_a_stage_is_refused(tmp_path: Path) -> None:
    given = {"d0": [0, 0, 1.0], "d3": [0.5, 0.5, 0]}
    rows = [("a", "d0", 50, 0), ("b", "d3", 50, 0), ("c", "d3", 50, 1)]
    path = splits(tmp_path / "splits.parquet", rows)
    with pytest.raises(UserError, match=r"fold 0 holds out every animal of group d0, .* stage intact"):
        precheck.check_folds(path, given, STAGES, source="slide", size=50)
    path = splits(tmp_path / "splits.parquet", [*rows, ("d", "d0", 50, 1)])
    assert precheck.check_folds(path, given, STAGES, source="slide", size=50) == {
        "fold 0": 100,
        "fold 1": 100,
    }


@pytest.mark.parametrize(
    ("source", "size", "fits"), [("slide", 50, True), ("slide", 51, False), ("group", 61, False)]
)
def test_a_bag_that_no_slide_or_group_fills_is_refused(
    tmp_path: Path, source: str, size: int, fits: bool
) -> None:
    given = {"d0": [0.5, 0.5, 0]}
    rows = [("a", "d0", 50, 0), ("b", "d0", 60, 1), ("c", "d0", 0, 1)]
    path = splits(tmp_path / "splits.parquet", rows)
    if fits:
        precheck.check_folds(path, given, STAGES, source=source, size=size)
    else:
        with pytest.raises(UserError, match=rf"bag_size is {size} cells, .*lower bag_size to \d+"):
            precheck.check_folds(path, given, STAGES, source=source, size=size)

"""Files appear complete or not at all, with the permissions that the user's umask leaves."""

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from myostage import tables
from myostage.phantom import paint
from myostage.runtime import jobs

TABLE = tables.Table("trial", "numbers", (tables.Column("n", tables.INT32, "", "a number"),))


def _write_table(path: Path) -> None:
    tables.write(path, pd.DataFrame({"n": np.arange(3, dtype=np.int32)}), TABLE)


def _write_json(path: Path) -> None:
    jobs.write_json(path, {"a": 1})


def _save_weights(path: Path) -> None:
    with tables.atomic(path) as temporary:
        save_file({"weight": torch.zeros(3)}, temporary)


def _save_checkpoint(path: Path) -> None:
    with tables.atomic(path) as temporary:
        torch.save({"step": 1}, temporary)


def _write_slide(path: Path) -> None:
    paint.write_tiff(path, np.zeros((512, 512, 3), np.uint8), 1.0)


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
@pytest.mark.parametrize("write", [_write_table, _write_json, _save_weights, _save_checkpoint, _write_slide])
def test_a_file_has_the_permissions_of_the_users_umask(
    tmp_path: Path, write: Any, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_file_before_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(RuntimeError), tables.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_what_the_slide_table_has_besides_is_carried_behind_the_columns_of_a_table(tmp_path: Path) -> None:
    columns = [tables.Column(name, tables.STRING, "", "") for name in ("slide", "sex")]
    table = tables.Table("mine", "a row per slide", tuple(columns), further=tables.STRING)
    frame = pd.DataFrame({"slide": ["a", "b", "a"], "sex": ["x", "y", "z"]})
    carried = {"a": {"treatment": "drug", "sex": "f"}, "b": {"treatment": ""}}
    tables.write(tmp_path / "mine.parquet", tables.carry(frame, carried), table)
    found = tables.read(tmp_path / "mine.parquet", table)
    assert list(found.columns) == ["slide", "sex", "treatment", "given_sex"]
    assert list(found.treatment) == ["drug", "", "drug"] and list(found.given_sex) == ["f", "", "f"]
    assert list(found.sex) == ["x", "y", "z"]

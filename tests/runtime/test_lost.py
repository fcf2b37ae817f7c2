"""Which jobs run because files of theirs are gone; tests/test_workflow.py deletes files of a study."""

import json
from pathlib import Path

import pytest

from myostage.errors import UserError
from myostage.runtime.lost import lost


@pytest.fixture
def jobs(tmp_path: Path) -> list[list[str]]:
    """Outputs of three jobs, all there: a table, the receipt of two files, one of which is another job's."""
    files = {name: tmp_path / name for name in ("table", "made/crop/a.json", "crops", "drawn")}
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    receipt = {"members": {}, "outputs": {str(files["crops"]): 0, str(files["drawn"]): 0}}
    files["made/crop/a.json"].write_text(json.dumps(receipt))
    return [[str(files["table"])], [str(files["made/crop/a.json"])], [str(files["drawn"])]]


def test_nothing_is_lost_where_all_is_there(jobs: list[list[str]]) -> None:
    assert lost(jobs) == set()


@pytest.mark.parametrize(
    ("gone", "found"),
    [
        ("table", "table"),
        ("made/crop/a.json", "made/crop/a.json"),
        ("crops", "made/crop/a.json"),
        ("drawn", "drawn"),
    ],
)
def test_an_output_and_a_file_behind_a_receipt_are_missed(
    tmp_path: Path, jobs: list[list[str]], gone: str, found: str
) -> None:
    (tmp_path / gone).unlink()
    assert lost(jobs) == {str(tmp_path / found)}


def test_a_damaged_receipt_is_named(jobs: list[list[str]]) -> None:
    Path(jobs[1][0]).write_text("{")
    with pytest.raises(UserError, match=r"a\.json: the receipt of a job is damaged"):
        lost(jobs)

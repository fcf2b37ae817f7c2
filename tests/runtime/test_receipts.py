"""What stands for the files of a job: when a member is whole, what is said of files that changed since."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from myostage.errors import UserError
from myostage.runtime import checksums, provenance, receipts

RECIPE: dict[str, Any] = {"rule": "tile", "specification": {"mpp": 0.5, "path": Path("a")}, "inputs": {}}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of which two slides are tiled, each with its statement."""
    for slide, size in (("a", 300), ("b", 700)):
        table = tmp_path / f"slides/{slide}/tiles.parquet"
        (table.parent / "made").mkdir(parents=True)
        table.write_bytes(b"x" * size)
        said = provenance.statement(RECIPE, [str(table)])
        (table.parent / "made/tile.json").write_text(provenance.to_json(said))
    return tmp_path


def statement(study: Path, slide: str) -> Path:
    return study / f"slides/{slide}/made/tile.json"


def receipt_of(study: Path, *slides: str) -> str:
    """The receipt of these slides, in a batch of their own."""
    path = study / f"made/tile/{''.join(slides)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = receipts.receipt("tile", [(slide, str(statement(study, slide))) for slide in slides])
    path.write_text(provenance.to_json(found))
    return str(path)


def test_a_member_of_the_same_recipe_is_there(study: Path) -> None:
    assert receipts.is_made(str(statement(study, "a")), RECIPE)
    again = {"inputs": {}, "specification": {"path": Path("a"), "mpp": 0.5}, "rule": "tile"}
    assert receipts.is_made(str(statement(study, "a")), again)


@pytest.mark.parametrize(
    "change", [{"rule": "segment"}, {"specification": {"mpp": 0.6}}, {"inputs": {"slide.svs": "sha256:1"}}]
)
def test_a_member_of_another_recipe_is_not_there(study: Path, change: dict[str, Any]) -> None:
    assert not receipts.is_made(str(statement(study, "a")), RECIPE | change)


@pytest.mark.parametrize("size", [None, 0, 299, 301])
def test_a_member_whose_file_is_gone_or_of_another_size_is_not_there(study: Path, size: int | None) -> None:
    table = study / "slides/a/tiles.parquet"
    if size is None:
        table.unlink()
    else:
        table.write_bytes(b"x" * size)
    assert not receipts.is_made(str(statement(study, "a")), RECIPE)
    assert receipts.is_made(str(statement(study, "b")), RECIPE)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", "{}", '{"outputs": [1]}', '{"outputs": null}', "\0\xff"]
)
def test_a_damaged_statement_says_nothing(study: Path, text: str) -> None:
    statement(study, "a").write_text(text, encoding="latin-1")
    assert not receipts.is_made(str(statement(study, "a")), RECIPE)


def test_without_a_statement_nothing_is_there(study: Path) -> None:
    assert not receipts.is_made(str(study / "slides/c/made/tile.json"), RECIPE)


def test_a_receipt_lists_members_and_files_and_follows_their_statements(study: Path) -> None:
    before = json.loads(Path(receipt_of(study, "a", "b")).read_text())
    assert before["rule"] == "tile" and list(before["members"]) == ["a", "b"]
    assert before["outputs"] == {
        str(study / f"slides/{slide}/tiles.parquet"): checksums.state(study / f"slides/{slide}/tiles.parquet")
        for slide in "ab"
    }
    statement(study, "b").write_text(statement(study, "b").read_text().replace("0.5", "0.6"))
    after = json.loads(Path(receipt_of(study, "a", "b")).read_text())
    assert after["members"]["a"] == before["members"]["a"]
    assert after["members"]["b"] != before["members"]["b"]


def test_receipts_joined_are_one_of_all_members(study: Path) -> None:
    joined = receipts.joined("tokens", [receipt_of(study, "a"), receipt_of(study, "b")])
    whole = receipts.read(receipt_of(study, "a", "b"))
    assert whole and joined == whole | {"rule": "tokens"}


@pytest.mark.parametrize("text", ["", '{"members": {', "\0\xff", '{"members": {}}', '{"outputs": 7}'])
def test_a_damaged_receipt_is_one_sentence(study: Path, text: str) -> None:
    path = Path(receipt_of(study, "a"))
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as caught:
        receipts.read(str(path))
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: the receipt of a job is damaged (")
    assert sentence.endswith("delete it and run the workflow again") and "\n" not in sentence


def test_a_receipt_that_is_not_there_is_not_there(study: Path) -> None:
    with pytest.raises(FileNotFoundError):
        receipts.read(str(study / "made/tile/c.json"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("precheck/slide_50.json", "damaged"),
        ("slides/a/tiles.parquet", "x"),
        ("made/by_hand/study/precheck/slide_50.json", '{"fold 0": 100}'),
        ("made/by_hand/outlines.json", "[]"),
    ],
)
def test_other_files_are_no_receipts(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert receipts.read(str(path)) is None
    receipts.verify([str(path)])
    assert receipts.gigabytes([str(path)]) == len(text) / 1e9


def test_files_that_a_receipt_stands_for_are_looked_for(study: Path) -> None:
    inputs = [str(study / "slides/a/tiles.parquet"), receipt_of(study, "a"), receipt_of(study, "b")]
    receipts.verify(inputs)
    table = study / "slides/b/tiles.parquet"
    table.write_bytes(b"x" * 699)
    for what, remedy in (("was changed", "delete it and run"), ("is gone", "run")):
        with pytest.raises(UserError) as caught:
            receipts.verify(inputs)
        assert str(caught.value) == f"{table} {what} since it was made; {remedy} the workflow again"
        table.unlink(missing_ok=True)
    receipts.verify(inputs[:2])


def test_gigabytes_count_what_a_receipt_stands_for(study: Path) -> None:
    plain = study / "slides/a/tiles.parquet"
    assert receipts.gigabytes([]) == 0
    assert receipts.gigabytes([str(plain), receipt_of(study, "a", "b")]) == pytest.approx(1300e-9)


def test_gigabytes_follow_a_file_that_changed(study: Path) -> None:
    path = Path(receipt_of(study, "a"))
    assert receipts.gigabytes([str(path)]) == pytest.approx(300e-9)
    path.write_text(Path(receipt_of(study, "b")).read_text())
    os.utime(path, ns=(1, 1))
    assert receipts.gigabytes([str(path)]) == pytest.approx(700e-9)


def test_gigabytes_of_what_is_not_there_yet_are_unknown(study: Path) -> None:
    with pytest.raises(FileNotFoundError):
        receipts.gigabytes([str(study / "made/tile/c.json")])

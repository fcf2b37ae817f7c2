"""What jobs ask a cluster for: the table, how amounts grow, and where they end."""

import re
from pathlib import Path
from typing import Any

import pytest

from myostage.cluster import needs
from myostage.cluster.needs import Need
from myostage.errors import UserError

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "config/resources.tsv"
HEAD = "rule\tmem_mb\tmem_mb_per_gb\tminutes\tminutes_per_gb\n"


@pytest.fixture
def gigabyte(tmp_path: Path) -> str:
    """A file of 1.5 GB, of which the disk holds nothing."""
    path = tmp_path / "tokens.parquet"
    with path.open("wb") as file:
        file.truncate(1_500_000_000)
    return str(path)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        needs.read_needs(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path)) and "\n" not in sentence
    return sentence


def test_the_table_is_read_by_rule(tmp_path: Path) -> None:
    path = tmp_path / "resources.tsv"
    path.write_text(f"# why\n{HEAD}# of this rule\ntile\t3000\t500\t15\t0.5\n\nsplit\t1e3\t0\t5\t0\n")
    assert needs.read_needs(path) == {"tile": Need(3000, 500, 15, 0.5), "split": Need(1000, 0, 5, 0)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (HEAD.replace("minutes\t", "") + "tile\t1\t1\t1\n", "column minutes is missing"),
        ((HEAD + "tile\t1\t1\t1\t1\n").replace("\t", "    "), "column rule is missing"),
        (HEAD + "tile\tmuch\t0\t1\t0\n", "rule tile needs a number of at least 0"),
        (HEAD + "split\t1\t0\t1\t0\ntile\t1\t0\t1\n", "rule tile needs a number"),
        (HEAD + "tile\t1\t\t1\t0\n", "rule tile needs a number"),
        (HEAD + "tile\t1\t-1\t1\t0\n", "rule tile needs a number"),
        (HEAD + "tile\t1\tnan\t1\t0\n", "rule tile needs a number"),
        (HEAD + "tile\tinf\t0\t1\t0\n", "rule tile needs a number"),
        (HEAD + "tile\t0\t1\t1\t0\n", "more than 0 in mem_mb and minutes"),
        (HEAD + "tile\t1\t1\t0\t1\n", "more than 0 in mem_mb and minutes"),
        (HEAD + "tile\t1\t0\t1\t0\ntile\t2\t0\t1\t0\n", "rule tile is there more than once"),
        (HEAD + "tile\t\xff\t0\t1\t0\n", "is not UTF-8"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "resources.tsv"
    path.write_text(text, encoding="latin-1")
    assert words in refusal(path)


def test_a_missing_table_or_rule_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "resources.tsv"
    assert "no such table" in refusal(path)
    path.write_text(f"{HEAD}crop\t1\t0\t1\t0\n")
    with pytest.raises(UserError, match=r"resources\.tsv: rule tile has no row; take it from the repository"):
        needs.read_needs(path)["tile"]


def asked(need: Need, *files: str, attempt: int = 1, times: int = 1, **most: int) -> tuple[int, int]:
    """MB and minutes of a job."""
    limits: dict[str, Any] = {"max_mem_mb": 10**6, "max_runtime": 10**6} | most
    found = needs.scaled(need, **limits, times=times)
    amounts = found["mem_mb"](None, files, attempt), found["runtime"](None, files, attempt)
    assert all(isinstance(amount, int) for amount in amounts)
    return amounts


def test_both_grow_with_the_input(gigabyte: str) -> None:
    need = Need(1000, 100, 10, 3)
    assert asked(need) == (1000, 10)
    assert asked(need, gigabyte) == (1150, 15)  # 14.5 minutes are 15
    assert asked(need, gigabyte, gigabyte) == (1300, 19)


def test_another_attempt_asks_for_more_of_both(gigabyte: str) -> None:
    assert asked(Need(1000, 100, 10, 2), gigabyte, attempt=3) == (3450, 39)


def test_runs_in_turn_take_their_time_one_after_another(gigabyte: str) -> None:
    assert asked(Need(1000, 100, 10, 2), gigabyte, times=4) == (1150, 52)


def test_no_job_asks_for_more_than_the_cluster_has(gigabyte: str) -> None:
    need = Need(1000, 100, 10, 2)
    assert asked(need, gigabyte, attempt=3, max_mem_mb=2000) == (2000, 39)
    assert asked(need, gigabyte, attempt=3, max_runtime=20) == (3450, 20)
    assert asked(need, max_mem_mb=500, max_runtime=5) == (500, 5)


def test_what_an_input_that_is_not_there_asks_for_is_left_to_snakemake(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        asked(Need(1, 1, 1, 1), str(tmp_path / "later.parquet"))


def test_the_table_that_comes_with_the_project_names_every_rule_and_no_other() -> None:
    text = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert set(needs.read_needs(TABLE)) == set(re.findall(r'\bneeds\("(\w+)"', text))

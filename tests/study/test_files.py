"""Files that are the same as others, by another path or by content."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from myostage.study import files
from myostage.study.files import SAMPLE, copies


def write(folder: Path, *contents: bytes) -> dict[str, str]:
    for number, content in enumerate(contents):
        (folder / f"{number}.tif").write_bytes(content)
    return {str(number): str(folder / f"{number}.tif") for number in range(len(contents))}


def test_links_and_spellings_are_the_same_file(tmp_path: Path) -> None:
    named = write(tmp_path, b"one", b"two")
    (tmp_path / "soft").symlink_to(tmp_path / "0.tif")
    os.link(tmp_path / "0.tif", tmp_path / "hard")
    named |= {"soft": f"{tmp_path}/soft", "hard": f"{tmp_path}/hard", "dots": f"{tmp_path}/./1.tif"}
    assert list(copies(named)) == [
        ("soft", "0", "the same file as"),
        ("hard", "0", "the same file as"),
        ("dots", "1", "the same file as"),
    ]


def test_equal_bytes_are_a_copy_wherever_other_bytes_differ(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(10 * SAMPLE)
    changed = bytearray(content)
    changed[3 * SAMPLE] ^= 1  # between the samples
    named = write(tmp_path, content, content[1:], bytes(changed), content)
    assert list(copies(named)) == [("3", "0", "a copy of")]


def test_files_of_a_size_of_their_own_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_sample", pytest.fail)
    assert not list(copies(write(tmp_path, b"1", b"22", b"333")))


def test_a_thousand_slides_of_one_size_take_a_moment(tmp_path: Path) -> None:
    named = {}
    for number in range(1000):
        with (tmp_path / f"{number}.svs").open("wb") as stream:
            stream.write(number.to_bytes(4))
            stream.truncate(2**30)  # a gigabyte, of holes
        named[str(number)] = str(tmp_path / f"{number}.svs")
    begin = time.process_time()
    assert not list(copies(named))
    assert time.process_time() - begin < 5

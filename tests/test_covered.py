"""What decides whether CI runs the tests of a cluster and of real slides again."""

import shutil
from pathlib import Path

import pytest

from support import covered


@pytest.mark.parametrize("name", covered.TESTS)
def test_every_pattern_names_files_and_a_change_of_each_is_noticed(name: str, tmp_path: Path) -> None:
    tests = covered.TESTS[name]
    before = covered.digest(tests)
    for pattern in tests.code + tests.files:
        file = next(path for path in sorted(covered.ROOT.glob(pattern)) if path.is_file())
        copy = tmp_path / file.relative_to(covered.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
        one = tests._replace(code=(), files=(pattern,))
        unchanged = covered.digest(one, tmp_path)
        copy.write_bytes(copy.read_bytes() + b"\nchanged = 1\n")
        assert covered.digest(one, tmp_path) != unchanged
    assert covered.digest(tests) == before


def test_only_tests_that_ran_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = tmp_path / "covered.json"
    noted.write_text("{}\n")
    monkeypatch.setattr(covered, "PASSED", noted)
    skipped = covered.TESTS["slurm"]._replace(unavailable=lambda: "no SLURM here")
    monkeypatch.setitem(covered.TESTS, "slurm", skipped)
    assert covered.main("slurm", passed=True) == 0 and covered.main("slurm", passed=False) == 1
    monkeypatch.setitem(covered.TESTS, "slurm", skipped._replace(unavailable=lambda: ""))
    assert covered.main("slurm", passed=True) == 0 and covered.main("slurm", passed=False) == 0
    assert covered.main("real", passed=False) == 1

"""Bad inputs are refused before anything runs: one sentence that says what, where and what to do.

The cases are data: the tables `*.yaml` beside this file. A case changes the sound study of `base/`:

case      what is wrong, in words
set       keys of the study file by their path (`training.steps`), with another value
edit      file: [what stands in it, what is put there]
text      file: its whole text
put       file: the file of `inputs/` that takes its place
link      file: where a symbolic link at its place points to
by        plan (the default): Snakemake's dry-run; folder: what `make` asks before Snakemake reads the file
study     name of the study file, if it is not study.yaml
refused   what the sentence says, as it is printed
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import dry_run, tiny

HERE = Path(__file__).parent
CASES = [
    pytest.param(case, id=f"{table.stem}: {case['case']}")
    for table in sorted(HERE.glob("*.yaml"))
    for case in yaml.safe_load(table.read_text(encoding="utf-8"))
]
KEYS = {"case", "set", "edit", "text", "put", "link", "by", "study", "refused"}
# what Snakemake prints around the sentence of a WorkflowError
AROUND = re.compile(
    r"Using workflow specific profile .*|WorkflowError in file .*|  File .*, in <module>|Host: .*"
)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(HERE / "base", tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")


def change(case: dict[str, Any]) -> Path:
    """The study file of a case, laid out in this folder."""
    assert case.keys() <= KEYS, f"unknown keys {case.keys() - KEYS}"
    if "set" in case:
        content = yaml.safe_load(Path("study.yaml").read_text())
        for path, value in case["set"].items():
            *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
            place: Any = content
            for part in parents:
                place = place[part] if isinstance(place, list) else place.setdefault(part, {})
            place[last] = value
        tiny.write(Path("study.yaml"), content)
    for name, (old, new) in case.get("edit", {}).items():
        text = Path(name).read_text()
        assert old in text, f"{old!r} is not in {name}"
        Path(name).write_text(text.replace(old, new, 1))
    for name, text in case.get("text", {}).items():
        Path(name).write_text(text)
    for name, file in case.get("put", {}).items():
        shutil.copy(HERE / "inputs" / file, name)
    for name, place in case.get("link", {}).items():
        Path(name).unlink(missing_ok=True)
        Path(name).symlink_to(place)
    return Path(case.get("study", "study.yaml"))


def refusal(study: Path, by: str) -> list[str]:
    """The sentences by which the study is refused."""
    if by == "plan":
        printed = dry_run.refusal(tiny.ROOT / "Snakefile", Path.cwd(), study)
        return [line for line in printed.splitlines() if not AROUND.fullmatch(line)]
    assert by == "folder", f"by {by} is no way to read a study"
    command = [sys.executable, str(tiny.ROOT / "scripts/study_folder.py"), str(study)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and not done.stdout
    return done.stderr.splitlines()


def test_the_study_that_the_cases_change_is_sound() -> None:
    assert dry_run.plan(tiny.ROOT / "Snakefile", Path.cwd(), Path("study.yaml")).jobs


@pytest.mark.parametrize("case", CASES)
def test_a_bad_input_is_refused_in_a_sentence(case: dict[str, Any]) -> None:
    printed = refusal(change(case), case.get("by", "plan"))
    assert len(printed) == 1, printed
    assert case["refused"] in printed[0]
    assert "Traceback" not in printed[0]


@pytest.mark.parametrize("name", ["pipe", "loop", "folder", "nothing.yaml"])
def test_what_is_no_file_is_no_study(name: str) -> None:
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("folder").mkdir()
    (printed,) = refusal(Path(name), "folder")
    assert printed.startswith(f"{name}: ") and re.search("name a|no such study file", printed)


# --- nothing that a study file says is executed -------------------------------------------------------------


HARM = "touch harmed"
TEMPLATE = """__use_yte__: true
__definitions__: ["import pathlib; pathlib.Path('harmed').touch()"]
study: ?str(pathlib.Path("harmed").touch())
"""


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """`make` whose Snakemake, and whose Python but for the study's folder, write down what they are given."""
    asked = tmp_path / "asked"
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    note = f'for word in "$0" "$@"; do printf "%s\\n" "$word" >> "{asked}"; done'
    (bin_ / "snakemake").write_text(f"#!/bin/sh\n{note}\n")
    (bin_ / "python").write_text(
        f'#!/bin/sh\ncase "$1" in *study_folder.py) exec "{sys.executable}" "$@";; *) {note};; esac\n'
    )
    for program in bin_.iterdir():
        program.chmod(0o755)

    def run(study: Path, target: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        asked.unlink(missing_ok=True)
        # -o: what is installed is not looked at
        command = ["make", "-C", str(tiny.ROOT), "-o", ".venv/installed", target, f"BIN={bin_}"]
        command += [f"STUDY={study.resolve()}", "CORES=1", "GPUS=1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        harmed = [folder / "harmed" for folder in (Path.cwd(), tiny.ROOT) if (folder / "harmed").exists()]
        for file in harmed:
            file.unlink()
        assert not harmed, "something in the study file was run"
        return done, asked.read_text().splitlines() if asked.exists() else []

    return run


@pytest.mark.parametrize("target", ["study", "cluster-check"])
@pytest.mark.parametrize(
    "results",
    [
        f"$({HARM})", f"`{HARM}`", f"x; {HARM}", f"'; {HARM} #", f'"; {HARM}; "', f"$$({HARM})",
        f"x && {HARM}",
        f"$(shell {HARM})", f"x\n{HARM}", f"x | {HARM}", f"-x; {HARM}", "two words", "it's", "x  # y",
    ],
)  # fmt: skip
def test_make_runs_nothing_that_a_study_file_says(make: Any, target: str, results: str) -> None:
    content = yaml.safe_load(Path("study.yaml").read_text())
    for key in ("study", "results"):
        study = tiny.write(Path(f"{key}.yaml"), content | {key: results})
        done, asked = make(study, target)
        assert done.returncode == 0, done.stderr
        assert str(study.resolve()) in asked or target == "cluster-check"
        if target == "study" and "\n" not in results:
            folder = f"./{results}/attacked" if key == "results" else f"./results/{results}"
            assert f"{folder}/report.zip" in asked


@pytest.mark.parametrize("target", ["study", "plan", "report", "cluster-check"])
def test_make_refuses_a_template_before_snakemake_reads_it(make: Any, target: str) -> None:
    Path("study.yaml").write_text(TEMPLATE)
    done, asked = make(Path("study.yaml"), target)
    assert done.returncode != 0 and not asked
    assert "__use_yte__ asks Snakemake to run what the file says" in done.stderr


def test_make_says_of_a_mistyped_study_what_to_correct(make: Any) -> None:
    done, asked = make(Path("stduy.yaml"), "study")
    assert done.returncode != 0 and not asked
    assert done.stderr.splitlines()[0].endswith(
        "stduy.yaml: no such study file; correct the path, or write it"
    )


def test_a_comment_or_a_space_is_no_part_of_a_studys_name(make: Any) -> None:
    text = Path("study.yaml").read_text().replace("study: attacked", "study:   'attacked'  # mine")
    study = Path("my study's file.yaml")
    study.write_text(text)
    done, asked = make(study, "report")
    assert done.returncode == 0 and asked[-1] == "./results/attacked/report.zip"
    assert str(study.resolve()) in asked


@pytest.mark.parametrize(
    "name", [f"$(shell {HARM}).yaml", f"$({HARM}).yaml", f"`{HARM}`.yaml", f"x; {HARM}.yaml"]
)
def test_make_runs_nothing_that_the_name_of_a_study_file_says(make: Any, name: str) -> None:
    study = Path("study.yaml").rename(name)
    done, asked = make(study, "study")
    assert done.returncode == 0, done.stderr
    assert str(study.resolve()) in asked


def test_what_make_asks_first_takes_a_moment() -> None:
    asked = (
        "import sys; sys.argv = ['', 'study.yaml']; sys.path.insert(0, sys.argv.pop(0) or "
        f"{str(tiny.ROOT / 'scripts')!r}); import study_folder; "
        "print({'pydantic', 'numpy', 'pandas', 'snakemake', 'torch'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md", "docs/neighbours.md", "docs/crops.md"])
def test_documented_commands_ask_first(page: str) -> None:
    """No page starts Snakemake on a study that `make` has not looked at."""
    for line in (tiny.ROOT / page).read_text().splitlines():
        if re.match(r"\s+\S*snakemake .*--configfile", line):
            pytest.fail(f"{page}: {line.strip()}: write it with make")

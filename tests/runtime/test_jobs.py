"""How scripts run: members one after another, what a failing one costs, how a job ends, what it leaves."""

import ctypes
import errno
import json
import logging
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from myostage.errors import UserError
from myostage.runtime import checksums, deaths, jobs, receipts
from support import logs

SCRIPTS = Path(__file__).parents[2] / "scripts"


class Params(dict[str, Any]):
    """Named values, as Snakemake hands them on."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def job(root: Path, batch: str, slides: list[str], **params: Any) -> Any:
    """A job of rule tile."""
    return SimpleNamespace(
        rule="tile",
        input=[],
        output=[str(root / f"made/tile/{batch}.json")],
        log=[str(root / f"logs/tile/{batch}.log")],
        resources={},
        params=Params(slides=slides, mpp=0.5, code="abc", **params),
    )


class Tiling:
    """Tiles slides, counts which, and fails as it is told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tried: list[str] = []
        self.fails: dict[str, BaseException] = {}

    def table(self, slide: str) -> Path:
        return self.root / f"slides/{slide}/tiles.parquet"

    def make(self, slide: str) -> None:
        self.tried.append(slide)
        if slide in self.fails:
            raise self.fails[slide]
        self.table(slide).parent.mkdir(parents=True, exist_ok=True)
        self.table(slide).write_text(f"tiles of {slide}")

    def skip(self, slide: str, reason: str) -> None:
        self.table(slide).parent.mkdir(parents=True, exist_ok=True)
        self.table(slide).write_text(f"skipped: {reason}")

    def each(self, snakemake: Any, *, skip: bool = False, **more: Any) -> list[str]:
        """The slides that a job tries."""
        self.tried.clear()
        members = jobs.of_slides(
            snakemake, [], ["tiles.parquet"], images=[f"{slide}.svs" for slide in snakemake.params.slides]
        )
        jobs.make_each(snakemake, members, self.make, self.skip if skip else None, **more)
        return list(self.tried)

    def tries(self, slide: str) -> Path:
        return self.root / f"slides/{slide}/made/tile.json.tries"

    def statement(self, slide: str) -> Path:
        return self.root / f"slides/{slide}/made/tile.json"


@pytest.fixture
def tiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiling:
    monkeypatch.chdir(tmp_path)
    for slide in "abc":
        (tmp_path / f"{slide}.svs").write_text(f"slide {slide}")
    return Tiling(tmp_path / "results/trial")


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The library's log, as it was, afterwards."""
    with logs.kept() as found:
        yield found


# --- members ------------------------------------------------------------------------------------------------


def test_a_job_leaves_statements_and_a_receipt(tiling: Tiling) -> None:
    done = job(tiling.root, "slides1", ["a", "b"])
    assert tiling.each(done) == ["a", "b"]
    receipt = receipts.read(done.output[0])
    assert receipt and list(receipt["members"]) == ["a", "b"]
    assert set(receipt["outputs"]) == {str(tiling.table(slide)) for slide in "ab"}
    said = json.loads(tiling.statement("a").read_text())
    assert said["rule"] == "tile" and said["specification"] == {"mpp": 0.5, "code": "abc"}
    assert list(said["inputs"]) == ["a.svs"]


def test_whole_members_are_left_as_they_are(tiling: Tiling) -> None:
    tiling.each(job(tiling.root, "slides1", ["a", "b"]))
    assert tiling.each(job(tiling.root, "slides1", ["a", "b"])) == []
    tiling.table("b").write_text("cut")
    assert tiling.each(job(tiling.root, "slides1", ["a", "b"])) == ["b"]
    Path("a.svs").write_text("another slide a")
    assert tiling.each(job(tiling.root, "slides1", ["a", "b"])) == ["a"]
    other = job(tiling.root, "slides1", ["a", "b"])
    other.params["mpp"] = 0.6
    assert tiling.each(other) == ["a", "b"]


def test_batches_can_be_cut_otherwise(tiling: Tiling) -> None:
    tiling.each(job(tiling.root, "slides1", ["a", "b"]))
    tiling.each(job(tiling.root, "c", ["c"]))
    assert tiling.each(job(tiling.root, "b", ["b"])) == []
    again = job(tiling.root, "slides2", ["c", "a"])
    assert tiling.each(again) == []
    receipt = receipts.read(again.output[0])
    assert receipt and set(receipt["members"]) == {"c", "a"}


@pytest.mark.parametrize("key", jobs.SHAPE_NONE)
def test_members_and_how_they_are_made_are_in_no_recipe(tiling: Tiling, key: str) -> None:
    for names in (["a"], ["a", "b"]):
        snakemake = job(tiling.root, "one", [], **({} if key == "slides" else {key: names}))
        snakemake.params[key] = dict.fromkeys(names, "held") if key == "content" else names
        members = [jobs.Member("a", "runs/a", ["a.svs"], [str(tiling.table("a"))], {"sigma": 0.1})]
        jobs.make_each(snakemake, members, tiling.make)
    assert tiling.tried == ["a"]
    said = json.loads((tiling.root / "runs/a/made/tile.json").read_text())
    assert said["specification"]["sigma"] == 0.1 and key not in said["specification"]


def test_what_shapes_a_member_hides_no_param_of_its_rule(tiling: Tiling) -> None:
    members = [jobs.Member("a", "runs/a", [], [], {"code": "another"})]
    with pytest.raises(AssertionError, match="what shapes a: code"):
        jobs.make_each(job(tiling.root, "one", []), members, tiling.make)


def test_one_that_fails_stops_no_other_and_alone_is_made_again(tiling: Tiling) -> None:
    snakemake = job(tiling.root, "slides1", ["a", "b", "c"])
    tiling.fails = {"a": UserError("a.svs: cut short; copy it again"), "b": ValueError("no such level")}
    with pytest.raises(UserError) as caught:
        tiling.each(snakemake)
    assert str(caught.value) == (
        "a: a.svs: cut short; copy it again; b: ValueError: no such level "
        "(1 of 3 are done and will not be made again)"
    )
    assert tiling.tried == ["a", "b", "c"]
    assert not Path(snakemake.output[0]).exists()
    assert tiling.statement("c").exists() and not tiling.statement("a").exists()
    del tiling.fails["b"]
    with pytest.raises(UserError, match="2 of 3 are done"):
        tiling.each(snakemake)
    assert tiling.tried == ["a", "b"]
    tiling.fails.clear()
    assert tiling.each(snakemake) == ["a"]
    assert Path(snakemake.output[0]).exists()


def test_what_all_members_need_is_made_ready_once_and_is_no_fault_of_theirs(tiling: Tiling) -> None:
    calls = []

    def model() -> None:
        calls.append(len(tiling.tried))
        if len(calls) == 1:
            raise UserError("cyto3 cannot be fetched; copy it")

    snakemake = job(tiling.root, "slides1", ["a", "b"])
    with pytest.raises(UserError, match=r"^cyto3 cannot be fetched; copy it$"):
        tiling.each(snakemake, skip=True, ready=model)
    assert tiling.tried == [] and not tiling.table("a").exists()
    assert tiling.each(snakemake, skip=True, ready=model) == ["a", "b"]
    assert tiling.each(snakemake, skip=True, ready=model) == []
    assert calls == [0, 0]


# --- members that are skipped -------------------------------------------------------------------------------


def test_a_member_that_fails_is_skipped_with_its_reason(tiling: Tiling) -> None:
    tiling.fails = {"a": UserError("a.svs: cut short; copy it again")}
    snakemake = job(tiling.root, "slides1", ["a", "b"])
    assert tiling.each(snakemake, skip=True) == ["a", "b"]
    assert tiling.table("a").read_text() == "skipped: a.svs: cut short; copy it again"
    receipt = receipts.read(snakemake.output[0])
    assert receipt and set(receipt["members"]) == {"a", "b"}
    assert tiling.each(snakemake, skip=True) == []
    assert not tiling.tries("a").exists() and not tiling.tries("b").exists()


def crash(slide: str) -> None:
    """As a reader of slides written in C does on a damaged file."""
    ctypes.string_at(0)


def kill(slide: str) -> None:
    """As `kill -9`, a time limit, or a node that goes down."""
    os.kill(os.getpid(), signal.SIGKILL)


def die(tiling: Tiling, make: Callable[[str], None]) -> int:
    """Exit code of a job that ends while it makes its first slide."""
    tiling.make = make  # type: ignore[method-assign]
    dying = get_context("fork").Process(
        target=tiling.each, args=(job(tiling.root, "slides1", ["a", "b"]),), kwargs={"skip": True}
    )
    dying.start()
    dying.join()
    del tiling.make  # type: ignore[method-assign]
    assert dying.exitcode is not None
    return dying.exitcode


def test_a_member_that_its_jobs_crash_on_is_skipped_in_the_end_and_tried_again_when_asked(
    tiling: Tiling,
) -> None:
    for _ in range(deaths.TRIES):
        assert die(tiling, crash) == -signal.SIGSEGV
    assert tiling.each(job(tiling.root, "slides1", ["a", "b"]), skip=True) == ["b"]
    reason = f"its job crashed while at work on it, {deaths.TRIES} times in all"
    assert tiling.table("a").read_text() == f"skipped: {reason}"
    assert tiling.each(job(tiling.root, "slides1", ["a", "b"]), skip=True) == []
    # as the page says
    shutil.rmtree(tiling.table("a").parent)
    assert tiling.each(job(tiling.root, "slides1", ["a", "b"]), skip=True) == ["a"]
    assert tiling.table("a").read_text() == "tiles of a" and not tiling.tries("a").exists()


def test_a_job_that_is_killed_from_outside_has_not_died_of_its_member(tiling: Tiling) -> None:
    for _ in range(deaths.TRIES + 2):
        assert die(tiling, kill) == -signal.SIGKILL
    assert tiling.each(job(tiling.root, "slides1", ["a", "b"]), skip=True) == ["a", "b"]
    assert tiling.table("a").read_text() == "tiles of a"


@pytest.mark.parametrize(("elsewhere", "skipped"), [(False, True), (True, False)])
def test_a_kill_for_want_of_memory_is_known_by_the_count_of_the_same_machine(
    tiling: Tiling, monkeypatch: pytest.MonkeyPatch, elsewhere: bool, skipped: bool
) -> None:
    boot, events = tiling.root.parent / "boot", tiling.root.parent / "events"
    boot.parent.mkdir(exist_ok=True)
    boot.write_text("first\n")
    monkeypatch.setattr(deaths, "_BOOT", boot)
    monkeypatch.setattr(deaths, "_EVENTS", events)
    for number in range(deaths.TRIES):
        events.write_text(f"pgfault 10\noom_kill {number}\n")
        die(tiling, kill)
        boot.write_text(f"{number if elsewhere else 'first'}\n")
        events.write_text(f"pgfault 10\noom_kill {number + 1}\n")
    tried = tiling.each(job(tiling.root, "slides1", ["a", "b"]), skip=True)
    assert tried == (["b"] if skipped else ["a", "b"])
    said = "skipped: its job ran out of memory while at work on it, 2 times in all"
    assert tiling.table("a").read_text() == (said if skipped else "tiles of a")


def test_a_member_that_is_made_at_the_last_try_is_not_skipped(tiling: Tiling) -> None:
    die(tiling, crash)
    assert tiling.each(job(tiling.root, "a", ["a"]), skip=True) == ["a"]
    assert tiling.table("a").read_text() == "tiles of a" and not tiling.tries("a").exists()


class OutOfMemoryError(RuntimeError):
    """As torch names that of a GPU."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("2 GB"),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_memory_that_runs_out_is_no_fault_of_a_slide_until_it_did_so_often(
    tiling: Tiling, error: Exception
) -> None:
    tiling.fails = {"a": error}
    for _ in range(deaths.TRIES):
        with pytest.raises(UserError, match=type(error).__name__):
            tiling.each(job(tiling.root, "slides1", ["a", "b"]), skip=True)
    assert tiling.each(job(tiling.root, "slides1", ["a", "b"]), skip=True) == []
    reason = f"its job ran out of memory while at work on it, {deaths.TRIES} times"
    assert tiling.table("a").read_text().startswith(f"skipped: {reason}")


def test_a_gpu_that_fails_is_no_fault_of_a_slide(tiling: Tiling) -> None:
    tiling.fails = {"a": RuntimeError("CUDA error: uncorrectable ECC error encountered")}
    for _ in range(deaths.TRIES + 1):
        with pytest.raises(UserError, match="a: RuntimeError: CUDA error"):
            tiling.each(job(tiling.root, "slides1", ["a", "b"]), skip=True)


def test_a_slide_whose_file_is_away_is_not_skipped(tiling: Tiling) -> None:
    Path("a.svs").unlink()
    tiling.fails = {"a": UserError("a.svs: does not exist")}
    with pytest.raises(UserError, match=r"a: a\.svs is gone \(a\.svs: does not exist\)"):
        tiling.each(job(tiling.root, "slides1", ["a", "b"]), skip=True)


@pytest.mark.parametrize("stop", [SystemExit(143), KeyboardInterrupt()])
def test_a_job_that_is_stopped_has_not_died_on_its_member(tiling: Tiling, stop: BaseException) -> None:
    tiling.fails = {"b": stop}
    for _ in range(deaths.TRIES + 1):
        with pytest.raises(type(stop)):
            tiling.each(job(tiling.root, "slides1", ["a", "b", "c"]), skip=True)
    assert tiling.tried == ["b"] and not tiling.table("c").exists()
    tiling.fails.clear()
    assert tiling.each(job(tiling.root, "slides1", ["a", "b", "c"]), skip=True) == ["b", "c"]
    assert tiling.table("b").read_text() == "tiles of b"


# --- the disk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
def test_a_full_disk_stops_the_job_at_once(tiling: Tiling, skip: bool) -> None:
    tiling.fails = {"b": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))}
    snakemake = job(tiling.root, "slides1", ["a", "b", "c"])
    for _ in range(deaths.TRIES + 1):
        with pytest.raises(UserError, match=f"^the disk of {tiling.root} is full: free space there"):
            tiling.each(snakemake, skip=skip)
    assert tiling.tried == ["b"]
    assert tiling.statement("a").exists() and not Path(snakemake.output[0]).exists()
    tiling.fails.clear()
    assert tiling.each(snakemake, skip=skip) == ["b", "c"]
    assert tiling.table("b").read_text() == "tiles of b"


def test_a_file_that_fails_is_named(tiling: Tiling) -> None:
    tiling.fails = {"a": OSError(errno.EIO, "Input/output error", "a.svs")}
    with pytest.raises(UserError, match=r"^the disk of a\.svs fails"):
        tiling.each(job(tiling.root, "a", ["a"]))
    tiling.fails = {"a": OSError(errno.EIO, "Input/output error", "removed.tmp")}
    with pytest.raises(UserError, match=f"^the disk of {tiling.root} fails"):
        tiling.each(job(tiling.root, "a", ["a"]))


def test_an_error_of_the_system_that_is_not_of_the_disk_is_a_members_own(tiling: Tiling) -> None:
    tiling.fails = {"a": FileNotFoundError(errno.ENOENT, "No such file", "a.svs")}
    with pytest.raises(UserError, match="1 of 2 are done"):
        tiling.each(job(tiling.root, "slides1", ["a", "b"]))


# --- jobs ---------------------------------------------------------------------------------------------------


def plain(root: Path) -> Any:
    """A job whose output is a table."""
    snakemake = job(root, "all", [])
    snakemake.output = [str(root / "splits.parquet")]
    return snakemake


def write(snakemake: Any) -> None:
    Path(snakemake.output[0]).write_text("folds")


def fail_with(error: BaseException) -> Callable[[Any], None]:
    def work(snakemake: Any) -> None:
        raise error

    return work


def exit_code(snakemake: Any, work: Callable[[Any], None]) -> object:
    with pytest.raises(SystemExit) as caught:
        jobs.run(snakemake, work)
    return caught.value.code


@pytest.mark.usefixtures("logger")
def test_the_statement_of_a_table_lies_beside_the_log(tiling: Tiling) -> None:
    snakemake = plain(tiling.root)
    snakemake.input = ["a.svs"]
    jobs.run(snakemake, write)
    said = json.loads((tiling.root / "logs/tile/all.json").read_text())
    assert said["outputs"] == {snakemake.output[0]: checksums.state(snakemake.output[0])}
    assert said["inputs"] == {"a.svs": checksums.given("a.svs")}
    assert said["specification"]["slides"] == []


@pytest.mark.usefixtures("logger")
def test_a_job_that_leaves_a_receipt_needs_no_other_statement(tiling: Tiling) -> None:
    snakemake = job(tiling.root, "slides1", ["a"])
    jobs.run(snakemake, lambda given: tiling.each(given) and None)
    assert Path(snakemake.output[0]).exists()
    assert [path.name for path in (tiling.root / "logs/tile").iterdir()] == ["slides1.log"]


@pytest.mark.usefixtures("logger")
def test_a_mistake_of_the_user_is_one_sentence(tiling: Tiling, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(plain(tiling.root), fail_with(UserError("sigma is 0; raise it"))) == 1
    assert capsys.readouterr().err == "tile: sigma is 0; raise it\n"
    assert (tiling.root / "logs/tile/all.log").read_text().endswith(" sigma is 0; raise it\n")
    assert not (tiling.root / "logs/tile/all.json").exists()


@pytest.mark.usefixtures("logger")
def test_a_fault_of_ours_shows_the_end_of_its_traceback(
    tiling: Tiling, capsys: pytest.CaptureFixture[str]
) -> None:
    def deep(depth: int) -> None:
        if depth:
            return deep(depth - 1) if depth % 2 else further(depth - 1)
        raise ValueError("folds overlap")

    def further(depth: int) -> None:
        deep(depth)

    assert exit_code(plain(tiling.root), lambda _: deep(20)) == 1
    lines = capsys.readouterr().err.splitlines()
    log = tiling.root / "logs/tile/all.log"
    assert lines[0] == f"tile failed; the full traceback is in {log}, and ends with"
    assert lines[-1] == "ValueError: folds overlap"
    assert len(lines) == 1 + jobs.LAST_LINES
    assert "Traceback (most recent call last)" in log.read_text()


STEERING = "a\x1b[2J\x1b]0;title\x07\r\x9b1m\u202eb\u2066\udc80"
SHOWN = r"a\x1b[2J\x1b]0;title\x07\r\x9b1m\u202eb\u2066\udc80"


@pytest.mark.usefixtures("logger")
@pytest.mark.parametrize("of", ["user", "fault", "log", "library", "warning"])
def test_nothing_that_is_printed_steers_a_terminal(
    tiling: Tiling, capsys: pytest.CaptureFixture[str], of: str
) -> None:
    def work(_: Any) -> None:
        if of == "library":
            logging.getLogger("tifffile").warning("%s", STEERING)
        elif of == "warning":
            warnings.warn(STEERING, stacklevel=1)
        elif of == "log":
            logging.getLogger("myostage.slides").info("%s", STEERING)
        raise (UserError if of == "user" else ValueError)(STEERING)

    assert exit_code(plain(tiling.root), work) == 1
    printed = capsys.readouterr().err, (tiling.root / "logs/tile/all.log").read_text(encoding="utf-8")
    for text in printed:
        assert SHOWN in text
        assert text.replace("\n", "").isprintable()


@pytest.mark.usefixtures("logger")
def test_a_full_disk_is_one_sentence_too(tiling: Tiling, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(plain(tiling.root), fail_with(OSError(errno.ENOSPC, "full"))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tile: the disk of {tiling.root / 'logs/tile'} is full: ")


@pytest.mark.usefixtures("logger")
def test_files_that_are_gone_are_told_before_any_work(
    tiling: Tiling, capsys: pytest.CaptureFixture[str]
) -> None:
    before = job(tiling.root, "slides1", ["a"])
    tiling.each(before)
    tiling.table("a").unlink()
    snakemake = plain(tiling.root)
    snakemake.input = before.output
    assert exit_code(snakemake, write) == 1
    assert f"{tiling.table('a')} is gone since it was made" in capsys.readouterr().err
    assert not Path(snakemake.output[0]).exists()


# --- being stopped ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("logger")
def test_a_job_that_is_told_to_stop_cleans_up(tiling: Tiling, capsys: pytest.CaptureFixture[str]) -> None:
    copies = tiling.root / "scratch"
    before = signal.getsignal(signal.SIGTERM)

    def work(snakemake: Any) -> None:
        copies.mkdir(parents=True)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            # the next one must not break into this
            os.kill(os.getpid(), signal.SIGTERM)
            copies.rmdir()

    assert exit_code(plain(tiling.root), work) == 143
    assert not copies.exists()
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == (
        "tile: stopped from outside: cancelled, preempted or out of time; what is done is kept\n"
    )
    assert not (tiling.root / "logs/tile/all.json").exists()


@pytest.mark.usefixtures("logger")
def test_a_forked_worker_that_is_told_to_stop_cleans_up_nothing(tiling: Tiling) -> None:
    cleaned = tiling.root / "cleaned"
    codes = []

    def work(snakemake: Any) -> None:
        write(snakemake)
        try:
            reading, writing = os.pipe()
            worker = os.fork()
            if worker == 0:
                os.write(writing, b".")
                time.sleep(10)
                os._exit(0)
            os.read(reading, 1)
            os.kill(worker, signal.SIGTERM)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
            assert not cleaned.exists()
        finally:
            cleaned.touch()

    tiling.root.mkdir(parents=True)
    jobs.run(plain(tiling.root), work)
    assert codes == [143]


@pytest.mark.usefixtures("logger")
def test_outside_the_main_thread_signals_stay_as_they_are(tiling: Tiling) -> None:
    found = []

    def work(snakemake: Any) -> None:
        write(snakemake)
        found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=jobs.run, args=(plain(tiling.root), work))
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
    assert Path(plain(tiling.root).output[0]).exists()

"""How every script of a rule runs: log, errors, and the statement of what made its outputs."""

import errno
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myostage import tables
from myostage.errors import Damaged, UserError, printable
from myostage.paths import Paths
from myostage.runtime import deaths, devices, provenance, receipts
from myostage.runtime.disk import disk_error

LAST_LINES = 15
# What a shell says of a process that SIGTERM ended.
TERMINATED = 128 + signal.SIGTERM
# params that list the members of a job or what their inputs hold, or say how and not what is made: they shape
# no member
SHAPE_NONE = ("slides", "runs", "specs", "settings", "scratch", "on_bad_slide", "content")
# A full disk as errors say it in words.
FULL = {os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT)}
log = logging.getLogger("myostage")


@dataclass(frozen=True)
class Member:
    """One slide or run of a job.

    Attributes
    ----------
    name
        Its name.
    folder
        Its folder below that of the study: ``slides/{slide}`` or ``runs/{run}``.
    inputs
        Files that shape it, beside the params of its rule.
    outputs
        Files that are made.
    specification
        What shapes it beside those.
    """

    name: str
    folder: str
    inputs: list[str]
    outputs: list[str]
    specification: Mapping[str, Any] = field(default_factory=dict)


def run(snakemake: Any, work: Callable[[Any], None]) -> None:
    """Do the ``work`` of a rule.

    The log goes to the rule's log file and to the terminal. A mistake of the user, or a disk that is full or
    not writable, ends as one sentence, a fault of ours with the last lines of its traceback; all exit with 1.
    A job that gets a signal to stop cleans up first (:func:`_stoppable`). When the work is done, what made
    its outputs is written beside the log as JSON.
    """
    path = Path(snakemake.log[0])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _start_logging(path, snakemake.rule)
        receipts.verify(snakemake.input)
        with _stoppable(), devices.own_gpu(int(snakemake.resources.get("gpu", 0))):
            work(snakemake)
        if receipts.read(str(snakemake.output[0])) is None:
            _state(snakemake, path.with_suffix(".json"))
    except SystemExit:
        log.error("stopped from outside: cancelled, preempted or out of time; what is done is kept")
        raise
    except UserError as error:
        log.error("%s", error)
        sys.exit(1)
    except Exception as error:
        fault = _of_disk(error, path.parent)
        lines = printable(traceback.format_exc()).splitlines()
        log.debug("%s", "\n".join(lines))
        if fault:
            log.error("%s", fault)
        else:
            tail = "\n".join(lines[-LAST_LINES:])
            print(
                f"{snakemake.rule} failed; the full traceback is in {path}, and ends with\n{tail}",
                file=sys.stderr,
            )
        sys.exit(1)


def paths(snakemake: Any) -> Paths:
    """Where the files of the job's study lie: its log is at a known place below them."""
    return Paths(str(Path(snakemake.log[0]).parents[2]))


def of_slides(
    snakemake: Any,
    inputs: Iterable[str],
    outputs: Iterable[str],
    images: Iterable[str] = (),
    others: Iterable[str] = (),
) -> list[Member]:
    """The slides of a job as members.

    Parameters
    ----------
    snakemake
        The job; its params have ``slides``.
    inputs, outputs
        Names of the files of each slide, below its folder.
    images
        The image of each slide, where the rule reads it.
    others
        Files that shape all slides, such as a model.
    """
    names, images = list(snakemake.params.slides), list(images)
    where = paths(snakemake)
    return [
        Member(
            name,
            f"slides/{name}",
            [where.slide(name, file) for file in inputs] + images[number : number + 1] + list(others),
            [where.slide(name, file) for file in outputs],
        )
        for number, name in enumerate(names)
    ]


def make_each(
    snakemake: Any,
    members: Iterable[Member],
    make: Callable[[str], None],
    skip: Callable[[str, str], None] | None = None,
    ready: Callable[[], object] | None = None,
) -> None:
    """Make the members of a job one after another, and leave its receipt (:mod:`myostage.runtime.receipts`).

    A complete member that was made by the same recipe stays as it is. One that fails stops no other;
    the job fails after the last. Params of ``SHAPE_NONE`` shape no member.

    Parameters
    ----------
    snakemake
        The job; its first output is the receipt.
    members
        What is to be made.
    make
        Makes the member of that name.
    skip
        Called with name and reason for a member that fails, or that its job has died of
        (:mod:`myostage.runtime.deaths`), to leave files that say so; the job goes on. A fault of the machine,
        or a file that is gone, is no member's own and fails the job. None: any fault does.
    ready
        Called once, before the first member that is to be made, for what all of them need, such as a model:
        its failure is no fault of a member, and fails the job.

    Raises
    ------
    UserError
        A member failed and is not to be skipped, or the disk is full or not writable.
    """
    where = paths(snakemake)
    shared = {key: value for key, value in snakemake.params.items() if key not in SHAPE_NONE}
    known = snakemake.params.get("content")
    # made/{kind}/{batch}.json
    kind = str(Path(snakemake.output[0]).parent.relative_to(Path(where.root) / "made"))
    statements, faults = [], {}
    for member in members:
        twice = shared.keys() & member.specification.keys()
        assert not twice, f"both params of the rule and what shapes {member.name}: {', '.join(twice)}"
        specification = {**shared, **member.specification}
        recipe = provenance.recipe(snakemake.rule, specification, member.inputs, known)
        path = where.statement(member.folder, kind)
        statements.append((member.name, path))
        if receipts.is_made(path, recipe):
            log.info("%s is there already", member.name)
            continue
        if ready:
            ready()
            ready = None
        tries = Path(f"{path}.tries")
        try:
            if skip:
                with deaths.counted(tries):
                    make(member.name)
            else:
                make(member.name)
        except Exception as error:
            fault = _fault(error, where.root)
            gone = [path for path in member.inputs if not Path(path).exists()]
            if skip is None or gone or isinstance(error, Damaged) or deaths.is_of_machine(error):
                faults[member.name] = f"{gone[0]} is gone ({fault})" if gone else fault
                continue
            log.error("%s is skipped: %s", member.name, fault)
            skip(member.name, fault)
        write_json(path, provenance.statement(recipe, member.outputs))
        tries.unlink(missing_ok=True)
    if faults:
        done = len(statements) - len(faults)
        reasons = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        raise UserError(f"{reasons} ({done} of {len(statements)} are done and will not be made again)")
    write_json(snakemake.output[0], receipts.receipt(snakemake.rule, statements))


def write_json(path: str | Path, value: dict[str, Any]) -> None:
    """Write JSON, atomically."""
    with tables.atomic(path) as temporary:
        temporary.write_text(provenance.to_json(value) + "\n", encoding="utf-8")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Within the block SIGTERM, by which SLURM stops a job, is SystemExit: what is open is closed, copies go.

    Only the first counts, lest the next, which soon follows, break into the cleaning up. Python lets no
    other than the main thread set this: elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def stop(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        if os.getpid() != own:
            # a forked worker holds nothing of its own, and must not clean up what is its parent's
            os._exit(TERMINATED)
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _of_disk(error: BaseException, folder: str | Path) -> UserError | None:
    """The sentence for an error of the disk: of the file that it names, if it is there, else ``folder``."""
    if isinstance(error, UserError):
        return None
    if isinstance(error, OSError):
        named = error.filename if isinstance(error.filename, str | Path) else ""
        if fault := disk_error(error, named if named and os.path.lexists(named) else folder):
            return fault
    # Libraries wrap it, a notebook hands on its text, and closing what is cut short fails in another way.
    said = next((number for words, number in FULL.items() if words in str(error)), None)
    if said:
        return disk_error(OSError(said, ""), folder)
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return _of_disk(before, folder) if before and getattr(before, "errno", None) in FULL.values() else None


def _fault(error: Exception, folder: str) -> str:
    """A fault of one member as a sentence; one of the disk concerns all members and is raised."""
    fault = _of_disk(error, folder)
    if fault:
        raise fault from error
    if isinstance(error, UserError):
        return str(error)
    log.debug("%s", traceback.format_exc())
    return printable(f"{type(error).__name__}: {error}")


def _state(snakemake: Any, path: Path) -> None:
    """What made the outputs, beside the log; and what they are, beside them, for the jobs that read them."""
    recipe = provenance.recipe(snakemake.rule, dict(snakemake.params.items()), _flat(snakemake.input))
    statement = provenance.statement(recipe, _flat(snakemake.output))
    write_json(path, statement)
    folders: dict[Path, dict[str, Any]] = {}
    for output, said in statement["outputs"].items():
        folders.setdefault(Path(output).parent, {})[output] = said
    for folder, outputs in folders.items():
        write_json(folder / "made" / f"{snakemake.rule}.json", {"rule": snakemake.rule, "outputs": outputs})


def _flat(files: Any) -> list[str]:
    return [str(file) for file in files]


class _LogFile(logging.FileHandler):
    """A log that a full disk cuts short without a traceback of its own: the job says that it is full."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _start_logging(path: Path, rule: str) -> None:
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.INFO)
    file = _LogFile(path, mode="w", encoding="utf-8")
    log.setLevel(logging.DEBUG)
    # libraries say what they read in files of others, too
    logging.captureWarnings(True)
    others = logging.getLogger()
    for handler, layout in ((terminal, f"{rule}: %(message)s"), (file, "%(asctime)s %(message)s")):
        handler.setFormatter(_Printable(layout))
        log.addHandler(handler)
        others.addHandler(handler)
    log.propagate = False


class _Printable(logging.Formatter):
    """Messages hold names of files and what stands in them: nothing of it steers a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

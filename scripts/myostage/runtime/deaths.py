"""Whether a job died of the slide that it was at work on, or of something else.

A process that is gone says nothing. What counts is what it left, or what the system knows: a crash of its own
(a segmentation fault and the like, which ``faulthandler`` writes down), memory that ran out in it, or that
the system killed for want of memory meanwhile. A signal from outside (preemption, a time limit, `scancel`,
`kill -9`, a node that is lost) leaves none of this and does not count.
"""

import errno
import faulthandler
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from myostage.errors import UserError

# A slide that its jobs died of so often is skipped where bad slides are.
TRIES = 2
MEMORY = "ran out of memory"
CRASH = "crashed"
# What faulthandler writes first.
_CRASHED = "Fatal Python error: "
_BOOT, _EVENTS = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/vmstat")
# torch has no class of its own for memory of the machine, nor for a GPU that fails
_SHORT = re.compile(r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|Insufficient memory")
_GPU = re.compile(r"CUDA (driver )?error|cuDNN error|CUBLAS_STATUS|CUDNN_STATUS|NCCL error|HIP error")


@contextmanager
def counted(tries: Path) -> Iterator[None]:
    """Keep in the file ``tries`` of what jobs died within the block.

    Raises
    ------
    UserError
        They died of it ``TRIES`` times.
    """
    causes = _causes(tries)
    if len(causes) >= TRIES:
        each = " and ".join(dict.fromkeys(causes))
        raise UserError(f"its job {each} while at work on it, {len(causes)} times in all")
    tries.parent.mkdir(parents=True, exist_ok=True)
    before = faulthandler.is_enabled()
    try:
        with tries.open("w", encoding="utf-8") as file:
            print(*causes, _system(), sep="\n", file=file, flush=True)
            faulthandler.enable(file, all_threads=False)
            try:
                yield
            finally:
                faulthandler.disable()
                if before and sys.__stderr__:
                    faulthandler.enable(sys.__stderr__)
    except BaseException as error:
        causes += [MEMORY] if is_short_of_memory(error) else []
        with suppress(OSError):
            tries.write_text("".join(f"{cause}\n" for cause in causes), encoding="utf-8")
        raise


def is_short_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of the GPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or _says(error, _SHORT)
    )


def is_of_machine(error: Exception) -> bool:
    """Whether an error is, at first, no slide's fault: memory ran out, or the GPU failed."""
    return is_short_of_memory(error) or _says(error, _GPU)


def _says(error: BaseException, words: re.Pattern[str]) -> bool:
    return not isinstance(error, UserError) and bool(words.search(str(error)))


def _causes(tries: Path) -> list[str]:
    """Of what earlier jobs died while at work: crashes and memory alone."""
    try:
        lines = tries.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    causes = [line for line in lines if line in (CRASH, MEMORY)]
    if any(line.startswith(_CRASHED) for line in lines):
        return [*causes, CRASH]
    began = next((line.split() for line in lines if line.startswith("began ")), [])
    now = _system().split()
    killed = len(began) == len(now) == 3 and began[1] == now[1] and int(now[2]) > int(began[2])
    return [*causes, MEMORY] if killed else causes


def _system() -> str:
    """Which start of which machine this is, and how often it has killed for want of memory since."""
    try:
        (kills,) = re.findall(r"^oom_kill (\d+)$", _EVENTS.read_text(), re.MULTILINE)
        return f"began {_BOOT.read_text().strip()} {kills}"
    except (OSError, ValueError):
        return "began"  # no Linux: the system does not say

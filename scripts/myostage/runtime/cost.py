"""What a block of work costs: wall and CPU time, peak memory, energy where the machine tells it.

A measure that this machine does not have is nan; measuring never stops the work.
"""

import ctypes
import math
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/self")
POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"
MB = 1e6
# A package's counter goes round after 262 kJ or so: no machine does that twice between two readings.
SECONDS_PER_READING = 60.0
_RESET_PEAK = "5"  # to clear_refs: the peak resident memory starts anew (proc_pid_clear_refs(5))

Meter = Callable[[], float]
"""Joules since the meter was made."""


@dataclass
class Cost:
    """What a block of work cost; ``nan`` until the block ends, and where the machine does not tell.

    Attributes
    ----------
    seconds, cpu_seconds : float
        Wall time, and CPU time of all threads of this process.
    peak_memory_mb : float
        Largest memory on the GPU where the work is done on one, else largest resident memory, MB.
    joules : float
        Energy of that GPU, else of all CPU packages, whoever used them meanwhile.
    """

    seconds: float = math.nan
    cpu_seconds: float = math.nan
    peak_memory_mb: float = math.nan
    joules: float = math.nan


@contextmanager
def measure(device: str) -> Iterator[Cost]:
    """Measure the block of work done on ``device``; the :class:`Cost` is filled when it ends well.

    What torch calls the device is its name: ``cpu``, ``cuda``, ``cuda:1``. Only for a GPU is torch imported.
    """
    cost, on_gpu = Cost(), device.startswith("cuda")
    joules = _gpu_meter(device) if on_gpu else _package_meter()
    peak_mb = _gpu_peak(device) if on_gpu else _resident_peak()
    with _read_now_and_then(joules):
        wall, cpu = time.perf_counter(), time.process_time()
        yield cost
        if on_gpu:
            import torch

            torch.cuda.synchronize(device)
        cost.seconds, cost.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    cost.peak_memory_mb, cost.joules = _read_or_nan(peak_mb), _read_or_nan(joules)


def _read_or_nan(read: Callable[[], float]) -> float:
    try:
        return read()
    except (OSError, ValueError):
        return math.nan


def _gpu_peak(device: str) -> Callable[[], float]:
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    return lambda: torch.cuda.max_memory_allocated(device) / MB


def _resident_peak() -> Callable[[], float]:
    """Peak resident memory from now on; that since the process began where Linux cannot reset it."""
    try:
        (PROC / "clear_refs").write_text(_RESET_PEAK)
        _high_water()
    except (OSError, ValueError):
        return _peak_of_the_process
    return _high_water


def _high_water() -> float:
    found = re.search(r"^VmHWM:\s*(\d+) kB", (PROC / "status").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError("the kernel does not tell the peak of the resident memory")
    return int(found[1]) * 1024 / MB


def _peak_of_the_process() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, kB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


def _unknown() -> float:
    return math.nan


def _gpu_meter(device: str) -> Meter:
    """Energy by the driver's own library (NVML; Volta and newer tell it), in millijoules there."""
    import torch

    try:
        nvml = ctypes.CDLL(NVML)
        handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        # By its UUID: NVML does not know CUDA_VISIBLE_DEVICES.
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)):
            return _unknown
    except (OSError, AttributeError, RuntimeError):
        return _unknown

    def total() -> float:
        failed = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
        return math.nan if failed else millijoules.value / 1e3

    start = total()
    return lambda: total() - start


def _package_meter() -> Meter:
    """Energy of all CPU packages by Intel's RAPL, which AMD's CPUs answer to as well (powercap of Linux)."""
    try:
        packages = [
            _Package(folder)
            for folder in sorted(POWERCAP.glob("intel-rapl:*"))
            if folder.name.count(":") == 1  # intel-rapl:0:0 is a part of intel-rapl:0
        ]
    except (OSError, ValueError):  # only root may read them on most machines
        return _unknown
    return lambda: sum(package.joules() for package in packages) if packages else math.nan


class _Package:
    """The energy counter of one CPU package, which starts at 0 again after its range."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = int(self._counter.read_text())
        self._sum = 0

    def joules(self) -> float:
        now = int(self._counter.read_text())
        self._sum += now - self._last if now >= self._last else now - self._last + self._range
        self._last = now
        return self._sum / 1e6


@contextmanager
def _read_now_and_then(meter: Meter) -> Iterator[None]:
    """Read the meter every minute, so that a counter which goes round is never missed."""
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(SECONDS_PER_READING):
            _read_or_nan(meter)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        ended.set()
        reader.join()

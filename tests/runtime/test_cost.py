"""What a block of work costs, on machines that tell everything and on those that tell nothing."""

import ctypes
import math
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from myostage.runtime import cost

CPU = "cpu"
SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two CPU packages, one of them with a part that must not be counted twice."""
    for name, energy in (("intel-rapl:0", 900), ("intel-rapl:0:0", 5), ("intel-rapl:1", 100), ("dtpm", 7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{energy}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")
    monkeypatch.setattr(cost, "POWERCAP", tmp_path)
    return tmp_path


def test_wall_and_cpu_time_are_told_apart() -> None:
    with cost.measure(CPU) as asleep:
        time.sleep(0.2)
    with cost.measure(CPU) as awake:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
    assert asleep.seconds >= 0.2 > 0.1 > asleep.cpu_seconds
    assert awake.cpu_seconds >= 0.2


def run_alone(code: str) -> None:
    """Run code in a process of its own: the memory of this one is that of every test before."""
    head = "from pathlib import Path\nimport numpy as np\nfrom myostage.runtime import cost\n"
    subprocess.run([sys.executable, "-c", head + textwrap.dedent(code)], cwd=SCRIPTS, check=True)


def test_the_peak_is_that_of_the_block() -> None:
    run_alone("""
        with cost.measure("cpu") as before:
            pass
        held = np.ones(40_000_000)  # 320 MB
        del held
        with cost.measure("cpu") as large:
            held = np.ones(20_000_000)  # 160 MB
            del held
        with cost.measure("cpu") as after:
            pass
        assert 150 < large.peak_memory_mb - before.peak_memory_mb < 250, (before, large)
        assert after.peak_memory_mb < large.peak_memory_mb - 100, (large, after)
    """)


def test_without_a_peak_to_reset_it_is_that_of_the_process() -> None:
    run_alone("""
        with cost.measure("cpu") as known:
            pass
        held = np.ones(20_000_000)  # 160 MB, before the block
        del held
        cost.PROC = Path("none")
        with cost.measure("cpu") as found:
            pass
        assert found.peak_memory_mb >= known.peak_memory_mb + 100, (known, found)
    """)


def test_energy_is_summed_over_packages_and_goes_round(packages: Path) -> None:
    with cost.measure(CPU) as found:
        (packages / "intel-rapl:0" / "energy_uj").write_text("50")  # 100 to the end of the range, then 50
        (packages / "intel-rapl:1" / "energy_uj").write_text("130")
    assert found.joules == pytest.approx((150 + 30) / 1e6)


def test_a_counter_that_goes_round_twice_is_read_in_between(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "SECONDS_PER_READING", 0.01)
    read: list[str] = []
    text = Path.read_text

    def counted(self: Path, *args: Any, **options: Any) -> str:
        read.append(self.parent.name)
        return text(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", counted)
    with cost.measure(CPU) as found:
        for energy in ("800", "700", "600"):
            (packages / "intel-rapl:0" / "energy_uj").write_text(energy)
            seen = read.count("intel-rapl:1")
            while read.count("intel-rapl:1") < seen + 2:  # one whole reading after the counter was written
                time.sleep(0.01)
    assert found.joules == pytest.approx(3 * 900 / 1e6)


@pytest.mark.parametrize("fault", ["absent", "gone", "empty"])
def test_energy_that_the_machine_does_not_tell_is_missing(packages: Path, fault: str) -> None:
    counter = packages / "intel-rapl:1" / "energy_uj"
    if fault == "absent":
        counter.unlink()
    with cost.measure(CPU) as found:
        if fault == "gone":
            counter.unlink()
        if fault == "empty":
            counter.write_text("")
    assert math.isnan(found.joules)
    assert found.seconds >= 0


def test_no_packages_no_joules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "POWERCAP", tmp_path / "none")
    with cost.measure(CPU) as found:
        pass
    assert math.isnan(found.joules)


class Driver:
    """A stand-in for NVML: each call costs 2.5 J."""

    def __init__(self, fault: int = 0) -> None:
        self.fault, self.total_mj, self.asked = fault, 7_000_000_000_000, b""

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:
        self.asked = name
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, millijoules: Any) -> int:
        self.total_mj += 2500
        ctypes.cast(millijoules, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.total_mj
        return self.fault


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> str:
    """A GPU as far as this module looks at one."""
    told = SimpleNamespace(uuid="1234")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: told)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3_000_000)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return "cuda:0"


@pytest.mark.parametrize(("fault", "joules"), [(0, 2.5), (3, math.nan)], ids=["told", "not supported"])
def test_a_gpu_tells_its_own_energy_and_memory(
    gpu: str, fault: int, joules: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(fault)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    with cost.measure(gpu) as found:
        pass
    assert driver.asked == b"GPU-1234"
    assert found.joules == pytest.approx(joules, nan_ok=True)
    assert found.peak_memory_mb == 3


def test_a_gpu_without_its_library_tells_no_energy(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "NVML", "libnone.so.0")
    with cost.measure(gpu) as found:
        pass
    assert math.isnan(found.joules) and found.peak_memory_mb == 3


def test_a_block_that_fails_fails_by_its_own_error() -> None:
    with pytest.raises(ZeroDivisionError), cost.measure(CPU):
        raise ZeroDivisionError

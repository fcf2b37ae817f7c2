"""What a job of the preflight does on its node: look around and write one JSON file.

``python -m myostage.cluster.probe FOLDER cpu|gpu``. Only the standard library is imported, so that an
environment that does not start there is reported, and torch is tried in a process of its own.
"""

import contextlib
import ctypes
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, TypedDict

TOKEN_FILE = "token"
WRITE_MB = 256
PIECE_MB = 8
# how long a file written before the job may take to be seen on the node
TOKEN_SECONDS = 30
TORCH_SECONDS = 400
GB = 1e9


class Device(TypedDict):
    """A GPU as torch sees it."""

    name: str
    memory_gb: float
    free_gb: float
    capability: str


class Torch(TypedDict):
    """What torch says of itself; ``error``: it does not start, ``fault``: a GPU does not compute."""

    seconds: float
    version: str
    cuda: str | None
    architectures: list[str]
    available: bool
    devices: list[Device]
    warnings: list[str]
    error: str
    fault: str


class Disk(TypedDict):
    """A folder: free space, and speed where it was measured; ``error`` where it cannot be written to."""

    path: str
    variable: str
    free_gb: float
    mb_per_s: float
    error: str


class Report(TypedDict):
    """Everything one job found."""

    node: str
    python: str
    token: str
    token_seconds: float
    shared: Disk
    scratch: Disk
    torch: Torch
    visible_devices: str | None
    smi: str
    driver_cuda: int


def main(folder: Path, gpu: bool) -> None:
    """Look around and write ``cpu.json`` or ``gpu.json`` into ``folder``, whole or not at all."""
    kind = "gpu" if gpu else "cpu"
    token, seconds = read_token(folder / TOKEN_FILE)
    report = Report(
        node=socket.gethostname(),
        python=platform.python_version(),
        token=token,
        token_seconds=seconds,
        shared=write_speed(folder, f"{kind}.bin"),
        scratch=scratch(),
        torch=try_torch(gpu),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        smi=nvidia_smi() if gpu else "",
        driver_cuda=driver_cuda() if gpu else 0,
    )
    partial = folder / f"{kind}.json.partial"
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(report, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(folder / f"{kind}.json")


def read_token(file: Path) -> tuple[str, float]:
    """What stands in ``file``, empty if it does not appear, and how long that took in seconds."""
    start = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            return file.read_text(encoding="utf-8"), time.monotonic() - start
        if time.monotonic() - start > TOKEN_SECONDS:
            return "", time.monotonic() - start
        time.sleep(0.1)


def write_speed(folder: Path, name: str, size_mb: int = WRITE_MB) -> Disk:
    """Speed of a file written and synced in ``folder``, which is removed again."""
    disk = Disk(path=str(folder), variable="", free_gb=0.0, mb_per_s=0.0, error="")
    # random: a file system that compresses would else store next to nothing
    piece = os.urandom(PIECE_MB * 2**20)
    file = folder / name
    try:
        disk["free_gb"] = shutil.disk_usage(folder).free / GB
        start = time.monotonic()
        with file.open("wb") as stream:
            for _ in range(size_mb // PIECE_MB):
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        disk["mb_per_s"] = size_mb * 2**20 / 1e6 / max(time.monotonic() - start, 1e-6)
    except OSError as error:
        disk["error"] = str(error)
    finally:
        with contextlib.suppress(OSError):
            file.unlink()
    return disk


def scratch() -> Disk:
    """The node's own disk, where the job is told of one."""
    variable = next((name for name in ("SLURM_TMPDIR", "TMPDIR") if os.environ.get(name)), "")
    path = os.environ[variable] if variable else "/tmp"
    disk = Disk(path=path, variable=variable, free_gb=0.0, mb_per_s=0.0, error="")
    try:
        disk["free_gb"] = shutil.disk_usage(path).free / GB
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        disk["error"] = str(error)
    return disk


def try_torch(gpu: bool) -> Torch:
    """:func:`torch_facts` of a process of its own: a crash there is an answer too."""
    code = (
        f"import json; from myostage.cluster.probe import torch_facts; print(json.dumps(torch_facts({gpu})))"
    )
    nothing = Torch(
        seconds=0.0,
        version="",
        cuda=None,
        architectures=[],
        available=False,
        devices=[],
        warnings=[],
        error="",
        fault="",
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=TORCH_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {**nothing, "error": f"it took more than {TORCH_SECONDS} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {**nothing, "error": said[-1] if said else f"it ended with exit code {done.returncode}"}
    facts: Torch = json.loads(done.stdout.splitlines()[-1])
    return facts


def torch_facts(gpu: bool) -> Torch:
    """What torch says of itself and, in a GPU job, of the GPUs it sees and whether they compute."""
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import torch

        seconds = time.monotonic() - start
        available = gpu and torch.cuda.is_available()
        devices: list[Device] = []
        fault = ""
        try:
            devices = (
                [_device(torch, number) for number in range(torch.cuda.device_count())] if available else []
            )
            for number in range(len(devices)):
                ones = torch.ones(64, 64, device=f"cuda:{number}")
                if (ones @ ones).sum().item() != 64**3:
                    raise RuntimeError("a product of matrices came out wrong")
        except RuntimeError as error:
            fault = str(error).splitlines()[0]
    return Torch(
        seconds=seconds,
        version=torch.__version__,
        cuda=torch.version.cuda,
        architectures=torch.cuda.get_arch_list() if available else [],
        available=available,
        devices=devices,
        warnings=[" ".join(str(warning.message).split()) for warning in caught],
        error="",
        fault=fault,
    )


def _device(torch: Any, number: int) -> Device:
    properties = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    return Device(
        name=properties.name,
        memory_gb=total / GB,
        free_gb=free / GB,
        capability=f"{properties.major}.{properties.minor}",
    )


def nvidia_smi() -> str:
    """What ``nvidia-smi`` prints, or nothing where there is none."""
    try:
        return subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=60).stdout[:4000]
    except (OSError, subprocess.TimeoutExpired):
        return ""


def driver_cuda() -> int:
    """The highest CUDA that the driver supports, 12040 for 12.4; 0 where there is no driver."""
    version = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return version.value


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "gpu")

"""What a job of the preflight finds on its node: files of the login node, its wait, torch and the GPU."""

import ctypes
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

# how long a file written before the job may take to appear on the node
TOKEN_SECONDS = 30
COMMAND_SECONDS = 400
TORCH = """
import json, sys, time
start = time.monotonic()
import torch
seconds, devices = time.monotonic() - start, []
for number in range(torch.cuda.device_count() if "gpu" in sys.argv else 0):
    ones = torch.ones(64, 64, device=f"cuda:{number}")
    if (ones @ ones).sum().item() != 64**3:
        sys.exit("a product of matrices came out wrong")
    devices.append(torch.cuda.get_device_name(number))
print(json.dumps(dict(seconds=seconds, version=torch.__version__, cuda=torch.version.cuda, devices=devices)))
"""


class Torch(TypedDict):
    """Seconds that its import takes, its version, its CUDA, and the GPUs on which it computes."""

    seconds: float
    version: str
    cuda: str | None
    devices: list[str]


class Facts(TypedDict):
    """What a job found.

    ``token`` is empty where the file did not appear, ``job`` is the line of ``scontrol show job``. ``torch``
    is None where it does not start or not compute, and ``error`` says why. ``driver_cuda`` is what
    :func:`driver_cuda` returns.
    """

    node: str
    python: str
    token: str
    token_seconds: float
    job: str
    torch: Torch | None
    error: str
    visible_devices: str | None
    driver_cuda: int


def collect(token: Path, gpu: bool) -> Facts:
    """Look around on this node: read the ``token`` file, start torch and, in a GPU job, compute with it."""
    start = time.monotonic()
    while not token.exists() and time.monotonic() - start < TOKEN_SECONDS:
        time.sleep(0.1)
    seconds = time.monotonic() - start
    # in a process of its own, so that a crash is a finding too
    torch, error = run(sys.executable, "-c", TORCH, "gpu" if gpu else "cpu")
    return Facts(
        node=socket.gethostname(),
        python=platform.python_version(),
        token=token.read_text(encoding="utf-8") if token.exists() else "",
        token_seconds=seconds,
        job=run("scontrol", "show", "job", "--oneliner", os.environ.get("SLURM_JOB_ID", ""))[0],
        torch=json.loads(torch) if torch else None,
        error=error,
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        driver_cuda=driver_cuda(),
    )


def run(*command: str) -> tuple[str, str]:
    """The last line that a command prints, or nothing and why it failed."""
    environment: dict[str, Any] = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode == 0:
        return last_line(done.stdout), ""
    # advice may follow an error in the lines below it
    errors = [line for line in done.stderr.splitlines() if re.match(r"[\w.]*Error\b", line)]
    return "", last_line("\n".join(errors) or done.stderr) or f"it ended with exit code {done.returncode}"


def last_line(text: str) -> str:
    """The last line of ``text`` that is not blank."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def driver_cuda() -> int:
    """The highest CUDA that the NVIDIA driver supports, 12040 for 12.4; 0 without a driver."""
    version = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return version.value

"""Small slide files for the tests, and the folder of real ones."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

REAL = Path(os.environ.get("MYOSTAGE_REAL_DATA", Path(__file__).parents[3] / "shared/data")).resolve()


def unavailable() -> str:
    """Why nothing real can be tested here; empty where it can."""
    if (REAL / "muscle-fibres").is_dir():
        return ""
    return f"no real slides in {REAL}; MYOSTAGE_REAL_DATA names their folder"


def real(name: str) -> Path:
    """A real file, or a skip that says what is missing."""
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is missing; MYOSTAGE_REAL_DATA names the folder of real slides")
    return REAL / name


def smooth_noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A coloured picture with structure of about 16 px, so that resampling loses little of it."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (height // 16 + 2, width // 16 + 2, 3))
    y, x = np.arange(height) / 16, np.arange(width) / 16
    rows, columns = y.astype(int), x.astype(int)
    fy, fx = (y - rows)[:, None, None], (x - columns)[None, :, None]
    above = coarse[rows][:, columns] * (1 - fx) + coarse[rows][:, columns + 1] * fx
    below = coarse[rows + 1][:, columns] * (1 - fx) + coarse[rows + 1][:, columns + 1] * fx
    return (above * (1 - fy) + below * fy).astype(np.uint8)


def write_pyramid(path: Path, pixels: NDArray[np.uint8], mpp: float | None, levels: int = 1) -> Path:
    """A tiled, pyramidal TIFF that OpenSlide opens; level n is every 2**n-th block's mean."""
    with tifffile.TiffWriter(path) as out:
        for level in range(levels):
            step = 2**level
            height, width = (side // step * step for side in pixels.shape[:2])
            blocks = pixels[:height, :width].reshape(height // step, step, width // step, step, 3)
            options: dict[str, Any] = {"subfiletype": 1} if level else {}
            if mpp is not None:
                options |= {"resolution": (1e4 / mpp / step,) * 2, "resolutionunit": "CENTIMETER"}
            means = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
            out.write(means, tile=(64, 64), photometric="rgb", compression="deflate", **options)
    return path

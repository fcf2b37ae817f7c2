"""Embeddings of many slides: the same numbers in memory and in files, and memory stays below its limit."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from myostage.features.held import Held

WIDTH, CELLS = 500, 1000  # 2 MB in float32


def parts(seed: int, dtype: torch.dtype = torch.float32) -> Iterator[Tensor]:
    """The embeddings of a slide, as an encoder makes them."""
    generator = torch.Generator().manual_seed(seed)
    for cells in (256, 256, 256, CELLS - 768):
        with torch.inference_mode():
            made = torch.randn(cells, WIDTH, generator=generator).to(dtype)
        yield made


def own_mb() -> float:
    """Memory of this process that the system cannot take back, MB."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1e3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("limit_mb", [0, 3, 100])
def test_embeddings_are_the_same_wherever_they_lie(
    tmp_path: Path, limit_mb: float, dtype: torch.dtype
) -> None:
    held = Held(limit_mb)
    found = [held.hold(parts(seed, dtype), CELLS, tmp_path) for seed in range(3)]
    assert held.bytes <= limit_mb * 1e6
    for seed, values in enumerate(found):
        assert torch.equal(values, torch.cat(list(parts(seed, dtype)))) and values.dtype == dtype
        assert not values.is_inference()
    assert list(tmp_path.iterdir()) == []


def test_memory_and_file_handles_do_not_grow_with_the_slides(tmp_path: Path) -> None:
    held, handles = Held(4), len(list(Path("/proc/self/fd").iterdir()))
    held.hold(parts(0), CELLS, tmp_path)
    before = own_mb()
    found = [held.hold(parts(seed), CELLS, tmp_path) for seed in range(100)]
    assert own_mb() - before < 60 < len(found) * 2
    assert len(list(Path("/proc/self/fd").iterdir())) <= handles + 1

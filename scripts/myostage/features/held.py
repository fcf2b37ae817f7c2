"""What a frozen encoder makes of many slides: in memory up to a limit, beyond it in files that are mapped."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

_MB = 1e6


@dataclass(eq=False)
class Held:
    """Embeddings of slides, at most ``limit_mb`` of them in memory; ``bytes`` are there."""

    limit_mb: float
    bytes: int = 0

    def hold(self, parts: Iterable[Tensor], cells: int, folder: Path) -> Tensor:
        """The embeddings [cells, E] of one slide, which come in parts [n, E].

        Parameters
        ----------
        folder
            Where the file lies that takes what memory may not hold. It has no name and goes with the tensor.

        Raises
        ------
        OSError
            The disk of ``folder`` is full.
        """
        each = iter(parts)
        first = next(each)
        size = cells * first[0].nbytes
        if self.bytes + size <= self.limit_mb * _MB:
            self.bytes += size
            return torch.cat([first, *each])
        with tempfile.TemporaryFile(dir=folder) as file:
            for part in chain([first], each):
                file.write(part.cpu().numpy().data)
            file.flush()
            # once mapped it needs no file handle
            name, numbers = f"/dev/fd/{file.fileno()}", cells * first[0].numel()
            mapped = torch.from_file(name, shared=True, size=numbers, dtype=first.dtype)
        return mapped.reshape(cells, *first.shape[1:])

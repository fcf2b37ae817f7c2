"""Weights of networks from files of others: nothing in them is run, and what cannot be weights is refused."""

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from myostage.errors import printable


def read(path: Path) -> Any:
    """What a .safetensors file, or one of ``torch.save``, holds: tensors, numbers, text, lists, dictionaries.

    Raises
    ------
    ValueError
        The file cannot be read, would run something, or holds more than its size says; a few words why.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                    raise ValueError("it is compressed")  # torch.save stores as it is
        # DINO's training checkpoints carry their command line; nothing else may be unpickled
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # text, for one, is read as a pickle, which raises whatever it likes
        reason = str(error).partition(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(reason) from None


def faults(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with those tensors of ``state`` that are ``wanted``: kind, shape, or no finite values."""
    found = []
    for name, like in wanted.items():
        tensor = state[name]
        if tensor.layout != torch.strided or tensor.is_floating_point() != like.is_floating_point():
            found.append(f"{name} holds {tensor.dtype} where {like.dtype} is needed")
        elif tensor.shape != like.shape:
            found.append(f"{name} {list(tensor.shape)} where {list(like.shape)} is needed")
        elif not torch.isfinite(tensor).all():
            found.append(f"{name} holds NaN or infinite values")
    return [printable(fault.replace("torch.", "")) for fault in found]

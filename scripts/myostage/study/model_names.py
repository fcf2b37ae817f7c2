"""Models that Cellpose and timm know by name, read from their source: importing them takes seconds."""

import ast
import importlib.util
import os
import re
from functools import cache
from pathlib import Path

from myostage.schema import nearest

HUB = re.compile(r"hf[-_]hub:([\w.-]+/[\w.-]+)")
# they need another network than Cellpose's own
TRANSFORMERS = frozenset({"transformer_cp3", "neurips_cellpose_default", "neurips_cellpose_transformer"})


def _folder(package: str) -> Path | None:
    """Where a package lies; none where it is not installed, as on a node that only starts jobs."""
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent if found and found.origin else None


@cache
def cellpose_names() -> tuple[str, ...]:
    """Networks that Cellpose fetches by name; none where it is not installed."""
    folder = _folder("cellpose")
    if folder is None:
        return ()
    tree = ast.parse((folder / "models.py").read_text(encoding="utf-8"))
    (listed,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODEL_NAMES"
    ]
    return tuple(name for name in dict.fromkeys(listed) if name not in TRANSFORMERS)


@cache
def timm_names() -> dict[str, bool]:
    """Models of timm, with and without the tag of their weights -> whether they may be plain ViTs."""
    folder = _folder("timm")
    names: dict[str, bool] = {}
    for file in sorted((folder / "models").glob("*.py")) if folder else ():
        text = file.read_text(encoding="utf-8")
        found = re.findall(r"['\"]([\w-]+\.[\w.-]+)\*?['\"]\s*:\s*_", text)
        found += re.findall(r"^@register_model\ndef (\w+)\(", text, re.MULTILINE)
        names |= dict.fromkeys(found, "VisionTransformer" in text)
    return names


def cellpose_fault(key: str, name: str) -> list[str]:
    """What is wrong with the name of a Cellpose model at ``key``."""
    if name in TRANSFORMERS:
        return [f"{key} is {name}, a transformer, which is not supported; use cyto3"]
    known = cellpose_names()
    if not known or name in known:
        return []
    near = nearest(name, known)
    return [f"{key}: Cellpose has no model {name}{near}; name a file, or one of {', '.join(known)}"]


def timm_fault(key: str, name: str) -> list[str]:
    """What is wrong with the name of an encoder at ``key``."""
    known = timm_names()
    name = name.replace("_clip_quickgelu_", "_clip_")  # timm makes their tags from those without
    if HUB.fullmatch(name) or not known or known.get(name):
        return []
    if name in known:
        return [
            f"{key} is {name}, no plain ViT that can be split at its last block; name a vit_* model of timm"
        ]
    near = nearest(name, [other for other, vit in known.items() if vit], cutoff=0.7)
    return [f"{key}: timm has no model {name}{near}; name one, or one of the hub as hf-hub:OWNER/NAME"]


def cellpose_absent(name: str) -> str:
    """The file that a named Cellpose model would be fetched to; empty where it is there."""
    folder = os.environ.get("CELLPOSE_LOCAL_MODELS_PATH") or "~/.cellpose/models"
    file = name + ("torch_0" if name in ("cyto", "cyto2", "nuclei") else "")
    return "" if Path(folder, file).expanduser().exists() else f"{folder}/{file}"


def hub_absent(name: str) -> str:
    """What of the hub an encoder's weights would be fetched from; empty where they are in the local cache."""
    found = HUB.fullmatch(name)
    tagged = next((other for other in timm_names() if other.startswith(f"{name}.")), name)
    repository = found[1] if found else f"timm/{tagged}"
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache_folder = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    place = cache_folder / f"models--{repository.replace('/', '--')}"
    return "" if next(place.glob("snapshots/*/*"), None) else repository

"""Bags of ready-made features: public benchmarks in the formats that torchmil's data sets read.

A bag is a slide whose instances are tiles, or a CT scan whose instances are slices. It enters the workflow as
a slide of cells does: a token store (one token per instance), a table of positions and one of labels.
The formats are those of torchmil 1.0.2, which takes 12 s to import: nothing is imported before a bag is read.
"""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy.spatial import cKDTree

from myostage import tables
from myostage.cells.tables import LABELS, POSITIONS
from myostage.errors import UserError, raise_all
from myostage.features import tokens
from myostage.schema import nearest

logger = logging.getLogger(__name__)

Dataset = Literal["camelyon16", "panda", "rsna"]

PATCH_PX = 512
"""Side of a tile in the released sets, px."""
REMEDY = "extract the archives of the set again"
_KEYS = ["X", "Y", "y_inst", "coords"]


@dataclass(frozen=True)
class Source:
    """What tells one benchmark from another.

    Attributes
    ----------
    reader
        Its class in ``torchmil.datasets``.
    variable
        Environment variable that stands for its root in a slide table.
    groups
        Groups of bags with label 0 and 1.
    instance_labels
        Folder of the instances' labels.
    tiles
        Whether instances are tiles of a slide, with coordinates, below ``patches_{patch_px}``.
    """

    reader: str
    variable: str
    groups: tuple[str, str]
    instance_labels: str
    tiles: bool


SOURCES: dict[Dataset, Source] = {
    "camelyon16": Source(
        "CAMELYON16MILDataset", "CAMELYON16_MIL", ("normal", "tumour"), "patch_labels", True
    ),
    "panda": Source("PANDAMILDataset", "PANDA_MIL", ("benign", "cancer"), "patch_labels", True),
    "rsna": Source("RSNAMILDataset", "RSNA_MIL", ("normal", "haemorrhage"), "slice_labels", False),
}


@dataclass(frozen=True)
class Bag:
    """One slide or CT scan of n instances.

    Attributes
    ----------
    name
        Its name in the set.
    features : float32[n, D]
        Finite.
    positions : float64[n, 2]
        Of tiles in sides of a tile, from the first column and row that hold one; of slices (number, 0).
    label
        0 or 1.
    instances : int64[n] or None
        0, 1, or -1 where unknown; None where all are.
    """

    name: str
    features: np.ndarray
    positions: np.ndarray
    label: int
    instances: np.ndarray | None


def bags(dataset: Dataset, root: Path, features: str, patch_px: int = PATCH_PX) -> list[tuple[str, str, int]]:
    """Name, split and label of every bag of the set that has features, by name.

    Bags of ``splits.csv`` without features are left out, as torchmil leaves them out; the log names them.

    Parameters
    ----------
    dataset, root
        Which benchmark, and its folder.
    features
        Name of the features, such as UNI.
    patch_px
        Side of a tile, px; without effect on CT scans.

    Raises
    ------
    UserError
        The folder, ``splits.csv`` or the features are missing, or a label is missing, damaged, or not 0 or 1.
    """
    splits = _splits(root)
    folder = _features_folder(dataset, root, features, patch_px)
    names = [name for name in sorted(splits) if (folder / f"{name}.npy").is_file()]
    without = sorted(set(splits) - set(names))
    if not names:
        raise UserError(f"{folder}: holds no bag of {root / 'splits.csv'}; {REMEDY}")
    if without:
        logger.warning(
            "%d of %d bags of %s have no file in %s and are left out: %s",
            len(without), len(splits), root / "splits.csv", folder, _listed(without),
        )  # fmt: skip
    labels, problems = {}, []
    for name in names:
        try:
            labels[name] = _label(_files(dataset, root, features, patch_px, name)["label"])
        except UserError as error:
            problems.append(str(error))
    raise_all(str(root), problems)
    return [(name, splits[name], labels[name]) for name in names]


def files(dataset: Dataset, root: Path, features: str, name: str, patch_px: int = PATCH_PX) -> list[str]:
    """The files that shape a bag, whether they are there or not; the first is that of its features."""
    return [str(path) for path in _files(dataset, root, features, patch_px, name).values()]


def read_bag(dataset: Dataset, root: Path, features: str, name: str, patch_px: int = PATCH_PX) -> Bag:
    """Read one bag through torchmil's data set.

    Parameters
    ----------
    dataset, root, features, patch_px
        As in :func:`bags`.
    name
        Of the bag, in ``splits.csv``.

    Raises
    ------
    UserError
        The folder, ``splits.csv``, the features or the bag is missing; a file of the bag is missing, damaged,
        or as long as another is not; the bag is empty; its features are not finite; a label is not 0 or 1.
    """
    splits = _splits(root)
    if name not in splits:
        raise UserError(
            f"{root / 'splits.csv'}: no bag {name}{nearest(name, splits)}; correct the slide table, which "
            "scripts/features_table.py writes"
        )
    _features_folder(dataset, root, features, patch_px)
    paths = _files(dataset, root, features, patch_px, name)
    label = _label(paths.pop("label"))
    # torchmil compares no lengths, and fails on an empty bag
    lengths = {path: _length(path) for path in paths.values()}
    if len(set(lengths.values())) > 1:
        lengths_of = ", ".join(f"{path} {length}" for path, length in lengths.items())
        raise UserError(f"bag {name}: its files differ in their number of instances ({lengths_of}); {REMEDY}")
    if not lengths[paths["features"]]:
        raise UserError(
            f"bag {name}: {paths['features']} holds no instance; take the bag out of the slide table"
        )
    opened, index = _opened(dataset, root, features, patch_px, splits[name])
    try:
        found = opened[index[name]]
    except (TypeError, ValueError) as error:
        raise UserError(f"bag {name}: torchmil cannot read it ({error}); {REMEDY}") from None
    finally:
        # it would keep every bag in memory
        opened.loaded_bags.clear()
    values = found["X"].to(torch.float32).numpy()
    if values.ndim != 2 or not np.isfinite(values).all():
        shape = " x ".join(map(str, values.shape))
        raise UserError(f"{paths['features']}: {shape} numbers are no finite features of instances; {REMEDY}")
    positions = found["coords"].to(torch.float64).numpy()
    if not SOURCES[dataset].tiles:
        positions = np.pad(positions, ((0, 0), (0, 1)))
    elif positions.shape[1:] != (2,) or (positions < 0).any():
        # from the first column and row: below 0 is what NaN becomes
        raise UserError(f"{paths['coords']}: holds no x and y for every tile; {REMEDY}")
    instances = found["y_inst"].to(torch.int64).numpy()
    if not np.isin(instances, (-1, 0, 1)).all():
        raise UserError(f"{paths['instances']}: holds labels other than 0, 1 and -1 (unknown); {REMEDY}")
    known = (instances >= 0).any()
    if not known:
        logger.info("%s: the labels of its instances are unknown, or contradict that of the bag", name)
    _tell_spacing(name, positions)
    return Bag(name, values, positions, label, instances if known else None)


def write_bag(
    bag: Bag,
    *,
    tokens_out: str | Path,
    positions_out: str | Path,
    labels_out: str | Path,
    encoder_json: str,
) -> None:
    """Write what the runs read of a bag; its instances are cells 0..n-1, in the order of the set.

    Parameters
    ----------
    tokens_out
        Token store of T = 1 token, float16; its metadata has ``encoder``.
    positions_out, labels_out
        ``POSITIONS``; ``LABELS`` of the instances whose label is known, without a row where
        none is.
    encoder_json
        What the tokens are of, as runs compare it.

    Raises
    ------
    UserError
        A feature lies beyond the range of float16.
    """
    cells = np.arange(len(bag.features), dtype=np.int32)
    with np.errstate(over="ignore"):
        stored = bag.features.astype(np.float16)
    beyond = ~np.isfinite(stored).all(axis=1)
    if beyond.any():
        raise UserError(
            f"bag {bag.name}: {beyond.sum()} of {len(cells)} instances (the first: {beyond.argmax()}) have "
            f"features beyond the range of float16 (up to {np.abs(bag.features).max():g}); scale the features"
        )
    with tokens.writer(
        tokens_out, tokens=1, width=stored.shape[1], metadata={"encoder": encoder_json}
    ) as out:
        out.write(cells, torch.from_numpy(stored[:, None]))
    positions = pd.DataFrame({"cell": cells, "x_um": bag.positions[:, 0], "y_um": bag.positions[:, 1]})
    tables.write(positions_out, positions, POSITIONS)
    stages = np.full(len(cells), -1) if bag.instances is None else bag.instances
    labels = pd.DataFrame({"cell": cells, "stage": stages, "iou": 1.0})
    tables.write(labels_out, labels[stages >= 0], LABELS)


@cache
def _opened(
    dataset: Dataset, root: Path, features: str, patch_px: int, partition: str
) -> tuple[Any, dict[str, int]]:
    """torchmil's data set of one split, and the index of each of its bags."""
    from torchmil import datasets

    source = SOURCES[dataset]
    side = {"patch_size": patch_px} if source.tiles else {}
    opened = getattr(datasets, source.reader)(
        str(root), features=features, partition=partition, bag_keys=_KEYS, load_at_init=False, **side
    )
    # it would warn of labels that contradict one another, which our log tells
    opened.verbose = False
    return opened, {name: number for number, name in enumerate(opened.get_bag_names())}


@cache
def _splits(root: Path) -> dict[str, str]:
    """Split of every bag."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; download the set there, or correct the path")
    path = root / "splits.csv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; download the set again, or name its own folder") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV table ({error}); download it again") from None
    if not rows or not {"bag_name", "split"} <= set(rows[0]):
        raise UserError(f"{path}: no columns bag_name and split with rows below them; download it again")
    pairs = {(row["bag_name"], row["split"]) for row in rows}
    splits = dict(pairs)
    if len(splits) < len(pairs):
        twice = sorted(name for name, split in pairs if splits[name] != split)
        raise UserError(f"{path}: {_listed(twice)} in two splits; keep one row of each bag")
    return splits


def _base(dataset: Dataset, root: Path, patch_px: int) -> Path:
    return root / f"patches_{patch_px}" if SOURCES[dataset].tiles else root


def _features_folder(dataset: Dataset, root: Path, features: str, patch_px: int) -> Path:
    """Folder of the named features; UserError that names those which are there."""
    base = _base(dataset, root, patch_px)
    if not base.is_dir():
        there = _listed(path.name for path in root.glob("patches_*") if path.is_dir())
        raise UserError(f"{base}: no such folder ({there} there); {REMEDY}, or set features.patch_px")
    folder = base / "features" / f"features_{features}"
    if not folder.is_dir():
        found = [path.name for path in folder.parent.glob("features_*") if path.is_dir()]
        raise UserError(
            f"{folder}: no such features ({_listed(found)} there); "
            f"{REMEDY}, or name another in the study file"
        )
    return folder


def _files(dataset: Dataset, root: Path, features: str, patch_px: int, name: str) -> dict[str, Path]:
    """The files of a bag by what they hold."""
    base, source = _base(dataset, root, patch_px), SOURCES[dataset]
    folders = {
        "features": f"features/features_{features}",
        "label": "labels",
        "instances": source.instance_labels,
    }
    folders |= {"coords": "coords"} if source.tiles else {}
    return {what: base / folder / f"{name}.npy" for what, folder in folders.items()}


def _array(path: Path) -> np.ndarray:
    """A mapped array."""
    try:
        found = np.load(path, mmap_mode="r")
        if not isinstance(found, np.ndarray):
            raise ValueError("an archive of arrays")
        return found
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; {REMEDY}") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a readable array ({error}); {REMEDY}") from None


def _length(path: Path) -> int:
    """Instances in a file of a bag."""
    found = _array(path)
    return len(found) if found.ndim else 0


def _label(path: Path) -> int:
    """Label of a bag."""
    found = _array(path)
    if found.size != 1 or found.item() not in (0, 1):
        raise UserError(f"{path}: holds {found.tolist()} where a label is 0 or 1; {REMEDY}")
    return int(found.item())


def _tell_spacing(name: str, positions: np.ndarray) -> None:
    """Warn where tiles do not lie side by side: then a radius in sides means something else."""
    if len(positions) < 2:
        return
    distance = cKDTree(positions).query(positions, k=2)[0][:, 1]
    if not distance.min() == np.median(distance) == 1:
        logger.warning(
            "%s: the nearest neighbour of an instance lies %g sides away (median %g) where 1 is expected; "
            "choose graph.radius_um accordingly",
            name, distance.min(), np.median(distance),
        )  # fmt: skip


def _listed(names: Any, most: int = 10) -> str:
    found: Sequence[str] = sorted(names)
    rest = len(found) - most
    return (", ".join(found[:most]) or "nothing") + (f" and {rest} more" if rest > 0 else "")

"""Cellpose on tiles: the model the study names and no other; label images from pixels."""

import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol
from unittest.mock import patch
from urllib.error import URLError

import numba
import numpy as np
import torch
from numpy.typing import NDArray

with suppress(RuntimeError), patch.object(numba, "njit", partial(numba.njit, cache=True)):
    # Cellpose compiles its loops whenever it is imported, for seconds; here numba keeps what it has compiled,
    # unless it finds no folder for it, which is the RuntimeError
    import cellpose.dynamics  # noqa: F401

from cellpose import models
from cellpose.resnet_torch import CPnet

from myostage.errors import UserError
from myostage.runtime import weights
from myostage.study.model_names import TRANSFORMERS
from myostage.study.sections.segmentation import Segmentation

log = logging.getLogger(__name__)
# A batch of tiles is a stack to Cellpose, which then warns that it will not be stitched in depth.
logging.getLogger("cellpose.models").addFilter(lambda record: "3D stack used" not in str(record.msg))

WIDTHS = (32, 64, 128, 256)
"""Channels of the four levels of Cellpose's own network (6.6 M parameters)."""
SMALL_WIDTHS = (8, 16, 32, 64)
"""Channels of the small network (0.4 M parameters): the same depth and field of view."""
DIAMETER_PX = 30.0
"""Diameter to which Cellpose scales cells; 17 for its model of nuclei."""
NUCLEI_DIAMETER_PX = 17.0
STYLE = 256
"""Cellpose stores 256 style features per image, whatever the network's width."""
WIDEST = 4096
"""Channels of a layer that a file may ask for: a network of them takes 1.3 GB."""
MAX_SIZE_FRACTION = 0.4
"""Cellpose's limit on a cell's share of the tile, raised where cells are large against the tile."""
BLOCK_PX = 224
"""Side of the blocks that Cellpose cuts an image into for its network."""
LARGEST_BLOCK_PX = 544
"""A larger side is left to Cellpose's own blocks: memory grows with the area of a block."""
PADDING_PX = 16
"""Cellpose fills up sides to a multiple of it, and adds it once more."""

Grey = NDArray[np.float32]
Limits = tuple[float, float]


class Segmenter(Protocol):
    """What finds cells in tiles."""

    def masks(self, tiles: NDArray[np.uint8], limits: Limits | None = None) -> NDArray[np.integer]:
        """Label images int[n, h, w] of tiles uint8[n, h, w, 3]; ``limits``: greys that become 0 and 1."""
        ...


class Network(CPnet):
    """Cellpose's network at any width; styles are filled up to the length Cellpose stores."""

    def __init__(self, widths: tuple[int, ...], diameter_px: float = DIAMETER_PX) -> None:
        super().__init__([2, *widths], 3, sz=3, mkldnn=False, max_pool=True, diam_mean=diameter_px)

    def forward(self, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        flows, style, levels = super().forward(data)
        return flows, torch.nn.functional.pad(style, (0, STYLE - style.shape[1])), levels


@dataclass
class CellposeRunner:
    """A Cellpose model ready to segment tiles at one resolution.

    Parameters
    ----------
    segmentation
        The study's section; its model is a name of Cellpose's or a file.
    model_path
        A model trained by this study; takes the place of ``segmentation.model``.
    mpp : float
        um per px of the tiles.
    device
        ``cpu``, ``cuda`` or ``auto`` (a GPU where there is one).

    Raises
    ------
    UserError
        The model is missing, cannot be fetched, is damaged, is no Cellpose 1-3 network or has another
        checksum.
    """

    segmentation: Segmentation
    model_path: str | Path | None
    mpp: float
    device: str = "auto"

    def __post_init__(self) -> None:
        # A trained model has no checksum in the study file: it is made by the study itself.
        expected = None if self.model_path else self.segmentation.sha256
        self.path = Path(self.model_path) if self.model_path else find_model(self.segmentation.model)
        self.sha256 = check_model(self.path, expected)
        name = "cuda" if self.device == "auto" and torch.cuda.is_available() else self.device
        device = torch.device("cpu" if name == "auto" else name)
        net = load_network(self.path).to(device)
        diameter_px = float(net.diam_mean)
        self.model = as_cellpose(net, diameter_px)
        self.diameter_px = self.segmentation.diameter_um / self.mpp
        trained_on = float(net.diam_labels)
        log.info(
            "Cellpose model %s on %s: cells of %.0f px here are scaled to %.0f px (trained on %.0f px)",
            self.path, device, self.diameter_px, diameter_px, trained_on,
        )  # fmt: skip

    def masks(self, tiles: NDArray[np.uint8], limits: Limits | None = None) -> NDArray[np.integer]:
        """Label images int[n, h, w] of RGB tiles uint8[n, h, w, 3]."""
        if self.model.device.type == "cpu" and len(tiles) > 1:
            # what a batch gains on a GPU it loses on a CPU, whose cache holds the activations of one tile
            return np.concatenate([self.evaluate(tile[None], limits) for tile in tiles])
        return self.evaluate(tiles, limits)

    def evaluate(self, tiles: NDArray[np.uint8], limits: Limits | None) -> NDArray[np.integer]:
        """As :meth:`masks`, always as one batch."""
        n, height, width = tiles.shape[:3]
        # a cell of twice the typical diameter must never be taken for background
        largest = np.pi * self.diameter_px**2 / (height * width)
        labels = self.model.eval(
            to_grey(tiles),
            channels=None,
            channel_axis=3,
            batch_size=self.segmentation.batch_size,
            diameter=self.diameter_px,
            # always a mapping: given a bool, Cellpose changes its own defaults for every later call
            normalize={"norm3D": False} if limits is None else {"lowhigh": list(limits), "norm3D": False},
            flow_threshold=self.segmentation.flow_threshold,
            cellprob_threshold=self.segmentation.cellprob_threshold,
            max_size_fraction=float(np.clip(largest, MAX_SIZE_FRACTION, 1.0)),
            bsize=find_block(max(height, width), float(self.model.diam_mean) / self.diameter_px),
        )[0]
        return np.asarray(labels).reshape(n, height, width)


def find_block(side_px: int, scale: float) -> int:
    """Side of the block by which a tile passes the network in one piece, px.

    Cellpose scales a tile, fills it up (256 px to 272), and cuts what is above 224 px into overlapping
    blocks: four for a tile of 256 px, nearly three times its area.

    Parameters
    ----------
    side_px
        The longer side of the tiles.
    scale
        By what Cellpose enlarges them.
    """
    filled = (-(-int(side_px * scale) // PADDING_PX) + 1) * PADDING_PX
    return filled if filled <= LARGEST_BLOCK_PX else BLOCK_PX


def to_grey(images: NDArray[np.uint8]) -> Grey:
    """Cellpose's greyscale input (its channels [0, 0]): mean of R, G, B and an empty channel."""
    grey = images.mean(axis=-1, dtype=np.float32)
    return np.stack([grey, np.zeros_like(grey)], axis=-1)


def find_model(model: str | None) -> Path:
    """File of a Cellpose model given by name (fetched at first use) or by path.

    Raises
    ------
    UserError
        No such file, or the named model is not on this machine and cannot be fetched.
    """
    if model is None:
        raise UserError(
            "segmentation.model: none is given and none was trained; name a Cellpose model or a file"
        )
    if model not in models.MODEL_NAMES:
        if not Path(model).is_file():
            raise UserError(
                f"segmentation.model: there is no file {model}, and Cellpose has no model of that name; "
                f"correct the path or use one of {', '.join(sorted(set(models.MODEL_NAMES) - TRANSFORMERS))}"
            )
        return Path(model)
    if model in TRANSFORMERS:
        raise UserError(f"segmentation.model: {model} is a transformer, which is not supported; use cyto3")
    try:
        return Path(models.model_path(model))
    except (URLError, OSError) as error:
        raise UserError(
            f"segmentation.model: {model} is not in {models.MODEL_DIR} and could not be fetched ({error}); "
            "download it on a machine with network and name its folder in CELLPOSE_LOCAL_MODELS_PATH"
        ) from None


def check_model(path: Path, sha256: str | None) -> str:
    """Checksum of a model file.

    Raises
    ------
    UserError
        The file is missing, or its checksum is not ``sha256``.
    """
    if not path.is_file():
        raise UserError(f"{path}: the Cellpose model is missing; correct segmentation.model or train it")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise UserError(
            f"{path}: the Cellpose model has sha256 {found}, but segmentation.sha256 asks for {sha256}; "
            "restore the file or correct the checksum"
        )
    return found


def load_network(path: Path) -> Network:
    """The network of a Cellpose 1-3 file, of whatever width; every weight must be there.

    Raises
    ------
    UserError
        The file is damaged or holds another kind of network.
    """
    try:
        state = weights.read(path)
        first_weights = [f"downsample.down.res_down_{level}.conv.conv_0.2.weight" for level in range(8)]
        widths = tuple(state[name].shape[0] for name in first_weights if name in state)
        if max(widths, default=0) > WIDEST:
            raise ValueError(f"its layers are {max(widths):,} wide")
        diameter = NUCLEI_DIAMETER_PX if path.name.startswith("nuclei") else DIAMETER_PX
        net = Network(widths, diameter)
        # the oldest models of Cellpose's do not store the two diameters
        state = {"diam_mean": net.diam_mean, "diam_labels": net.diam_labels, **state}
        own = net.state_dict()
        if odd := weights.faults(state, {name: own[name] for name in own.keys() & state.keys()}):
            raise ValueError("; ".join(sorted(odd)))
        net.load_state_dict(state, strict=True)
        if not all(1 <= float(diameter) <= 1e4 for diameter in (net.diam_mean, net.diam_labels)):
            raise ValueError(f"its diameters are {float(net.diam_mean):g} and {float(net.diam_labels):g} px")
    except Exception as error:  # whatever torch says of a file that is no model
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a Cellpose 1-3 network ({first[:99]}); copy it again or correct segmentation.model"
        ) from None
    return net


def as_cellpose(net: Network, diameter_px: float) -> models.CellposeModel:
    """Cellpose's own model object around a network."""
    device = next(net.parameters()).device
    # else Cellpose converts the network at every batch on a CPU, and cannot train it afterwards
    model = models.CellposeModel(pretrained_model=False, device=device, mkldnn=False, diam_mean=diameter_px)
    model.net = net.eval()
    model.diam_labels = float(net.diam_labels)
    return model

"""From tiles to the table of cells of a slide; training Cellpose on a study's own images."""

import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from myostage import tables
from myostage.cells.cellpose import (
    DIAMETER_PX,
    SMALL_WIDTHS,
    WIDTHS,
    CellposeRunner,
    Limits,
    Network,
    Segmenter,
    as_cellpose,
    find_model,
    load_network,
    to_grey,
)
from myostage.cells.merging import Cell, Tile, merge
from myostage.cells.shapes import measure
from myostage.cells.tables import CELLS
from myostage.errors import UserError
from myostage.slides.pixels import placeholder, save_png
from myostage.slides.slide import Slide, open_slide, read_labels, read_picture
from myostage.slides.tables import TILES
from myostage.study.inputs import read_training_images
from myostage.study.sections.segmentation import CellposeTraining, Segmentation
from myostage.study.sections.tiling import Tiling

log = logging.getLogger(__name__)
_Item = TypeVar("_Item")

CELLS_PER_ROW_GROUP = 4096
PERCENTILES = (1.0, 99.0)
"""Grey values scaled to 0 and 1, as Cellpose does."""
PERCENTILE_TILES = 200
"""Tiles, evenly spread over a slide, that its percentiles are taken from."""
PROGRESS_SECONDS = 10.0
QC_PX = 2048
QC_COLOUR = (0, 255, 200)
QC_BORDER_COLOUR = (255, 190, 0)
MIN_TRAINING_CELLS = 5
"""Cellpose leaves out images with fewer cells without a word."""
LARGEST_TRAINING_PX = 10**8
TRAINING_CROPS = 8
"""Crops per epoch at least, which is also the batch."""
IOU = 0.5


def segment_slide(
    slide_row: Any,
    tiles_path: str | Path,
    tiling: Tiling,
    segmentation: Segmentation,
    model_file: str | Path | None,
    out_cells: str | Path,
    out_qc_png: str | Path,
    model: Segmenter | None = None,
    metadata: dict[str, str] | None = None,
) -> int:
    """Find, measure and write the cells of a slide, batch by batch of tiles.

    Parameters
    ----------
    slide_row
        Row of the slides table (``slide``, ``path``, ``mpp``, ``status``).
    tiles_path
        The slide's tiles table.
    model_file
        Cellpose model trained by the study; none where ``segmentation.model`` names one.
    out_cells, out_qc_png
        The cells table, and the slide with the outlines drawn in (orange: cut by an edge).
    model
        A loaded model, so that slides handled by one job share it.
    metadata
        Written into the table, beside what is said of the model.

    Returns
    -------
    int
        Cells written; 0 for a slide without tiles, or a skipped one.
    """
    if slide_row.status != "ok":
        tables.write(out_cells, CELLS.schema.empty_table(), CELLS, metadata)
        save_png(placeholder(), out_qc_png)
        return 0
    table = tables.read(tiles_path, TILES).sort_values(["y_px", "x_px"])
    numbers = table[
        ["tile", "x_px", "y_px", "core_x0_px", "core_y0_px", "core_x1_px", "core_y1_px"]
    ].to_numpy()
    tiles = [Tile(tile, x, y, (x0, y0, x1, y1)) for tile, x, y, x0, y0, x1, y1 in numbers.tolist()]
    if model is None and tiles:
        model = CellposeRunner(segmentation, model_file, tiling.mpp)
    about = {"cellpose": version("cellpose")}
    if isinstance(model, CellposeRunner):
        about |= {"cellpose_model": str(model.path), "cellpose_sha256": model.sha256}
    with open_slide(slide_row.path, slide_row.mpp) as slide:
        width, height = slide.size(tiling.mpp)
        cells: Iterable[Cell] = ()
        if model is not None and tiles:
            limits = slide_limits(slide, tiles, tiling) if segmentation.normalise == "slide" else None
            labelled = _labels(
                slide, tiles, tiling, segmentation.batch_size, model, limits, str(slide_row.slide)
            )
            cells = merge(
                labelled,
                tiles,
                tile_px=tiling.tile_px,
                width_px=width,
                height_px=height,
                slack_px=segmentation.diameter_um / tiling.mpp / 2,
                min_area_px=segmentation.min_area_um2 / tiling.mpp**2,
            )
        with tables.writer(out_cells, CELLS, {**about, **(metadata or {})}) as out:
            count = 0
            for group in _batched(cells, CELLS_PER_ROW_GROUP):
                out.write_table(_table(group, count, tiling.mpp))
                count += len(group)
        draw_cells(slide, out_cells, tiling.mpp, out_qc_png)
    log.info("%s: %d cells in %d tiles", slide_row.slide, count, len(tiles))
    return count


def slide_limits(slide: Slide, tiles: list[Tile], tiling: Tiling) -> Limits:
    """The 1 % and 99 % percentile of grey over (evenly spread) tiles of a slide, 0 to 255."""
    counts = np.zeros(3 * 255 + 1, dtype=np.int64)
    for tile in tiles[:: -(-len(tiles) // PERCENTILE_TILES)]:
        image = _read(slide, tile, tiling)
        counts += np.bincount(image.sum(axis=-1, dtype=np.int64).ravel(), minlength=counts.size)
    share = np.cumsum(counts) / counts.sum()
    low, high = (float(np.searchsorted(share, percentile / 100)) / 3 for percentile in PERCENTILES)
    return low, max(high, low + 1.0)  # a slide of one colour is no reason to divide by nothing


def _read(slide: Slide, tile: Tile, tiling: Tiling) -> NDArray[np.uint8]:
    return slide.read(tile.x, tile.y, tiling.tile_px, tiling.tile_px, tiling.mpp)


def _labels(
    slide: Slide,
    tiles: list[Tile],
    tiling: Tiling,
    batch_size: int,
    model: Segmenter,
    limits: Limits | None,
    name: str,
) -> Iterator[tuple[Tile, NDArray[np.integer]]]:
    """Tiles with their label images, in order."""
    start = said = time.monotonic()
    done = 0
    for batch in _batched(tiles, batch_size):
        images = np.stack([_read(slide, tile, tiling) for tile in batch])
        yield from zip(batch, model.masks(images, limits), strict=True)
        done += len(batch)
        now = time.monotonic()
        if now - said >= PROGRESS_SECONDS:
            rate, said = done / (now - start), now
            log.info("%s: %d of %d tiles, %.1f tiles/s, %.0f s left", name, done, len(tiles), rate,
                     (len(tiles) - done) / rate)  # fmt: skip


def _table(cells: Iterable[Cell], first: int, mpp: float) -> pa.Table:
    """Rows of the cells table, numbered from ``first``."""
    rows = []
    for number, cell in enumerate(cells, start=first):
        shape = measure(cell.mask, mpp)
        rows.append(
            {
                "cell": number,
                "tile": cell.tile.number,
                "x_px": cell.x,
                "y_px": cell.y,
                "x_um": cell.x * mpp,
                "y_um": cell.y * mpp,
                "area_um2": shape.area_um2,
                "perimeter_um": shape.perimeter_um,
                "min_feret_um": shape.min_feret_um,
                "max_feret_um": shape.max_feret_um,
                "circularity": shape.circularity,
                "solidity": shape.solidity,
                "border": cell.border,
                "polygon": (shape.outline + np.array([cell.x0, cell.y0])).astype(np.float32).ravel(),
            }
        )
    return pa.Table.from_pylist(rows, schema=CELLS.schema)


def draw_cells(slide: Slide, cells_path: str | Path, mpp: float, out_png: str | Path) -> None:
    """Write the slide, at most 2048 px wide, with the outline of every cell; orange where an edge cuts it."""
    image = Image.fromarray(slide.thumbnail(QC_PX))
    scale = np.float32(image.width * mpp / (slide.width_px * slide.mpp))
    draw = ImageDraw.Draw(image)
    with tables.open_table(cells_path, CELLS) as file:
        for batch in file.iter_batches(columns=["border", "polygon"]):
            for border, polygon in zip(batch["border"].to_pylist(), batch["polygon"], strict=True):
                points = polygon.values.to_numpy() * scale
                draw.polygon(points.tolist(), outline=QC_BORDER_COLOUR if border else QC_COLOUR, width=2)
    save_png(np.asarray(image), out_png)


def _batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """As ``itertools.batched`` of Python 3.12."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


class _Example(NamedTuple):
    image: NDArray[np.uint8]
    masks: NDArray[np.int32]


def train_cellpose(
    training: CellposeTraining, *, diameter_um: float, mpp: float, out_model: str | Path, device: str = "auto"
) -> float:
    """Train Cellpose from images with masks and write the model.

    Images are brought to the study's resolution first, so that the network learns from pixels as blurred as
    those it will see. The same seed gives the same weights on the same machine.

    Parameters
    ----------
    training
        The study's section; ``training.images`` is a TSV with columns image, masks and mpp (um/px).
    diameter_um
        Diameter the study segments with; far from that of the masks it is warned of.
    mpp
        Resolution the study segments at, um/px.

    Returns
    -------
    float
        Average precision at IoU .5, TP / (TP + FP + FN), on the training images themselves.

    Raises
    ------
    UserError
        The table or a file is unusable, or an image holds fewer than five cells.
    """
    import cellpose.metrics  # here, since nothing else needs them
    import cellpose.train

    examples = _examples(Path(training.images), mpp)
    # Cellpose seeds its crops by epoch alone: the order of the images is what a seed can change
    order = np.random.default_rng(training.seed).permutation(len(examples))
    examples = [examples[index] for index in order]
    diameters = [2 * np.sqrt(np.bincount(masks.ravel())[1:] / np.pi) for _, masks in examples]
    typical = float(np.median(np.concatenate([sizes[sizes > 0] for sizes in diameters]))) * mpp
    if not 2 / 3 < typical / diameter_um < 3 / 2:
        log.warning(
            "%s: the cells are %.0f um wide, but segmentation.diameter_um is %.0f",
            training.images,
            typical,
            diameter_um,
        )
    torch.manual_seed(training.seed)
    name = "cuda" if device == "auto" and torch.cuda.is_available() else device
    if training.start is not None:
        net = load_network(find_model(training.start))
    else:
        net = Network(SMALL_WIDTHS if training.small_net else WIDTHS)
    net = net.to("cpu" if name == "auto" else name)
    images = [to_grey(example.image).transpose(2, 0, 1) for example in examples]
    log.info(
        "Cellpose trains on %d images, cells of %.0f um, %d epochs", len(images), typical, training.epochs
    )
    parent = Path(out_model).parent
    parent.mkdir(parents=True, exist_ok=True)
    # on the disk of the model, so that one that is full is known by it
    with tempfile.TemporaryDirectory(prefix=".", dir=parent) as folder, tables.atomic(out_model) as temporary:
        trained, losses, _ = cellpose.train.train_seg(
            net,
            train_data=images,
            train_labels=[example.masks for example in examples],
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            n_epochs=training.epochs,
            weight_decay=1e-5,
            SGD=True,
            channels=None,
            normalize={"normalize": True, "norm3D": False},
            nimg_per_epoch=max(TRAINING_CROPS, len(images)),
            min_train_masks=MIN_TRAINING_CELLS,
            save_path=folder,
            model_name="model",
        )
        if not np.isfinite(losses).all():
            raise UserError(
                f"{training.images}: the loss is not finite at epoch {int(np.isfinite(losses).argmin())}; "
                "lower segmentation.train.learning_rate"
            )
        temporary.write_bytes(Path(trained).read_bytes())
    model = as_cellpose(net, DIAMETER_PX)
    settings: dict[str, Any] = {
        "channels": None,
        "channel_axis": 2,
        "diameter": typical / mpp,
        "normalize": {"norm3D": False},
    }
    found = [model.eval(to_grey(image), **settings)[0] for image, _ in examples]
    truth = [masks for _, masks in examples]
    precision, *_ = cellpose.metrics.average_precision(truth, found, threshold=[IOU])
    mean = float(precision.mean())
    log.info("Cellpose trained, loss %.3f to %.3f, average precision at IoU .5 on its own images %.2f",
             losses[0], losses[-1], mean)  # fmt: skip
    return mean


def _examples(table: Path, mpp: float) -> list[_Example]:
    """Training images at the study's resolution."""
    examples = []
    named_in = f"the table {table}"
    for row in read_training_images(str(table)):
        image, masks = read_picture(row.image, named_in), read_labels(row.masks, named_in)
        (height, width), (tall, wide) = image.shape[:2], masks.shape
        if (height, width) != (tall, wide):
            raise UserError(
                f"{table}: {row.image} is {width} x {height} px but {row.masks} is "
                f"{wide} x {tall} px; give masks of the same size"
            )
        size = (round(width * row.mpp / mpp), round(height * row.mpp / mpp))
        if not 0 < size[0] * size[1] <= LARGEST_TRAINING_PX:
            raise UserError(
                f"{table}: {row.image} is {size[0]:,} x {size[1]:,} px at {mpp:g} um/px, where "
                f"1 to {LARGEST_TRAINING_PX:,} px can be trained on; correct column mpp, or cut the image"
            )
        resized = Image.fromarray(masks).resize(size, Image.Resampling.NEAREST)
        labels = np.asarray(resized)
        cells = np.unique(labels[labels > 0]).size
        if cells < MIN_TRAINING_CELLS:
            raise UserError(
                f"{table}: {row.masks} holds {cells} cells at {mpp:g} um/px; Cellpose needs at least "
                f"{MIN_TRAINING_CELLS} in an image, so leave this one out"
            )
        rgb = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
        examples.append(_Example(np.asarray(rgb), labels))
    return examples

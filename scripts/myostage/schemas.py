"""The Parquet tables that rules hand on: columns, dtypes, units; reading, validating, writing.

Every table is written atomically (a temporary file beside it, then renamed) and validated on
writing and on reading, so that a half-written or foreign file is never taken for a table.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from myostage.errors import UserError


@dataclass(frozen=True)
class Column:
    """One column: Arrow type, unit (empty where it has none) and meaning."""

    name: str
    dtype: pa.DataType
    unit: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One documented table."""

    name: str
    meaning: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(column.name, column.dtype) for column in self.columns])


_STR, _BOOL, _I32, _I64, _F32, _F64 = (
    pa.string(),
    pa.bool_(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
)

CROP_PX = 64

SLIDES = Table(
    "slides",
    "what `check` found out about every slide",
    (
        Column("slide", _STR, "", "name from the slide table"),
        Column("path", _STR, "", "file"),
        Column(
            "group",
            _STR,
            "",
            "day after injury, or whatever shares one proportion vector; empty: staged only",
        ),
        Column("animal", _STR, "", "animal the slide is of; folds never split one"),
        Column("status", _STR, "", "ok or skipped"),
        Column("reason", _STR, "", "why it was skipped"),
        Column("reader", _STR, "", "openslide, tiff or image"),
        Column("width_px", _I64, "px", "width at the slide's own resolution"),
        Column("height_px", _I64, "px", "height at the slide's own resolution"),
        Column("mpp", _F64, "um/px", "resolution of the largest level"),
        Column("mpp_source", _STR, "", "file or table"),
        Column("levels", _I32, "", "pyramid levels"),
    ),
)

TILES = Table(
    "tiles",
    "tiles that hold tissue; coordinates in px at the study's mpp, from the slide's top left",
    (
        Column("tile", _I32, "", "number, row by row"),
        Column("x_px", _I32, "px", "left edge of the tile"),
        Column("y_px", _I32, "px", "top edge of the tile"),
        Column(
            "core_x0_px", _I32, "px", "the core: cells with their centroid in [x0, x1) x [y0, y1) belong here"
        ),
        Column("core_y0_px", _I32, "px", ""),
        Column("core_x1_px", _I32, "px", ""),
        Column("core_y1_px", _I32, "px", ""),
        Column("tissue", _F32, "", "share of the tile's area that is tissue"),
    ),
)

CELLS = Table(
    "cells",
    "segmented cells with their measurements",
    (
        Column("cell", _I32, "", "number within the slide, from 0"),
        Column("tile", _I32, "", "tile that owns the cell"),
        Column("x_px", _F32, "px", "centroid at the study's mpp"),
        Column("y_px", _F32, "px", "centroid at the study's mpp"),
        Column("x_um", _F32, "um", "centroid"),
        Column("y_um", _F32, "um", "centroid"),
        Column("area_um2", _F32, "um2", "cross-sectional area"),
        Column("perimeter_um", _F32, "um", "perimeter"),
        Column("min_feret_um", _F32, "um", "minimal Feret diameter"),
        Column("max_feret_um", _F32, "um", "maximal Feret diameter"),
        Column("circularity", _F32, "", "4 pi area / perimeter^2, at most 1"),
        Column("solidity", _F32, "", "area / convex area"),
        Column("border", _BOOL, "", "cut by the edge of the slide or of its tile"),
        Column("polygon", pa.list_(_F32), "px", "outline x0, y0, x1, y1, ... at the study's mpp"),
    ),
)

CROPS = Table(
    "crops",
    "one RGB image per cell, row-major uint8",
    (
        Column("cell", _I32, "", "cell number within the slide"),
        Column("image", pa.binary(CROP_PX * CROP_PX * 3), "", f"{CROP_PX} x {CROP_PX} x 3 uint8"),
    ),
)

LABELS = Table(
    "labels",
    "annotated stage of cells, for evaluation only",
    (
        Column("cell", _I32, "", "cell number within the slide"),
        Column("stage", _I32, "", "annotated stage, 0..K-1"),
        Column("iou", _F32, "", "overlap with the annotated outline; 1 where the crop itself is labelled"),
    ),
)

SEGMENTATION_QUALITY = Table(
    "segmentation_quality",
    "segmented cells against annotated outlines",
    (
        Column("slide", _STR, "", "slide"),
        Column("true_positives", _I32, "cells", "annotated outlines matched at IoU .5"),
        Column("false_positives", _I32, "cells", "cells without an outline"),
        Column("false_negatives", _I32, "cells", "outlines without a cell"),
    ),
)

SPLITS = Table(
    "splits",
    "fold of every slide",
    (
        Column("slide", _STR, "", "slide"),
        Column("group", _STR, "", "group"),
        Column("animal", _STR, "", "animal"),
        Column("cells", _I32, "cells", "cells with a crop"),
        Column("fold", _I32, "", "fold in which the slide is held out; -1: staged only, never learnt from"),
    ),
)

HISTORY = Table(
    "history",
    "one row per training step",
    (
        Column("phase", _I32, "", "0; 1 for the head fitted after L_SimProp alone"),
        Column("step", _I32, "", "step within the phase, from 0"),
        Column("loss", _F32, "", "weighted sum of the terms"),
        Column("simprop", _F32, "", "L_SimProp, unweighted; missing where it was not computed"),
        Column("prop", _F32, "", "L_prop, unweighted; missing where it was not computed"),
        Column("vat", _F32, "", "adversarial consistency, unweighted"),
        Column("ot", _F32, "", "cross-entropy with transport pseudo-labels, unweighted"),
        Column("mse", _F32, "stages2", "squared error of the bags' score"),
        Column("dist", _F32, "stages", "distance of sorted scores and sorted pseudo-labels"),
        Column("supcr", _F32, "", "ranked contrast of the bags' embeddings"),
        Column("cell", _F32, "", "squared error of z_W + z_P against z_I"),
        Column("spatial_reconstruction", _F32, "", "1 - cosine of hidden cells and their reconstruction"),
        Column("slide", _F32, "", "loss of the slide's label"),
        Column("slide_masked", _F32, "", "the same with hidden cells"),
        Column("cross_entropy", _F32, "", "cross-entropy with cell labels (supervised ceiling only)"),
        Column("conflict", _F32, "", "cosine of the gradients of supcr and cell; missing where not measured"),
        Column("learning_rate", _F32, "", "learning rate of the head"),
        Column("gradient_norm", _F32, "", "before clipping"),
    ),
)

_COST = (
    Column("status", _STR, "", "ok or failed"),
    Column("reason", _STR, "", "why it failed, at which step, and its last checkpoint"),
    Column("device", _STR, "", "what it was trained on"),
    Column("steps", _I32, "steps", "steps done by the job that finished it (all of them unless it resumed)"),
    Column("seconds", _F64, "s", "wall time of training and prediction"),
    Column("cpu_seconds", _F64, "s", "CPU time of the process over them"),
    Column(
        "peak_memory_mb", _F64, "MB", "peak resident memory of the process; of the GPU where there is one"
    ),
    Column("joules", _F64, "J", "energy of the GPU or CPU package; missing where the machine tells none"),
)

OUTCOME = Table("outcome", "how one run ended and what it cost", (Column("run", _STR, "", "run id"), *_COST))

RUNS = Table(
    "runs",
    "every run of every experiment: how it ended and what it cost",
    (
        Column("experiment", _STR, "", "experiment of the study file"),
        Column("run", _STR, "", "run id"),
        Column("fold", _I32, "", "fold"),
        Column("seed", _I32, "", "seed"),
        *_COST,
    ),
)

SLIDE_PREDICTIONS = Table(
    "slide_predictions",
    "class of every held-out slide, by a model of slide labels",
    (
        Column("slide", _STR, "", "slide"),
        Column("label", _I32, "", "class of the slide table, 0..C-1; -1: none"),
        Column("predicted", _I32, "", "most probable class"),
        Column("probabilities", pa.list_(_F64), "", "probability of each class"),
        Column("cells", _I32, "cells", "cells of the slide"),
        Column(
            "energy",
            _F64,
            "",
            "Dirichlet energy of the attention logits, standardised over the slide, per edge; 0: constant",
        ),
    ),
)

ATTENTION = Table(
    "attention",
    "attention of a model of slide labels to every cell of the slides it holds out",
    (
        Column("slide", _STR, "", "slide"),
        Column("cell", _I32, "", "cell number within the slide"),
        Column("logit", _F32, "", "attention before the softmax over the slide's cells"),
        Column("weight", _F32, "", "attention; sums to 1 over a slide"),
    ),
)

POSITIONS = Table(
    "positions",
    "where the instances of a bag of ready-made features lie",
    (
        Column("cell", _I32, "", "instance number within the bag"),
        Column("x_um", _F32, "um or sides", "centre; of tiles in sides of a tile"),
        Column("y_um", _F32, "um or sides", "centre; of tiles in sides of a tile"),
    ),
)

SPECTRUM = Table(
    "spectrum",
    "power of attention logits in bands of the graph Laplacian's eigenvalues",
    (
        Column("experiment", _STR, "", "experiment"),
        Column("signal", _STR, "", "raw: as the model gives them; smoothed: after Sm"),
        Column("slide", _STR, "", "held-out slide"),
        Column("low", _F64, "", "lower edge of the band of eigenvalues, 0 to 2"),
        Column("high", _F64, "", "upper edge"),
        Column("share", _F64, "", "share of the power of the standardised logits, mean over seeds"),
        Column("energy", _F64, "", "mean squared difference of neighbours, standardised logits; 2 by chance"),
        Column("instance_auroc", _F64, "", "localisation on that slide; missing where undefined"),
    ),
)

BORDERS = Table(
    "borders",
    "localisation by the distance of cells to the border of the injured region",
    (
        Column("experiment", _STR, "", "experiment"),
        Column("border", _STR, "", "sharp or diffuse, as the slide table says; all: every slide"),
        Column(
            "low_um", _F64, "um", "band of signed distance to the border, may be infinite; below 0: inside"
        ),
        Column("high_um", _F64, "um", "its other end"),
        Column("correct", _F64, "", "share of cells told rightly, mean over slides and seeds"),
        Column("correct_low", _F64, "", "2.5 % quantile of the bootstrap over slides; missing for one"),
        Column("correct_high", _F64, "", "97.5 % quantile"),
        Column("cells", _I32, "cells", "cells"),
        Column("slides", _I32, "slides", "slides"),
    ),
)

ALGEBRA = Table(
    "algebra",
    "how near z_W + z_P lies to the embedding z_I of its own slide and of others, held-out slides",
    (
        Column("experiment", _STR, "", "experiment"),
        Column("fold", _I32, "", "fold"),
        Column("seed", _I32, "", "seed"),
        Column("slide", _STR, "", "held-out slide of an injured group"),
        Column("own", _F64, "", "cosine of z_W + z_P and z_I of the same slide"),
        Column("others", _F64, "", "mean cosine with z_I of the fold's other injured slides"),
        Column(
            "rank", _I32, "", "place of the own slide among candidates, 1: nearest; ties count against it"
        ),
        Column("rank_p", _I32, "", "the same by z_P alone, without z_W"),
        Column("candidates", _I32, "slides", "own and others"),
    ),
)

METRICS = Table(
    "metrics",
    "every metric of every run and of every experiment",
    (
        Column("experiment", _STR, "", "experiment of the study file"),
        Column("run", _STR, "", "run id; empty: all folds and seeds of the experiment together"),
        Column("fold", _I32, "", "fold; -1: all"),
        Column("seed", _I32, "", "seed; -1: all"),
        Column("metric", _STR, "", "name of the metric"),
        Column("value", _F64, "", "value"),
        Column("low", _F64, "", "2.5 % quantile of the bootstrap over slides"),
        Column("high", _F64, "", "97.5 % quantile"),
        Column("slides", _I32, "slides", "held-out slides it was computed on"),
        Column("cells", _I32, "cells", "cells it was computed on"),
    ),
)

COMPARISONS = Table(
    "comparisons",
    "differences between experiments, paired over folds and seeds",
    (
        Column("experiment", _STR, "", "experiment"),
        Column("reference", _STR, "", "experiment it is compared with"),
        Column("family", _STR, "", "reference, baseline (the best one) or against; Holm corrects within one"),
        Column("metric", _STR, "", "name of the metric"),
        Column("difference", _F64, "", "experiment minus reference, all folds and seeds together"),
        Column("low", _F64, "", "2.5 % quantile of the paired bootstrap over slides"),
        Column("high", _F64, "", "97.5 % quantile"),
        Column("pairs", _I32, "pairs", "fold x seed pairs"),
        Column("slides", _I32, "slides", "held-out slides"),
        Column("effect_size", _F64, "", "mean over standard deviation of the paired differences"),
        Column("p", _F64, "", "corrected resampled t-test over the pairs (Nadeau and Bengio 2003)"),
        Column("p_holm", _F64, "", "after Holm's correction within family, part and metric"),
        Column("minimum_detectable", _F64, "", "smallest difference this test finds with the stated power"),
    ),
)

SIMILARITIES = Table(
    "similarities",
    "cosine similarity of cells of two annotated stages, held-out cells of one fold at a time",
    (
        Column("experiment", _STR, "", "experiment"),
        Column("stage_a", _I32, "", "annotated stage, 0..K-1"),
        Column("stage_b", _I32, "", "annotated stage, 0..K-1"),
        Column("cosine", _F64, "", "mean over pairs of different cells, over folds and seeds"),
        Column("expected", _F64, "", "sim(a, b) = 1 - |a - b| / (K - 1)"),
    ),
)

CORRELATIONS = Table(
    "correlations",
    "rank correlation of cosine similarity and sim(a, b) over pairs of stages",
    (
        Column("experiment", _STR, "", "experiment"),
        Column("rho", _F64, "", "Spearman's rho"),
        Column("low", _F64, "", "2.5 % quantile of the bootstrap over slides"),
        Column("high", _F64, "", "97.5 % quantile"),
        Column("slides", _I32, "slides", "held-out slides"),
        Column("cells", _I32, "cells", "labelled cells"),
    ),
)

GRADIENTS = Table(
    "gradients",
    "gradients of the losses at the start of a run, per parameter",
    (
        Column("loss", _STR, "", "simprop or prop"),
        Column("parameter", _STR, "", "name in the model"),
        Column("part", _STR, "", "attention, mlp, norm or head"),
        Column("norm", _F64, "", "Euclidean norm of the gradient"),
        Column("slope", _F64, "", "derivative along a random direction, by the gradient"),
        Column("finite_difference", _F64, "", "the same by central differences in float64"),
    ),
)

CONFUSION = Table(
    "confusion",
    "held-out cells by annotated and predicted stage, all folds of an experiment together",
    (
        Column("experiment", _STR, "", "experiment"),
        Column("true_stage", _I32, "", "annotated stage, 0..K-1"),
        Column("predicted_stage", _I32, "", "most probable stage, 0..K-1"),
        Column("cells", _F64, "cells", "number of cells, mean over seeds"),
    ),
)

SCORES = Table(
    "scores",
    "composition and recovery score of every slide, by experiment",
    (
        Column("experiment", _STR, "", "experiment"),
        Column("slide", _STR, "", "slide"),
        Column("group", _STR, "", "group"),
        Column("animal", _STR, "", "animal"),
        Column("cells", _I32, "cells", "staged cells"),
        Column("recovery_score", _F64, "", "area-weighted mean stage, 0 (first) to 1 (last)"),
        Column("true_recovery_score", _F64, "", "the same of the annotated stages; missing without labels"),
        Column("proportions", pa.list_(_F64), "", "predicted share of each stage, mean over cells"),
    ),
)


def predictions_table(stages: int) -> Table:
    """The table of held-out predictions for ``stages`` stages."""
    return Table(
        "predictions",
        "stage probabilities and embedding of every held-out cell",
        (
            Column("slide", _STR, "", "slide"),
            Column("cell", _I32, "", "cell number within the slide"),
            Column("stage", _I32, "", "most probable stage"),
            Column("probabilities", pa.list_(_F32, stages), "", "probability of each stage"),
            Column("embedding", pa.list_(pa.float16()), "", "L2-normalised embedding; empty for baselines"),
        ),
    )


def read(path: str | Path, table: Table, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table, validated.

    Raises
    ------
    UserError
        The file is missing, no Parquet, or its columns are not those of ``table``.
    """
    return read_arrow(path, table, columns).to_pandas()


def read_arrow(path: str | Path, table: Table, columns: list[str] | None = None) -> pa.Table:
    """As :func:`read`, as an Arrow table (for columns of images and outlines)."""
    with open_table(path, table) as file:
        return file.read(columns=columns)


@contextmanager
def open_table(path: str | Path, table: Table) -> Iterator[pq.ParquetFile]:
    """Open a validated table to stream it by row group."""
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise UserError(f"{path}: the {table.name} table is missing; run the workflow to make it") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: not a readable {table.name} table ({error}); delete it and run the workflow again"
        ) from None
    with file:
        check(file.schema_arrow, table, path)
        yield file


def check(schema: pa.Schema, table: Table, path: str | Path) -> None:
    """Raise UserError unless ``schema`` has the columns of ``table``, in order."""
    if not schema.remove_metadata().equals(table.schema):
        found = ", ".join(f"{field.name} {field.type}" for field in schema)
        wanted = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        raise UserError(
            f"{path}: the {table.name} table has columns ({found}) where ({wanted}) are needed; "
            "delete it and run the workflow again"
        )


def write(
    path: str | Path, frame: pd.DataFrame | pa.Table, table: Table, metadata: dict[str, str] | None = None
) -> None:
    """Write a table, validated and atomically; ``metadata`` goes into the file's schema."""
    if isinstance(frame, pd.DataFrame):
        missing = [name for name in table.schema.names if name not in frame.columns]
        if missing:
            raise ValueError(f"{path}: no column {', '.join(missing)} for the {table.name} table")
        frame = pa.Table.from_pandas(frame[table.schema.names], schema=table.schema, preserve_index=False)
    with writer(path, table, metadata) as out:
        out.write_table(frame)


@contextmanager
def writer(
    path: str | Path, table: Table, metadata: dict[str, str] | None = None, **options: object
) -> Iterator[pq.ParquetWriter]:
    """A Parquet writer for ``table`` whose file appears at ``path`` only when the block ends well."""
    schema = table.schema.with_metadata(metadata or {})
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as out:
        yield out


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it is renamed to ``path`` when the block ends well."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)

"""The tables of cells, their crops and their labels."""

import pyarrow as pa

from myostage.tables import BOOL, FLOAT32, INT32, STRING, Column, Table

CROP_PX = 64

CELLS = Table(
    "cells",
    "segmented cells with their measurements",
    (
        Column("cell", INT32, "", "number within the slide, from 0"),
        Column("tile", INT32, "", "tile that owns the cell"),
        Column("x_px", FLOAT32, "px", "centroid at the study's mpp"),
        Column("y_px", FLOAT32, "px", "centroid at the study's mpp"),
        Column("x_um", FLOAT32, "um", "centroid"),
        Column("y_um", FLOAT32, "um", "centroid"),
        Column("area_um2", FLOAT32, "um2", "cross-sectional area"),
        Column("perimeter_um", FLOAT32, "um", "perimeter"),
        Column("min_feret_um", FLOAT32, "um", "minimal Feret diameter"),
        Column("max_feret_um", FLOAT32, "um", "maximal Feret diameter"),
        Column("circularity", FLOAT32, "", "4 pi area / perimeter^2, at most 1"),
        Column("solidity", FLOAT32, "", "area / convex area"),
        Column("border", BOOL, "", "cut by the edge of the slide or of its tile"),
        Column("polygon", pa.list_(FLOAT32), "px", "outline x0, y0, x1, y1, ... at the study's mpp"),
    ),
)

CROPS = Table(
    "crops",
    "one RGB image per cell, row-major uint8",
    (
        Column("cell", INT32, "", "cell number within the slide"),
        Column("image", pa.binary(CROP_PX * CROP_PX * 3), "", f"{CROP_PX} x {CROP_PX} x 3 uint8"),
    ),
)

LABELS = Table(
    "labels",
    "annotated stage of cells, for evaluation only",
    (
        Column("cell", INT32, "", "cell number within the slide"),
        Column("stage", INT32, "", "annotated stage, 0..K-1"),
        Column("iou", FLOAT32, "", "overlap with the annotated outline; 1 where the crop itself is labelled"),
    ),
)

SEGMENTATION_QUALITY = Table(
    "segmentation_quality",
    "segmented cells against annotated outlines",
    (
        Column("slide", STRING, "", "slide"),
        Column("true_positives", INT32, "cells", "annotated outlines matched at IoU .5"),
        Column("false_positives", INT32, "cells", "cells without an outline"),
        Column("false_negatives", INT32, "cells", "outlines without a cell"),
    ),
)

POSITIONS = Table(
    "positions",
    "where the instances of a bag of ready-made features lie",
    (
        Column("cell", INT32, "", "instance number within the bag"),
        Column("x_um", FLOAT32, "um or sides", "centre; of tiles in sides of a tile"),
        Column("y_um", FLOAT32, "um or sides", "centre; of tiles in sides of a tile"),
    ),
)

"""The tables of slides and of their tiles."""

from myostage.tables import FLOAT32, FLOAT64, INT32, INT64, STRING, Column, Table

SLIDES = Table(
    "slides",
    "what `check` found out about every slide",
    (
        Column("slide", STRING, "", "name from the slide table"),
        Column("path", STRING, "", "file"),
        Column(
            "group",
            STRING,
            "",
            "day after injury, or whatever shares one proportion vector; empty: staged only",
        ),
        Column("animal", STRING, "", "animal the slide is of; folds never split one"),
        Column("status", STRING, "", "ok or skipped"),
        Column("reason", STRING, "", "why it was skipped"),
        Column("reader", STRING, "", "openslide, tiff or image"),
        Column("width_px", INT64, "px", "width at the slide's own resolution"),
        Column("height_px", INT64, "px", "height at the slide's own resolution"),
        Column("mpp", FLOAT64, "um/px", "resolution of the largest level"),
        Column("mpp_source", STRING, "", "file or table"),
        Column("levels", INT32, "", "pyramid levels"),
    ),
    further=STRING,
)

TILES = Table(
    "tiles",
    "tiles that hold tissue; coordinates in px at the study's mpp, from the slide's top left",
    (
        Column("tile", INT32, "", "number, row by row"),
        Column("x_px", INT32, "px", "left edge of the tile"),
        Column("y_px", INT32, "px", "top edge of the tile"),
        Column(
            "core_x0_px",
            INT32,
            "px",
            "the core: cells with their centroid in [x0, x1) x [y0, y1) belong here",
        ),
        Column("core_y0_px", INT32, "px", ""),
        Column("core_x1_px", INT32, "px", ""),
        Column("core_y1_px", INT32, "px", ""),
        Column("tissue", FLOAT32, "", "share of the tile's area that is tissue"),
    ),
)

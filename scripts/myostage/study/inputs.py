"""The tables that a study names: proportions, slides, crops, training images of Cellpose.

Every fault is named by file, row and column, all faults of a table at once.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field

from myostage.errors import UserError, hidden, raise_all
from myostage.learning.options import EXPECTED_STAGE
from myostage.schema import (
    LARGEST,
    MPP_RANGE,
    QUOTED,
    Section,
    UnsetVariable,
    checked_name,
    expand_path,
    nearest,
)
from myostage.study.cell_table import read_cells
from myostage.study.sections.compare import MAY_BE_QUOTED
from myostage.study.sections.slide_label import SlideLabel
from myostage.study.sections.study import Study
from myostage.study.text_file import read_text

SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class TableColumn:
    """One column of a table that a study names."""

    name: str
    required: bool
    meaning: str


SLIDE_COLUMNS = (
    TableColumn("slide", True, "unique name; letters, digits, . _ -"),
    TableColumn(
        "path",
        True,
        "file that OpenSlide reads, TIFF, PNG or JPEG, 8 bits a channel; $VARIABLES are expanded",
    ),
    TableColumn(
        "group",
        True,
        "row of the proportions table (day after injury); empty: staged only, never learnt from",
    ),
    TableColumn(
        "animal", True, "animal of the slide; folds never split an animal; may be empty where the group is"
    ),
    TableColumn("mpp", False, "um/px of the slide's largest level, 0.05 to 5; empty: as the file says"),
    TableColumn(
        "annotations",
        False,
        "GeoJSON of outlines in level-0 px, stage in properties.classification.name; "
        "for evaluation only; drawn in a phantom study",
    ),
    TableColumn(
        "border",
        False,
        "sharp or diffuse: the rim of the injured region that a phantom draws; empty: no region",
    ),
    TableColumn(
        "score",
        False,
        "number that says how injured the slide is, for `training.score`; of a phantom with a region the "
        "share of "
        "its cells that lie there, 0 to 1",
    ),
    TableColumn("split", False, "split of a public benchmark; not used, folds are our own"),
    TableColumn(
        "any column",
        False,
        "that `training.score` or a label of `slide_labels` names; others (treatment, sex, batch, ...) are "
        "carried to `slides.parquet`, `scores.parquet` and `segmentation_quality.parquet`",
    ),
)
CROP_COLUMNS = (
    TableColumn("crop", True, "unique name"),
    TableColumn("path", True, "image of one cell, as a slide's file; $VARIABLES are expanded"),
    TableColumn("group", True, "row of the proportions table; empty: staged only, never learnt from"),
    TableColumn(
        "animal", True, "animal the crop is of; crops of one animal and group are treated as one slide"
    ),
    TableColumn("label", False, "stage of the cell, for evaluation only; empty: unknown"),
)
QUOTED_COLUMNS = (
    TableColumn("method", True, "name of the method in the source"),
    TableColumn("metric", True, "accuracy, rmse, mae, kappa, macro_f1, amae or rps"),
    TableColumn("value", True, "the published figure; a share, not a percentage"),
    TableColumn("source", True, "where it was published"),
)
IMAGE_COLUMNS = (
    TableColumn("image", True, "image, as a slide's file; $VARIABLES are expanded"),
    TableColumn("masks", True, "label image of the same size, PNG or TIFF of one channel, 0: background"),
    TableColumn("mpp", True, "um/px of both, 0.05 to 5"),
)


class CropRow(Section):
    """One row of the crop table; ``label`` is the stage's number, 0..K-1, or None where it is unknown."""

    crop: str
    path: str
    group: str
    animal: str
    label: int | None = None


class SlideRow(Section):
    """One row of the slide table, or what a crop study has in its place.

    ``group`` is empty where the slide is staged only; ``crops`` is empty where the slide is one file;
    ``staged`` says whether the table of cells states the stage of any;
    ``values`` are those of the columns that scores and labels of slides name, ``carried`` those of columns
    that nothing uses.
    """

    slide: str
    path: str = ""
    group: str = ""
    animal: str = ""
    mpp: float | None = None
    annotations: str | None = None
    border: Literal["", "sharp", "diffuse"] = ""
    values: Mapping[str, str] = Field(default_factory=dict)
    carried: Mapping[str, str] = Field(default_factory=dict)
    crops: tuple[CropRow, ...] = ()
    staged: bool = False

    @property
    def labelled(self) -> bool:
        """Whether the stage of any of its cells may be known."""
        return self.staged or self.annotations is not None or any(row.label is not None for row in self.crops)


class ImageRow(Section):
    """One row of the table of Cellpose's training images; ``mpp`` in um/px."""

    image: str
    masks: str
    mpp: float


@dataclass(frozen=True)
class _Line:
    """One line of a TSV file: its number in the file and its values by column."""

    number: int
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values.get(column, "")


# a table beyond is a slip: another file of that name
MOST_BYTES = 100_000_000


def _fields(path: str) -> list[tuple[int, list[str]]]:
    """Lines that hold anything, numbered from 1: their fields, without empty ones at the end (Excel's)."""
    text = read_text(path, "table", "a table of tab-separated text", MOST_BYTES)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    rows = [
        (number, [field.strip() for field in line.rstrip().split("\t")])
        for number, line in enumerate(lines, 1)
    ]
    return [(number, fields) for number, fields in rows if any(fields)]


def commented(path: str) -> list[int]:
    """Numbers of the lines of a table that start with # and hold several fields, as a row does."""
    return [number for number, row in _fields(path) if row[0].startswith("#") and len(row) > 1]


def read_tsv(
    path: str, required: Sequence[str], optional: Sequence[str], *, further: bool = False
) -> list[_Line]:
    """Lines of a tab-separated table with a header; blank lines and lines that start with # are left out.

    Parameters
    ----------
    required, optional : sequence of str
        Columns that must be there, and that may.
    further : bool
        Whether other columns may be there too; one that is spelt nearly as an optional one is still refused.

    Raises
    ------
    UserError
        No such file, no text, no rows, a missing, unknown or repeated column, a line with too many fields.
    """
    every = _fields(path)
    rows = [(number, fields) for number, fields in every if not fields[0].startswith("#")]
    if every and every[0][1][0].lstrip("# ") in required and every[0][1][0].startswith("#"):
        raise UserError(f"{path}, row {every[0][0]}: the header starts with #, as notes do; remove the #")
    if len(rows) < 2:
        raise UserError(
            f"{path}: {'no rows below the header' if rows else 'empty'}; the table needs a header and rows"
        )
    number, header = rows[0]
    if len(header) == 1 and re.search("[,;]", header[0]):
        raise UserError(f"{path}, row {number}: the columns are not separated by tabs; save it tab-separated")
    if any(QUOTED.fullmatch(name) for name in header):
        raise UserError(
            f"{path}, row {number}: columns stand in quotes; write the table without (R: write.table(..., "
            'quote = FALSE, sep = "\\t", row.names = FALSE))'
        )
    valid = [*required, *optional]
    problems = [f"column {name} is missing" for name in required if name not in header]
    for name in dict.fromkeys(header):
        if name in valid:
            continue
        if not name.isprintable():
            problems.append(f"column {name!r} has characters that cannot be shown; rename it")
            continue
        hint = nearest(name, set(valid) - set(header), cutoff=0.75 if further else 0.5)
        if not further or hint or not name:
            problems.append(f"column {name or '(no name)'} is unknown{hint}")
    problems += [f"column {name} stands twice" for name, count in Counter(header).items() if count > 1]
    if problems:
        raise_all(f"{path}, row {number}", [*problems, f"the columns are {', '.join(valid)}"])
    long = [f"row {number} has {len(row)} fields" for number, row in rows[1:] if len(row) > len(header)]
    raise_all(path, [f"{text}, the header {len(header)}; separate by single tabs" for text in long])
    # a row that ends early holds nothing in the columns behind
    empty = dict.fromkeys(header, "")
    found = [_Line(number, empty | dict(zip(header, row, strict=False))) for number, row in rows[1:]]
    raise_all(
        path,
        [
            f"row {line.number}, column {column}: holds characters that cannot be shown "
            f"({', '.join(sorted(map(ascii, odd)))}); remove them"
            for line in found
            for column, text in line.values.items()
            if (odd := hidden(text))
        ],
    )
    return found


def _number(text: str) -> float:
    """A finite number, or ValueError saying what is wrong with the text."""
    if not text:
        raise ValueError("is empty; fill it")
    try:
        value = float(text)
    except ValueError:
        hint = "; write a decimal point" if re.fullmatch(r"-?\d+,\d+", text) else ""
        raise ValueError(f"is {text!r}, not a number{hint or '; correct it'}") from None
    if not math.isfinite(value):
        raise ValueError(f"is {text}, not a finite number; correct it")
    if abs(value) > LARGEST:
        raise ValueError(f"is {text}, beyond {LARGEST:g}; correct it")
    return value


def _mpp(text: str) -> float:
    value = _number(text)
    if not MPP_RANGE[0] <= value <= MPP_RANGE[1]:
        raise ValueError(f"is {text}, outside {MPP_RANGE[0]} to {MPP_RANGE[1]:g} um/px; correct it")
    return value


def _path(text: str) -> str:
    if not text:
        raise ValueError("is empty; name a file")
    return expand_path(text)


def _border(text: str) -> Literal["sharp", "diffuse"]:
    if text not in ("sharp", "diffuse"):
        raise ValueError(f"is {text}; it is sharp, diffuse or empty")
    return cast(Literal["sharp", "diffuse"], text)


class _Values:
    """Converts the values of a table, collecting what is wrong with them by row and column."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._unset: set[str] = set()

    def get(self, line: _Line, column: str, convert: Any, default: Any = None, *, empty: bool = False) -> Any:
        """The converted value; ``default`` where it is empty (if ``empty`` allows it) or wrong."""
        if empty and not line[column]:
            return default
        try:
            return convert(line[column])
        except UnsetVariable as error:
            # one variable stands in every row: say it once
            if error.names[0] not in self._unset:
                self._unset.update(error.names)
                self.problems.append(f"row {line.number}, column {column}: {error}")
        except ValueError as error:
            self.problems.append(f"row {line.number}, column {column}: {error}")
        return default

    def unique(self, lines: Sequence[_Line], column: str, values: Sequence[str | None]) -> None:
        """Collect every value that stands in two rows."""
        first: dict[str, int] = {}
        for line, value in zip(lines, values, strict=True):
            if value and first.setdefault(value, line.number) != line.number:
                self.problems.append(
                    f"row {line.number}, column {column}: {value} stands in row {first[value]} too; keep one"
                )


def _columns(columns: Sequence[TableColumn]) -> tuple[list[str], list[str]]:
    return [c.name for c in columns if c.required], [c.name for c in columns if not c.required]


def read_proportions(study: Study) -> dict[str, np.ndarray]:
    """The proportions p_d of every group.

    Returns
    -------
    dict[str, numpy.ndarray]
        Group -> float64[K] in the order of ``study.stages``, summing to 1 exactly to rounding (rows are
        divided by their sum, which may differ from 1 by 1e-3, or by anything with ``normalise: true``).
        Empty where the study names no table.

    Raises
    ------
    UserError
        A stage without column, a column without stage, a value that is no number or negative, a group that
        stands twice, a row that does not sum to 1.
    """
    return _shares(study, study.proportions, "group") if study.proportions else {}


def read_slide_proportions(study: Study) -> dict[str, np.ndarray]:
    """The proportions of single slides, as :func:`read_proportions`; slide -> float64[K]."""
    return _shares(study, study.slide_proportions, "slide") if study.slide_proportions else {}


def read_quoted(study: Study) -> list[dict[str, str | float]]:
    """Published figures (method, metric, value, source), shown beside ours; none where the study names none.

    Raises
    ------
    UserError
        Missing or unknown columns, an unknown metric, a value that is no number.
    """
    if study.quoted is None:
        return []
    lines = read_tsv(study.quoted, *_columns(QUOTED_COLUMNS))
    values = _Values()

    def metric(text: str) -> str:
        if text not in MAY_BE_QUOTED:
            listed = ", ".join(MAY_BE_QUOTED)
            raise ValueError(f"{text!r} is no metric ({listed}){nearest(text, MAY_BE_QUOTED)}")
        return text

    quoted: list[dict[str, str | float]] = [
        {
            "method": line["method"],
            "metric": values.get(line, "metric", metric, ""),
            "value": values.get(line, "value", _number, math.nan),
            "source": line["source"],
        }
        for line in lines
    ]
    raise_all(study.quoted, values.problems)
    return quoted


def _shares(study: Study, path: str, column: str) -> dict[str, np.ndarray]:
    """Rows of shares by the name in ``column``."""
    lines = read_tsv(path, [column, *study.stages], [])
    values = _Values()
    names = [values.get(line, column, checked_name, "") for line in lines]
    values.unique(lines, column, names)
    rows = [[values.get(line, stage, _share, math.nan) for stage in study.stages] for line in lines]
    for line, name, row in zip(lines, names, rows, strict=True):
        total = math.fsum(row)
        if study.normalise and total == 0:
            values.problems.append(
                f"row {line.number} ({column} {name}): all proportions are 0; correct them"
            )
        elif not study.normalise and abs(total - 1) > SUM_TOLERANCE:
            values.problems.append(
                f"row {line.number} ({column} {name}): the proportions sum to {total:.6g}, not 1; correct "
                "them or set normalise: true in the study file to divide each row by its sum"
            )
    raise_all(path, values.problems)
    return {
        name: np.array(row, dtype=np.float64) / math.fsum(row) for name, row in zip(names, rows, strict=True)
    }


def _share(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise ValueError(f"is {text}; a proportion is not negative, correct it")
    return value


def read_slides(study: Study) -> list[SlideRow]:
    """The rows of the slide table, or the slides that a table of crops or of cells consists of.

    The path of a virtual slide of :func:`crop_slides` is empty, that of a slide of cells is their table.

    A study of worlds has none.

    Raises
    ------
    UserError
        Missing or misspelt columns, bad or repeated names, two slides with one file, an mpp that is none.
    """
    if study.world is not None:
        return []
    if study.input == "crops":
        return [
            SlideRow(slide=slide, group=crops[0].group, animal=crops[0].animal, crops=tuple(crops))
            for slide, crops in crop_slides(study).items()
        ]
    if study.features and study.features.table:
        table, named = study.features.table, named_columns(study)
        if named:
            raise UserError(
                f"{table}: {', '.join(named)} is to be said of slides, of which a table of cells says "
                "the group alone; use group"
            )
        cells = read_cells(table, study.features.columns, study.stages)
        staged = set(np.unique(cells.slide[cells.stage >= 0]))
        return [
            SlideRow(slide=slide, path=table, group=group, animal=animal, staged=number in staged)
            for number, (slide, (group, animal)) in enumerate(cells.slides.items())
        ]
    assert study.slides is not None  # _check_sources
    own = named_columns(study)
    known = [column for column in SLIDE_COLUMNS if " " not in column.name]
    required, optional = _columns(known)
    lines = read_tsv(study.slides, list(dict.fromkeys([*required, *own])), optional, further=True)
    used = {*required, *own, *optional}
    further = dict.fromkeys(name for line in lines for name in line.values if name not in used)
    values = _Values()
    rows = []
    for line in lines:
        slide = values.get(line, "slide", checked_name, "")
        grouped = bool(line["group"])
        rows.append(
            SlideRow(
                slide=slide,
                path=values.get(line, "path", _path, ""),
                group=values.get(line, "group", checked_name, "", empty=True),
                animal=values.get(line, "animal", checked_name, slide, empty=not grouped),
                mpp=values.get(line, "mpp", _mpp, empty=True),
                annotations=values.get(line, "annotations", _path, empty=True),
                border=values.get(line, "border", _border, "", empty=True),
                values={name: line[name] for name in dict.fromkeys([*own, "score"])},
                carried={name: line[name] for name in further},
            )
        )
        if line["border"]:
            values.get(line, "score", _number)
    values.unique(lines, "slide", [row.slide for row in rows])
    values.unique(lines, "path", [row.path for row in rows])
    values.unique(lines, "annotations", [row.annotations for row in rows])
    raise_all(study.slides, values.problems)
    return rows


def named_columns(study: Study) -> list[str]:
    """Columns of the slide table that scores, labels of slides and phantoms with a region are read from."""
    scores: list[Any] = [study.training.score]
    for experiment in study.experiments:
        scores += [experiment.training.get("score"), *experiment.vary.get("score", [])]
    names = [str(score) for score in scores if score not in (None, EXPECTED_STAGE)]
    names += [label.column for label in study.slide_labels.values()]
    return [name for name in dict.fromkeys(names) if name != "group"]


def slide_scores(study: Study, name: str, rows: Sequence[SlideRow]) -> dict[str, float]:
    """Score of every slide with a group: the smallest value becomes the first stage, the largest the last.

    Raises
    ------
    UserError
        A value is no number, or all are equal.
    """
    problems, found = [], {}
    for row in rows:
        if row.group:
            try:
                found[row.slide] = _number(row.values[name])
            except ValueError as error:
                problems.append(f"slide {row.slide}: column {name} {error}")
    low, high = min(found.values(), default=0.0), max(found.values(), default=0.0)
    if not problems and low == high:
        problems.append(
            f"column {name} is {low:g} for every slide, which is no score; give them different ones"
        )
    raise_all(str(study.slides), problems)
    return {slide: (value - low) / (high - low) * (len(study.stages) - 1) for slide, value in found.items()}


def slide_classes(study: Study, label: SlideLabel, rows: Sequence[SlideRow]) -> dict[str, int]:
    """Class of every slide under a label, 0..C-1; slides without a group or with another value have none.

    Raises
    ------
    UserError
        Fewer than two classes have a slide.
    """
    number = {value: place for place, values in enumerate(label.classes.values()) for value in values}
    of = {
        row.slide: row.group if label.column == "group" else row.values[label.column]
        for row in rows
        if row.group
    }
    found = {slide: number[value] for slide, value in of.items() if value in number}
    if len(set(found.values())) < 2:
        names = list(label.classes)
        held = ", ".join(names[place] for place in sorted(set(found.values()))) or "none"
        raise UserError(
            f"{study.slides}: slides of one class only ({held}) by column {label.column}, so that "
            f"{', '.join(names)} "
            "cannot be told apart; add slides of another class, or correct slide_labels"
        )
    return found


def read_crops(study: Study) -> list[CropRow]:
    """The rows of the crop table.

    Raises
    ------
    UserError
        Missing or unknown columns, bad or repeated names, a label that is no stage.
    """
    assert study.crops is not None  # _check_sources
    lines = read_tsv(study.crops, *_columns(CROP_COLUMNS))
    values = _Values()

    def stage(text: str) -> int:
        if text not in study.stages:
            raise ValueError(f"{text!r} is no stage ({', '.join(study.stages)}){nearest(text, study.stages)}")
        return study.stages.index(text)

    rows = [
        CropRow(
            crop=values.get(line, "crop", checked_name, ""),
            path=values.get(line, "path", _path, ""),
            group=values.get(line, "group", checked_name, "", empty=True),
            animal=values.get(line, "animal", checked_name, ""),
            label=values.get(line, "label", stage, empty=True),
        )
        for line in lines
    ]
    values.unique(lines, "crop", [row.crop for row in rows])
    values.unique(lines, "path", [row.path for row in rows])
    raise_all(study.crops, values.problems)
    return rows


def crop_slides(study: Study) -> dict[str, list[CropRow]]:
    """Crops by virtual slide: those of one group and animal, named ``group_animal``, ungrouped ``animal``."""
    slides: dict[str, list[CropRow]] = {}
    for row in read_crops(study):
        slide = f"{row.group}_{row.animal}" if row.group else row.animal
        others = slides.setdefault(slide, [])
        if others and (others[0].group, others[0].animal) != (row.group, row.animal):
            raise UserError(
                f"{study.crops}: group {row.group!r} with animal {row.animal} and group {others[0].group!r} "
                f"with animal {others[0].animal} both make the slide {slide}; rename one of the animals"
            )
        others.append(row)
    return slides


def read_training_images(path: str) -> list[ImageRow]:
    """The rows of the table of Cellpose's training images (``segmentation.train.images``)."""
    lines = read_tsv(path, *_columns(IMAGE_COLUMNS))
    values = _Values()
    rows = [
        ImageRow(
            image=values.get(line, "image", _path, ""),
            masks=values.get(line, "masks", _path, ""),
            mpp=values.get(line, "mpp", _mpp, MPP_RANGE[0]),
        )
        for line in lines
    ]
    values.unique(lines, "image", [row.image for row in rows])
    raise_all(path, values.problems)
    return rows


def check_bag_size(cells: Mapping[str, int], bag_size: int, where: str) -> None:
    """Raise UserError unless each source of bags holds enough cells.

    Parameters
    ----------
    cells : mapping of str to int
        Slide (or group, with ``bags: group``) -> number of cells that bags can be drawn from.
    bag_size : int
        Cells in a bag, drawn without replacement.
    where : str
        What the sources are, for the message: ``"slide"`` or ``"group"``.
    """
    small = {name: count for name, count in cells.items() if count < bag_size}
    if small:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(small.items()))
        mend = "set bags: group, " if where == "slide" else ""
        raise UserError(
            f"training.bag_size is {bag_size} cells, more than {where} {listed} holds; {mend}"
            f"lower bag_size to {min(small.values())}, or leave the {where} out by emptying its group"
        )

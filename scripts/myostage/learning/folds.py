"""Folds that never split an animal: which slides a run learns from, and which it holds out."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from myostage import tables
from myostage.cells.tables import CROPS, POSITIONS
from myostage.errors import UserError
from myostage.learning.tables import SPLITS

logger = logging.getLogger(__name__)

STAGED_ONLY = -1
"""Fold of slides that nothing is learnt from."""


def assign_folds(slides: pd.DataFrame, folds: int) -> pd.Series:
    """The fold in which each slide is held out: grouped by animal, stratified by group.

    Animals are dealt to the folds one by one, those of the rarest groups and with the most cells first. Each
    goes to the fold with the fewest animals of its group(s), then the fewest animals, then the fewest cells.
    The order of the rows does not matter.

    Parameters
    ----------
    slides : DataFrame
        Columns slide, group, animal, cells. Slides without a group, or without cells, are staged only: fold
        -1.
    folds : int
        Number of folds, at least 2.

    Returns
    -------
    Series of int32
        Fold 0..folds-1 or -1, named ``fold``, indexed as ``slides``.

    Raises
    ------
    UserError
        Fewer animals than folds, where any slide has a group at all.
    """
    if (slides["group"] == "").all():
        return pd.Series(STAGED_ONLY, index=slides.index, name="fold", dtype="int32")
    learnt = slides[(slides["group"] != "") & (slides["cells"] > 0)]
    groups_of = {str(animal): sorted(set(rows["group"])) for animal, rows in learnt.groupby("animal")}
    cells_of = {str(animal): int(count) for animal, count in learnt.groupby("animal")["cells"].sum().items()}
    if len(groups_of) < folds:
        raise UserError(
            f"folds: {folds} folds need as many animals, but only {len(groups_of)} have a group and cells; "
            "lower folds or add animals"
        )
    animals_in = {
        group: sum(group in own for own in groups_of.values()) for own in groups_of.values() for group in own
    }
    order = sorted(groups_of, key=lambda a: (min(animals_in[g] for g in groups_of[a]), -cells_of[a], a))
    dealt: list[list[str]] = [[] for _ in range(folds)]
    for animal in order:
        own = set(groups_of[animal])

        def crowding(fold: int, own: set[str] = own) -> tuple[int, int, int, int]:
            alike = sum(len(own.intersection(groups_of[other])) for other in dealt[fold])
            return alike, len(dealt[fold]), sum(cells_of[other] for other in dealt[fold]), fold

        dealt[min(range(folds), key=crowding)].append(animal)
    for group, count in animals_in.items():
        if count == 1:
            logger.warning(
                "group %s has one animal only: the fold that holds it out never sees its cells", group
            )
        elif count < folds:
            logger.warning(
                "group %s has %d animals for %d folds: some folds hold none out", group, count, folds
            )
    fold_of = {animal: fold for fold, animals in enumerate(dealt) for animal in animals}
    fold = pd.Series(STAGED_ONLY, index=slides.index, dtype="int32", name="fold")
    fold.loc[learnt.index] = learnt["animal"].astype(str).map(fold_of).astype("int32")
    return fold


def split_slides(
    slides: pd.DataFrame, cells: Mapping[str, str | Path], folds: int, out: str | Path
) -> pd.DataFrame:
    """Write the table ``splits``: every slide's cells and fold.

    Parameters
    ----------
    slides : DataFrame
        Columns slide, group, animal.
    cells : mapping of slide to path
        Table ``crops`` (or ``positions``, of ready-made features) of every slide; only its rows are counted.
    folds : int
        Number of folds.
    out : str or Path
        Table ``splits`` to write.
    """
    splits = slides[["slide", "group", "animal"]].fillna("").reset_index(drop=True)
    splits["cells"] = [_rows(cells[slide]) for slide in splits["slide"]]
    for slide in splits.loc[splits["cells"] == 0, "slide"]:
        logger.warning("slide %s has no cells: nothing is learnt from it", slide)
    splits["fold"] = assign_folds(splits, folds)
    tables.write(out, splits, SPLITS)
    return splits


def _rows(path: str | Path) -> int:
    table = POSITIONS if Path(path).stem == POSITIONS.name else CROPS
    with tables.open_table(path, table) as file:
        described: pq.FileMetaData = file.metadata
        return described.num_rows

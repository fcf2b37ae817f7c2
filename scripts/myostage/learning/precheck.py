"""What can be known of runs once the cells are counted, before the first of them trains."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from myostage import tables
from myostage.errors import UserError
from myostage.learning.folds import STAGED_ONLY
from myostage.learning.tables import SPLITS
from myostage.study.inputs import check_bag_size


def check_folds(
    splits: str | Path,
    proportions: Mapping[str, Sequence[float]],
    stages: Sequence[str],
    *,
    source: str,
    size: int,
) -> dict[str, int]:
    """Check that every fold teaches every stage and fills every bag.

    Parameters
    ----------
    splits
        ``SPLITS``.
    proportions
        Proportions [K] of every group.
    stages
        Names of the K stages.
    source, size
        What bags come from, ``slide`` or ``group``, and their cells.

    Returns
    -------
    dict[str, int]
        Cells that each fold trains on, by ``fold 0``, ``fold 1``, ...

    Raises
    ------
    UserError
        A fold whose training slides lack a stage that the study has, or hold too few cells for a bag.
    """
    table = tables.read(splits, SPLITS)
    learnt = table[(table["fold"] != STAGED_ONLY) & (table["cells"] > 0)]
    trained = {int(fold): learnt[learnt["fold"] != fold] for fold in sorted(learnt["fold"].unique())}
    for fold, slides in trained.items():
        _check_stages(splits, fold, slides, learnt, proportions, stages)
        check_bag_size(slides.groupby(source)["cells"].sum().to_dict(), size, source)
    return {f"fold {fold}": int(slides["cells"].sum()) for fold, slides in trained.items()}


def _check_stages(
    splits: str | Path,
    fold: int,
    slides: pd.DataFrame,
    learnt: pd.DataFrame,
    proportions: Mapping[str, Sequence[float]],
    stages: Sequence[str],
) -> None:
    def present(rows: pd.DataFrame) -> np.ndarray:
        return np.sum([proportions[group] for group in sorted(set(rows["group"]))], axis=0) > 0

    lost = [
        stage
        for stage, there, kept in zip(stages, present(learnt), present(slides), strict=True)
        if there and not kept
    ]
    if lost:
        groups = ", ".join(sorted(set(learnt["group"]) - set(slides["group"])))
        raise UserError(
            f"{splits}: fold {fold} holds out every animal of group {groups}, the only one with stage "
            f"{', '.join(lost)}, so that nothing teaches it; lower folds, or add animals to the group"
        )

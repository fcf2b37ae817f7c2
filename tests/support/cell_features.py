"""A table of ready-made features of cells whose stage is known, and a study of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

STAGES = ["early", "middle", "late"]
PROPORTIONS = {"d3": (0.7, 0.3, 0.0), "d5": (0.2, 0.6, 0.2), "d14": (0.0, 0.1, 0.9)}
WIDTH = 12


def cells(per_animal: int = 30, animals: int = 3, seed: int = 0) -> pd.DataFrame:
    """A row per cell, animals mixed: stages apart by a direction of their own, a fifth of them unknown."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(5).normal(size=(len(STAGES), WIDTH))
    rows = [
        {
            "group": group,
            "animal": f"{group}_m{animal}",
            "stage": STAGES[stage] if number % 5 else None,
            "x_um": rng.uniform(0, 200),
            "y_um": rng.uniform(0, 200),
            "features": (1000 * (directions[stage] + rng.normal(scale=0.6, size=WIDTH)) + 50).astype(
                np.float32
            ),
        }
        for group, share in PROPORTIONS.items()
        for animal in range(animals)
        for number, stage in enumerate(rng.choice(len(STAGES), per_animal, p=share))
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0, ignore_index=True)


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """The same with a column for each feature."""
    numbers = pd.DataFrame(np.stack(table["features"]), table.index).add_prefix("f_")
    return table.drop(columns="features").join(numbers)


def lay_out(folder: Path, table: pd.DataFrame, **changes: Any) -> dict[str, Any]:
    """Write the table and the proportions; the study."""
    table.to_parquet(folder / "cells.parquet", index=False)
    lines = ["\t".join(["group", *STAGES]), *("\t".join(map(str, (g, *p))) for g, p in PROPORTIONS.items())]
    (folder / "proportions.tsv").write_text("\n".join(lines) + "\n")
    return {
        "study": "cells",
        "stages": STAGES,
        "proportions": "proportions.tsv",
        "input": "features",
        "features": {"table": "cells.parquet"},
        "encoder": {"projection": 16},
        "training": {"steps": 60, "bag_size": 20, "learning_rate": 3e-3, "encoder_learning_rate": 3e-3},
        "folds": 3,
        "seeds": [0],
        "experiments": [
            {"name": "combined", "losses": {"simprop": 1, "prop": 1}},
            {"name": "prop", "losses": {"prop": 1}},
            {"name": "supervised", "method": "supervised"},
            {"name": "majority", "method": "majority"},
            {"name": "group_majority", "method": "group_majority"},
        ],
        "jobs": {"threads": 1},
    } | changes

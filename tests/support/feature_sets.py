"""Sets of ready-made features in the formats on disk, generated."""

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from myostage.features import ready_made

WIDTH = 16
STORED = {"camelyon16": "UNI", "panda": "UNI", "rsna": "resnet50"}


@dataclass
class Written:
    """A generated set: its root and, by bag, what was put there."""

    dataset: Any
    root: Path
    bags: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)

    @property
    def stored(self) -> str:
        return STORED[self.dataset]

    @property
    def base(self) -> Path:
        return self.root if self.dataset == "rsna" else self.root / "patches_512"

    def file(self, what: str, name: str) -> Path:
        folders = {
            "features": f"features/features_{self.stored}",
            "label": "labels",
            "instances": "slice_labels" if self.dataset == "rsna" else "patch_labels",
            "coords": "coords",
        }
        return self.base / folders[what] / f"{name}.npy"

    def put(self, what: str, name: str, values: np.ndarray) -> None:
        file = self.file(what, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, values)
        self.bags.setdefault(name, {})[what] = values

    def read(self, name: str) -> ready_made.Bag:
        return ready_made.read_bag(self.dataset, self.root, self.stored, name)

    def list(self) -> list[tuple[str, str, int]]:
        return ready_made.bags(self.dataset, self.root, self.stored)


def generate(root: Path, dataset: str, bags: int = 4) -> Written:
    """Bags in the format on disk, each with tiles on a grid of its own corner, in no order."""
    rng = np.random.default_rng(0)
    made = Written(dataset, root)
    for number in range(bags):
        name, n, label = f"bag_{number}", 6 + 5 * number, number % 2
        instances = (rng.random(n) < 0.4).astype(np.int64) * label
        instances[0] = label
        # torchmil takes labels of shapes (n,) and (n, 1), () and (1,)
        made.put("features", name, rng.normal(size=(n, WIDTH)).astype(np.float32))
        made.put("label", name, np.array(label) if number > 1 else np.array([label]))
        made.put("instances", name, instances[:, None] if number > 1 else instances)
        if dataset != "rsna":
            place = rng.permutation(n)
            corner = rng.integers(1, 9, 2) * 512
            made.put("coords", name, np.stack([place % 5, place // 5], axis=1) * 512 + corner)
        made.splits[name] = "test" if number == bags - 1 else "train"
    rows = [f"{name},{split}" for name, split in made.splits.items()]
    # torchmil takes a bag that is listed twice once
    (root / "splits.csv").write_text("\n".join(["bag_name,split", *rows, rows[0]]) + "\n")
    return made


def arguments(source: Written, **options: Any) -> Namespace:
    known = {"dataset": source.dataset, "root": source.root, "features": source.stored, "patch_px": 512}
    return Namespace(**(known | options))

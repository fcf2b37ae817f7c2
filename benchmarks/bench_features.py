"""CPU seconds of a training run on ready-made features, and what seeding each step cost before.

    python benchmarks/bench_features.py [--steps 1500]

Writes benchmarks/results/features.json. A run of 1,500 steps on two bags of 100 cells of 64 features,
L_SimProp + L_prop, from an opened source to the trained model; without the imports, which runs of one job
share. Before, each step seeded by torch.manual_seed, which also prepares for GPUs that are not there. Both
are timed in turn, the best of each is compared, and the models must be equal bit for bit.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from myostage.features import tokens  # noqa: E402
from myostage.learning import runs  # noqa: E402
from myostage.learning.loop import code_of, fingerprint  # noqa: E402
from myostage.learning.train import StageModel, train  # noqa: E402
from myostage.runtime.checkpoints import Checkpoints  # noqa: E402
from myostage.study.run import RunSpec  # noqa: E402
from myostage.study.sections.encoder import Encoder  # noqa: E402
from myostage.study.sections.training import Training  # noqa: E402

STAGES, FEATURES, CELLS = tuple("abcde"), 64, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "features.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {"now": [], "before": []}
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), 5)  # what a process does once, such as the digest of its code
        for _ in range(arguments.repeats):
            start = time.process_time()
            model = run(Path(folder), arguments.steps)
            seconds["now"].append(time.process_time() - start)
            with patch.object(torch, "default_generator", Before()):
                start = time.process_time()
                other = run(Path(folder), arguments.steps)
                seconds["before"].append(time.process_time() - start)
            assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    best = {name: min(values) for name, values in seconds.items()}
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": platform.processor() or platform.machine(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "steps": arguments.steps,
        "cpu_seconds_a_run": best,
        "milliseconds_a_step": 1e3 * best["now"] / arguments.steps,
        "ratio": best["before"] / best["now"],
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


class Before:
    """Seeds as each step did before."""

    manual_seed = staticmethod(torch.manual_seed)


def run(folder: Path, steps: int) -> StageModel:
    """Train once on slides of six groups that are written where there are none."""
    rng = np.random.default_rng(0)
    proportions = {f"d{group}": rng.dirichlet(np.ones(len(STAGES))) for group in range(6)}
    directions = rng.normal(size=(len(STAGES), FEATURES))
    rows, stores = [], {}
    for group, share in proportions.items():
        for animal in range(2):
            slide = f"{group}_{animal}"
            stages = rng.choice(len(STAGES), CELLS, p=share)
            values = directions[stages] + rng.normal(scale=0.6, size=(CELLS, FEATURES))
            path = folder / f"{slide}.parquet"
            if not path.exists():
                with tokens.writer(path, tokens=1, width=FEATURES, dtype="float32") as out:
                    out.write(
                        np.arange(CELLS, dtype=np.int32), torch.tensor(values[:, None], dtype=torch.float32)
                    )
            stores[slide] = runs.token_store(path)
            rows.append((slide, group, slide, CELLS, 1))
    slides = pd.DataFrame(rows, columns=["slide", "group", "animal", "cells", "fold"])
    spec = RunSpec.model_validate(
        {
            "method": "proportions",
            "losses": {"simprop": 1.0, "prop": 1.0},
            "training": Training(steps=steps, bag_size=100).model_dump(),
            "encoder": Encoder(model="table/features", weights="none", projection=64).model_dump(),
            "folds": 2,
            "fold": 0,
            "seed": 0,
        }
    )
    device = torch.device("cpu")
    source = runs.BagSource(spec, stores, slides, proportions, device)
    trainer = code_of(spec, str(runs.__file__))
    checkpoints = Checkpoints(folder / "checkpoint", fingerprint(spec, STAGES, source.digest()), trainer)
    checkpoints.clear()
    suffix = runs.fresh_suffix(spec, stores.values())
    return train(
        spec, STAGES, source, suffix, checkpoints=checkpoints, history_out=None, device=device, made_by=""
    )[0]


if __name__ == "__main__":
    main()

"""Compose a study of groups with drawn proportions from any set of labelled crops of ordered stages.

    python scripts/compose_bags.py labelled.tsv --stages low,middle,high --out config/mine

docs/crops.md says what the table holds.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from myostage.errors import UserError
from myostage.phantom import compose
from myostage.study.inputs import read_proportions
from myostage.study.load import load_study
from myostage.study.sections.study import Study

GROUPS = 5
CHANGED = 0.05
"""Least change of a share that is stated."""


def ask_shares(arguments: argparse.Namespace, stages: list[str]) -> dict[str, compose.Shares]:
    """Proportions of every group: as given, or drawn."""
    if arguments.proportions:
        if arguments.groups:
            raise UserError("--proportions names the groups; leave --groups out")
        study = Study(
            study="composed", stages=tuple(stages), proportions=arguments.proportions, normalise=True
        )
        return read_proportions(study)
    groups = arguments.groups or GROUPS
    if arguments.draw == "dirichlet":
        drawn = np.random.default_rng(arguments.seed).dirichlet(np.ones(len(stages)), groups)
    else:
        drawn = compose.drift(groups, len(stages))
    return {f"g{number}": row for number, row in enumerate(drawn, start=1)}


def list_changes(
    asked: Mapping[str, compose.Shares], made: Mapping[str, compose.Shares], stages: list[str]
) -> list[str]:
    """A line for each group whose proportions were fitted to the pool: the stages that moved."""
    lines = []
    for group, share in asked.items():
        moved = np.flatnonzero(np.abs(made[group] - share) >= CHANGED).tolist()
        if moved:
            of_stage = (f"{stages[k]} {share[k]:.2f} to {made[group][k]:.2f}" for k in moved)
            lines.append(f"  {group}: {', '.join(of_stage)}")
    return lines


def main(arguments: argparse.Namespace) -> None:
    """Write the study and say how to run it."""
    stages = arguments.stages.split(",")
    compose.check_names("--stages holds", stages)
    if len(stages) < 2 or len(set(stages)) < len(stages):
        raise UserError(f"--stages is {arguments.stages}; name two stages or more, each once, with commas")
    for option in ("groups", "animals", "cells"):
        if getattr(arguments, option) is not None and getattr(arguments, option) < 1:
            raise UserError(f"--{option} is {getattr(arguments, option)}; give 1 or more")
    asked = ask_shares(arguments, stages)
    if len(asked) * arguments.animals < 2:
        raise UserError("one animal cannot be cut into folds; raise --animals or --groups")
    leave_out = arguments.leave_out.split(",") if arguments.leave_out else []
    pool = compose.read_pool(arguments.table, stages, leave_out)
    dealt = compose.compose(
        pool,
        asked,
        stages=stages,
        animals=arguments.animals,
        cells=arguments.cells,
        fit=not arguments.proportions,
        seed=arguments.seed,
    )
    path = compose.write_study(arguments.out, pool, dealt, stages)
    study = load_study(path)
    cells = len(dealt[0].crops)
    print(
        f"{len(asked)} groups of {arguments.animals} animals with {cells} cells each: "
        f"{len(dealt) * cells} of {len(pool.names)} labelled crops"
    )
    changes = list_changes(asked, read_proportions(study), stages) if not arguments.proportions else []
    if changes:
        print("Some stages are scarce: the groups' proportions were fitted to the crops that there are.")
        print("\n".join(changes))
    print(f"next: make study STUDY={path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "table", help="TSV of labelled crops: path, label; optionally crop, animal or subject"
    )
    parser.add_argument("--stages", required=True, help="stages in order, with commas between them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study, which bears its name")
    parser.add_argument("--groups", type=int, help=f"groups to draw, {GROUPS} unless told")
    parser.add_argument("--animals", type=int, default=5, help="animals per group (5)")
    parser.add_argument(
        "--cells",
        type=int,
        help=f"cells per animal; unless told, all that there are, {compose.MOST_CELLS} at most",
    )
    parser.add_argument("--leave-out", help="labels outside the order, with commas between them")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn (0)")
    parser.add_argument(
        "--draw",
        choices=("drift", "dirichlet"),
        default="drift",
        help="groups that move from the first stage to the last (drift), or any proportions (dirichlet)",
    )
    parser.add_argument("--proportions", help="TSV of the groups' proportions, kept as they are")
    try:
        main(parser.parse_args())
    except UserError as error:
        sys.exit(str(error))

"""Compose a study of groups with drawn proportions from any set of labelled crops of ordered stages.

    python scripts/compose_bags.py labelled.tsv --stages low,middle,high --out config/mine

docs/crops.md says what the table holds.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from myostage.errors import UserError
from myostage.phantom import compose
from myostage.study.inputs import read_proportions
from myostage.study.load import load_study
from myostage.study.sections.study import Study

GROUPS = 5


def shares(
    arguments: argparse.Namespace, stages: list[str], rng: np.random.Generator
) -> dict[str, np.ndarray]:
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
        drawn = rng.dirichlet(np.ones(len(stages)), groups)
    else:
        drawn = compose.drift(groups, len(stages))
    return {f"g{number}": row for number, row in enumerate(drawn, start=1)}


def main(arguments: argparse.Namespace) -> None:
    """Write the study and say how to run it."""
    stages = arguments.stages.split(",")
    compose.check_names("--stages holds", stages)
    if len(stages) < 2 or len(set(stages)) < len(stages):
        raise UserError(f"--stages is {arguments.stages}; name two stages or more, each once, with commas")
    for option in ("groups", "animals", "cells"):
        if getattr(arguments, option) is not None and getattr(arguments, option) < 1:
            raise UserError(f"--{option} is {getattr(arguments, option)}; give 1 or more")
    rng = np.random.default_rng(arguments.seed)
    given = shares(arguments, stages, rng)
    if len(given) * arguments.animals < 2:
        raise UserError("one animal cannot be cut into folds; raise --animals or --groups")
    pool = compose.read_pool(arguments.table, stages)
    dealt = compose.compose(
        pool, given, stages=stages, animals=arguments.animals, cells=arguments.cells, rng=rng
    )
    study = compose.write_study(arguments.out, pool, dealt, stages)
    load_study(study)
    print(
        f"{len(given)} groups of {arguments.animals} animals with {arguments.cells} cells each, "
        f"of {len(pool.names)} labelled crops\nnext: make study STUDY={study}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "table", help="TSV of labelled crops: path, label; optionally crop, animal or subject"
    )
    parser.add_argument("--stages", required=True, help="stages in order, with commas between them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study, which bears its name")
    parser.add_argument("--groups", type=int, help=f"groups to draw, {GROUPS} unless told")
    parser.add_argument("--animals", type=int, default=3, help="animals per group (3)")
    parser.add_argument("--cells", type=int, default=200, help="cells per animal (200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn (0)")
    parser.add_argument(
        "--draw",
        choices=("drift", "dirichlet"),
        default="drift",
        help="groups that move from the first stage to the last (drift), or any proportions (dirichlet)",
    )
    parser.add_argument("--proportions", help="TSV of the groups' proportions, instead of drawing them")
    try:
        main(parser.parse_args())
    except UserError as error:
        sys.exit(str(error))

"""Train the runs of one job, each in its world, and predict the animals that are held out there."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from myostage.learning import worlds
from myostage.runtime import jobs
from myostage.study.run import RunSpec
from myostage.study.sections.world import World
from myostage.worlds.draw import draw

FILES = ("predictions.parquet", "history.parquet", "outcome.parquet")


def work(smk: Any) -> None:
    paths, stages = jobs.paths(smk), smk.params.stages
    own = {group: np.array(share) for group, share in smk.params.own.items()}
    about = {member["run"]: member for member in smk.params.runs}

    @lru_cache(1)
    def world(settings: str, seed: tuple[int, ...], folds: int) -> worlds.World:
        return worlds.World(draw(World(**json.loads(settings)), len(stages), seed, own), folds)

    def train(name: str) -> None:
        known = about[name]
        spec = RunSpec(**known["spec"])
        predictions, history, outcome = (Path(file) for file in files(name))
        worlds.run_in_world(
            spec,
            stages,
            world(json.dumps(known["world"]), tuple(known["seed"]), spec.folds),
            predictions_out=predictions,
            history_out=history,
            outcome_out=outcome,
            choices=Path(known["choices"]) if known["choices"] else None,
            threads=smk.threads,
        )

    def files(name: str) -> list[str]:
        return [paths.study(f"worlds/{name}/{file}") for file in FILES]

    members = [
        jobs.Member(
            name, f"worlds/{name}", [known["choices"]] if known["choices"] else [], files(name), known
        )
        for name, known in about.items()
    ]
    jobs.make_each(smk, members, train)


jobs.run(snakemake, work)

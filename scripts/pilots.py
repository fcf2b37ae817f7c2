"""Choose the settings of experiments in pilot worlds, by proportions of animals held in."""

from pathlib import Path
from typing import Any

import numpy as np

from myostage.learning import worlds
from myostage.runtime import jobs
from myostage.study.run import CHOICES, RunSpec
from myostage.study.sections.world import World
from myostage.worlds.draw import draw


def work(smk: Any) -> None:
    paths, stages = jobs.paths(smk), smk.params.stages
    own = {group: np.array(share) for group, share in smk.params.own.items()}
    about = {member["run"]: member for member in smk.params.runs}

    def choose(name: str) -> None:
        spec, settings = RunSpec(**about[name]["spec"]), World(**about[name]["world"])
        pilots = [
            worlds.World(draw(settings, len(stages), seed, own), spec.folds) for seed in about[name]["seeds"]
        ]
        out = Path(paths.study(f"worlds/{name}/{CHOICES}"))
        worlds.choose_in_pilots(spec, stages, pilots, out, threads=smk.threads)

    members = [
        jobs.Member(name, f"worlds/{name}", [], [paths.study(f"worlds/{name}/{CHOICES}")], known)
        for name, known in about.items()
    ]
    jobs.make_each(smk, members, choose)


jobs.run(snakemake, work)

"""The worlds of a study: points of its maps, and the runs of every experiment in every world, in jobs.

Read whenever the Snakefile is: no torch, and nothing is drawn.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, TypeVar

from myostage.errors import UserError, raise_all
from myostage.learning.baseline import BASELINES
from myostage.learning.options import EXPECTED_STAGE
from myostage.learning.term import which
from myostage.paths import Paths
from myostage.runtime import provenance
from myostage.schema import digest, nearest
from myostage.study.expand import MOST_RUNS, expand, show_value
from myostage.study.fit import Misfit, needs_positions, override
from myostage.study.inputs import read_proportions
from myostage.study.run import CHOICES, RunSpec
from myostage.study.sections.study import Study
from myostage.study.sections.training import Training
from myostage.study.sections.world import NOT_A_WORLD, World
from myostage.study.structure import structure

# of a varied key of the section `training`
TRAINING = "training."
# keys of `training` that a map may not vary: they choose, or change no result
NOT_VARIED = {"choose", "checkpoint_every", "cache_mb", "score", "proportions"}
# keys of a study file that mean something to a study of worlds
OF_WORLDS = {
    "study",
    "results",
    "stages",
    "proportions",
    "normalise",
    "world",
    "encoder",
    "training",
    "folds",
}
OF_WORLDS |= {"experiments", "compare", "jobs"}
IN_WORLDS = ("proportions", "supervised", *BASELINES.names())
CENTRE = "centre"
T = TypeVar("T")
code_digest = cache(provenance.code_digest)


@dataclass(frozen=True)
class Point:
    """One point of the maps: its world, and keys of `training` that differ there."""

    name: str
    world: World
    training: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the worlds of the point are drawn by, beside their numbers."""
        return self.world.model_dump(exclude=NOT_A_WORLD) | {"seed": self.world.seed}


@dataclass(frozen=True)
class WorldRun:
    """One experiment in one world."""

    point: Point
    repeat: int
    spec: RunSpec
    chosen_by: str  # name of the choice of its settings; empty: it has none

    @property
    def name(self) -> str:
        return f"{self.spec.id}-{digest(self.point.settings)}"


@dataclass(frozen=True)
class Worlds:
    """What is run in which world.

    Points that are equal are one, and so are runs: two maps, or two experiments, that ask for the same run
    share it.
    """

    study: Study

    @property
    def world(self) -> World:
        assert self.study.world is not None
        return self.study.world

    @property
    def paths(self) -> Paths:
        return Paths.of(self.study.results, self.study.study)

    @cached_property
    def experiments(self) -> dict[str, RunSpec]:
        """Label -> its run of the first fold."""
        return {label: specs[0] for label, specs in expand(self.study).items()}

    @cached_property
    def own(self) -> dict[str, list[float]]:
        """Proportions of every group before mixing, by the study's table; empty: there is none."""
        shares = read_proportions(self.study) if self.study.proportions else {}
        return {group: share.tolist() for group, share in shares.items()}

    @cached_property
    def points(self) -> dict[str, Point]:
        """Every point of the maps, by name; the section itself is the centre."""
        found: dict[str, Point] = {}
        for listed in self.drawn_maps.values():
            for name, settings in listed["points"].items():
                found.setdefault(name, self._point(name, dict(zip(listed["keys"], settings, strict=True))))
        return found

    @cached_property
    def maps(self) -> dict[str, dict[str, Any]]:
        """Map -> its ``keys``, and its ``points``: name -> the value of each key."""
        return {
            listed.name: {
                "keys": list(listed.vary),
                "points": {
                    self._name(dict(zip(listed.vary, values, strict=True))): list(values)
                    for values in itertools.product(*listed.vary.values())
                },
            }
            for listed in self.world.maps
        }

    def _name(self, settings: Mapping[str, Any]) -> str:
        """What of a point differs from the section: ``overlap=1,mixing=0``."""
        base = self._base
        differing = {key: value for key, value in sorted(settings.items()) if value != base[key]}
        return ",".join(f"{key}={show_value(value)}" for key, value in differing.items()) or CENTRE

    @cached_property
    def _base(self) -> dict[str, Any]:
        training = {f"{TRAINING}{key}": value for key, value in self.study.training.model_dump().items()}
        return self.world.model_dump() | training

    def _point(self, name: str, settings: Mapping[str, Any]) -> Point:
        world = {key: value for key, value in settings.items() if not key.startswith(TRAINING)}
        training = {
            key.removeprefix(TRAINING): value
            for key, value in settings.items()
            if key.startswith(TRAINING) and value != self._base[key]
        }
        return Point(name, override(World, self.world.model_dump(), world, f"world at {name}"), training)

    @cached_property
    def choices(self) -> dict[str, RunSpec]:
        """The experiments that choose their settings in the pilots, by the name of the choice."""
        own = digest(self._point(CENTRE, {}).settings | {"pilots": self.world.pilots})
        choosing = (spec for spec in self.experiments.values() if spec.training.choose)
        return {f"{spec.id}-{own}": spec for spec in choosing}

    @cached_property
    def runs(self) -> dict[str, WorldRun]:
        """Every run by name; those of one world follow each other."""
        return {run.name: run for named in self.by_place.values() for run in named}

    @cached_property
    def by_place(self) -> dict[tuple[str, str], list[WorldRun]]:
        """Point and experiment -> its run in each world."""
        chosen = {spec.id: name for name, spec in self.choices.items()}
        found: dict[tuple[str, str], list[WorldRun]] = {}
        for point in self.points.values():
            for repeat in range(self.world.repeats):
                for label, base in self.experiments.items():
                    run = WorldRun(point, repeat, _at(base, point, repeat), chosen.get(base.id, ""))
                    found.setdefault((point.name, label), []).append(run)
        return found

    @cached_property
    def batches(self) -> dict[str, list[WorldRun]]:
        """Job -> runs; those of one world follow each other, so that it is drawn once."""
        order = {name: place for place, name in enumerate(self.points)}
        listed = sorted(self.runs.values(), key=lambda run: (order[run.point.name], run.repeat))
        return _cut(listed, self.study.runs_per_job, "worlds")

    @cached_property
    def choice_batches(self) -> dict[str, list[str]]:
        """Job -> choices of settings; each of them trains about as often as a job of runs."""
        trainings = max((len(spec.candidates) for spec in self.choices.values()), default=1)
        size = max(1, self.study.runs_per_job // (trainings * self.world.pilots))
        return _cut(list(self.choices), size, "pilots")

    @cached_property
    def trained(self) -> list[RunSpec]:
        """What is trained, in pilots and worlds: a specification for each time."""
        pilots = [
            candidate for spec in self.choices.values() for candidate in spec.candidates * self.world.pilots
        ]
        return pilots + [run.spec for run in self.runs.values() if run.spec.trained]

    def file(self, name: str, kind: str) -> str:
        """A file of a run or of a choice."""
        return self.paths.study(f"worlds/{name}/{kind}")

    def waits_for(self, batch: str) -> list[str]:
        """The receipts of the choices that the runs of a job need."""
        needed = {run.chosen_by for run in self.batches[batch]}
        return [
            self.paths.receipt("pilots", job)
            for job, choices in self.choice_batches.items()
            if needed.intersection(choices)
        ]

    def members(self, batch: str) -> list[dict[str, Any]]:
        """The runs of a job, each with what shapes it."""
        return [
            {
                "run": run.name,
                "spec": run.spec.model_dump(mode="json"),
                "world": run.point.settings,
                "seed": self._seed(run.point, "repeat", run.repeat),
                "choices": self.file(run.chosen_by, CHOICES) if run.chosen_by else "",
                "terms": self._code_of(run.spec),
            }
            for run in self.batches[batch]
        ]

    def pilot_members(self, batch: str) -> list[dict[str, Any]]:
        """The choices of a job, each with what shapes it."""
        centre = self._point(CENTRE, {})
        return [
            {
                "run": name,
                "spec": self.choices[name].model_dump(mode="json"),
                "world": centre.settings,
                "seeds": [self._seed(centre, "pilot", number) for number in range(self.world.pilots)],
                "terms": self._code_of(self.choices[name]),
            }
            for name in self.choice_batches[batch]
        ]

    def _seed(self, point: Point, kind: str, number: int) -> list[int]:
        """Of one world; points that differ by training alone share their worlds, and no others do."""
        of_point = int(digest(point.settings | {"kind": kind}), 16)
        return [self.world.seed, of_point, number]

    def _code_of(self, spec: RunSpec) -> str:
        """Digest of the files that declare the terms, or the baseline, which no script imports by name."""
        return "+".join(code_digest(provenance.LIBRARY / file) for file in spec.code)

    @cached_property
    def structure(self) -> dict[str, Any]:
        """See :class:`myostage.study.structure.Structure`."""
        return structure(self.study, {label: [spec] for label, spec in self.experiments.items()}, {})

    @cached_property
    def drawn_maps(self) -> dict[str, dict[str, Any]]:
        """:attr:`maps`, or the section alone where there are none."""
        return self.maps or {CENTRE: {"keys": [], "points": {CENTRE: []}}}

    @property
    def layout(self) -> dict[str, Any]:
        """What the tables of the study are made from."""
        return {
            "places": [
                (point, label, [run.name for run in runs]) for (point, label), runs in self.by_place.items()
            ],
            "choices": {
                label: name
                for name, chosen in self.choices.items()
                for label, spec in self.experiments.items()
                if spec.id == chosen.id
            },
            "maps": {name: list(listed["points"]) for name, listed in self.drawn_maps.items()},
            "reference": self.structure["reference"],
            "untested": self.structure["untested"],
        }

    @property
    def facts(self) -> dict[str, Any]:
        """What the page of the study says beside its tables."""
        world = self.world.model_dump(exclude={"maps"})
        return {
            "structure": self.structure,
            "maps": self.drawn_maps,
            "world": world,
            "animals": (len(self.own) or self.world.groups) * self.world.animals,
            "folds": self.study.folds,
            "training": self.study.training.model_dump(mode="json"),
        }

    # --- checks ---------------------------------------------------------------------------------------------

    def check(self, where: str) -> None:
        """Refuse what no world can be: UserError with every problem."""
        problems = [*self._check_keys(), *self._check_experiments()]
        raise_all(where, problems)
        for listed in self.world.maps:
            problems += self._check_vary(listed.name, listed.vary)
        raise_all(where, problems)
        points = 1 + sum(math.prod(map(len, listed.vary.values())) for listed in self.world.maps)
        runs = points * self.world.repeats * len(self.experiments)
        if runs > MOST_RUNS:
            raise UserError(
                f"{where}: {runs:,} runs, more than {MOST_RUNS:,}; shorten world.maps or lower repeats"
            )
        try:
            for point in self.points.values():
                problems += [f"world at {point.name}: {fault}" for fault in self._check_point(point)]
        except Misfit as misfit:
            problems += misfit.problems
        raise_all(where, problems)

    def _check_keys(self) -> Iterator[str]:
        for name in sorted(self.study.model_fields_set - OF_WORLDS):
            yield f"`world` draws cells, and {name} means nothing to them; remove one of the two"
        if not self.study.experiments:
            yield "no experiments; add some"
        if self.study.proportions and ("groups" in self.world.model_fields_set or self._varies("groups")):
            yield "world.groups is the number of rows of `proportions`, which is named too; remove one"
        names = [listed.name for listed in self.world.maps]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield f"world.maps name {name} {names.count(name)} times; rename the others"

    def _varies(self, key: str) -> bool:
        return any(key in listed.vary for listed in self.world.maps)

    def _check_experiments(self) -> Iterator[str]:
        for label, spec in self.experiments.items():
            where = f"experiments[{label}]"
            if spec.trained and spec.method not in IN_WORLDS:
                yield f"{where}: method {spec.method} does not run in worlds, only {', '.join(IN_WORLDS)} do"
            if needs_positions(spec.losses, spec.training):
                yield f"{where} needs to know where cells lie, which worlds do not say; remove it"
            if spec.training.proportions == "slide":
                yield f"{where} learns from the proportions of slides; worlds give those of groups"
            if which(spec.losses, regression=True) and spec.training.score != EXPECTED_STAGE:
                yield f"{where} learns a column of a slide table, which worlds do not have; leave score out"

    def _check_vary(self, name: str, vary: Mapping[str, list[Any]]) -> Iterator[str]:
        where = f"world.maps[{name}].vary"
        own = [key for key in World.model_fields if key not in NOT_A_WORLD]
        valid = own + [f"{TRAINING}{key}" for key in Training.model_fields if key not in NOT_VARIED]
        for key, values in vary.items():
            if key not in valid:
                yield f"unknown key {where}.{key}{nearest(key, valid) or '; the keys are ' + ', '.join(own)}"
                continue
            if any(value in values[:place] for place, value in enumerate(values)):
                yield f"{where} repeats a value of {key}; remove it"
            bare = key.removeprefix(TRAINING)
            section, base = (World, self.world) if bare == key else (Training, self.study.training)
            for value in values:
                try:
                    override(section, base.model_dump(), {bare: value}, where)
                except Misfit as misfit:
                    yield from misfit.problems
            if bare != key:
                for experiment in self.study.experiments:
                    choose = self.experiments_of(experiment.name).training.choose
                    if bare in {*experiment.training, *experiment.vary, *(choose.vary if choose else ())}:
                        yield f"{where}: experiments[{experiment.name}] sets {key} too; keep one"

    def experiments_of(self, name: str) -> RunSpec:
        """The first run of an experiment, whatever it varies."""
        return next(spec for label, spec in self.experiments.items() if label.partition("[")[0] == name)

    def _check_point(self, point: Point) -> Iterator[str]:
        world, stages, folds = point.world, len(self.study.stages), self.study.folds
        groups = len(self.own) or world.groups
        if world.animals < 2:
            yield "animals is 1, and no animal of its group is left where it is held out; raise it to 2"
        animals = groups * world.animals
        if animals < folds:
            yield f"folds is {folds}, more than its {animals} animals; lower folds or raise animals"
        if world.order == "shuffled" and stages < 3:
            yield "two stages have no other order than the declared one; leave order out"
        if world.order == "unordered" and world.dimensions - world.distractors < stages:
            yield (
                f"{stages} stages as far from each other need {stages} dimensions beside the "
                f"{world.distractors} distractors; raise dimensions"
            )
        learnt = world.animals - -(-world.animals // folds)
        for label, base in self.experiments.items():
            spec = _at(base, point, 0)
            if not spec.trained:
                continue
            for candidate in spec.candidates:
                training = candidate.training
                cells = world.cells * (1 if training.bags == "slide" else learnt)
                if training.bag_size > cells and spec.method == "proportions":
                    yield (
                        f"{label} draws bags of {training.bag_size} cells, and a {training.bags} that is "
                        f"learnt from has {cells}; lower training.bag_size or raise cells"
                    )
                    break
            choose = spec.training.choose
            if choose and choose.parts > animals - -(-animals // folds):
                yield f"{label} holds in {choose.parts} parts of fewer animals; lower training.choose.parts"


def _cut(listed: list[T], size: int, name: str) -> dict[str, list[T]]:
    starts = range(0, len(listed), size)
    return {f"{name}{number}": listed[start : start + size] for number, start in enumerate(starts, start=1)}


def _at(spec: RunSpec, point: Point, repeat: int) -> RunSpec:
    """The run of an experiment at a point: every world is trained with a seed of its own."""
    changed: dict[str, Any] = {"fold": 0, "seed": repeat}
    if point.training and spec.trained:
        changed["training"] = Training.model_validate(spec.training.model_dump() | dict(point.training))
    return RunSpec.model_validate(spec.model_dump() | changed)

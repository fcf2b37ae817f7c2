"""The study as its rules see it: slides and runs in jobs, what each job waits for, which tables there are.

Read whenever the Snakefile is: no torch, no slide is opened, no folder is listed.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from myostage.errors import UserError
from myostage.learning.baseline import BASELINES
from myostage.learning.options import EXPECTED_STAGE
from myostage.learning.term import opposed, which
from myostage.paths import Paths
from myostage.runtime import checksums, provenance
from myostage.study.expand import applied, encoders, left_out, runnable
from myostage.study.inputs import (
    SlideRow,
    read_proportions,
    read_slide_proportions,
    read_slides,
    read_training_images,
    slide_classes,
    slide_scores,
)
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import NOT_IN_TOKENS, Encoder
from myostage.study.sections.study import Study
from myostage.study.structure import slide_structure, structure
from myostage.study.worlds import Worlds

BASELINE_JOB = "baselines"
# files of a user that are read at a time: on a network disk each waits
READERS = 16
# what a study starts from -> rule and what it makes of each slide of its batch
MADE_BY = {
    "slides": (("tile", "tiles.parquet"), ("segment", "cells.parquet"), ("crop", "crops.parquet")),
    "features": (("features", "positions.parquet"), ("features", "labels.parquet")),
    "crops": (),
}
# what a study starts from -> the table of a slide that says where cells lie, and the one that lists them
PLACES = {"slides": "cells.parquet", "crops": "", "features": "positions.parquet"}
COUNTED = {"slides": "crops.parquet", "crops": "crops.parquet", "features": "positions.parquet"}
CELL_TABLES = ("metrics", "comparisons", "confusion", "reliability", "scores", "runs")
SLIDE_TABLES = ("slides_metrics", "slides_comparisons", "slides_runs")
ATTENTION_TABLES = ("spectrum", "borders")
WORLD_TABLES = ("worlds", "worlds_comparisons", "worlds_curves")

_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")

Experiments = dict[str, list[RunSpec]]


@dataclass(frozen=True)
class Plan:
    """Everything that the rules ask of a study; each part is worked out when it is first asked for.

    Errors of the study's tables are raised then, as UserError.
    """

    study: Study

    # --- slides ---------------------------------------------------------------------------------------------

    @cached_property
    def paths(self) -> Paths:
        return Paths.of(self.study.results, self.study.study)

    @cached_property
    def slides(self) -> dict[str, SlideRow]:
        return {row.slide: row for row in read_slides(self.study)}

    @cached_property
    def carried(self) -> dict[str, dict[str, str]]:
        """Slide -> the columns of the slide table that nothing uses, for tables with a row per slide.

        No table that slides are cut or runs are trained from has them: another treatment trains nothing anew.
        """
        return {name: dict(slide.carried) for name, slide in self.slides.items() if slide.carried}

    @cached_property
    def imaged(self) -> list[str]:
        """The slides with an image that is segmented: all, or none where the study starts from cells."""
        return list(self.slides) if self.study.input == "slides" else []

    @cached_property
    def labelled(self) -> list[str]:
        """The slides with labels of cells; of a benchmark's features any instance may have a label."""
        ready = self.study.features is not None and self.study.features.dataset is not None
        return [name for name, slide in self.slides.items() if slide.labelled or ready]

    @cached_property
    def slide_batches(self) -> dict[str, list[str]]:
        """Job -> slides; a table of cells is cut into all of them by one job."""
        of_table = self.study.features is not None and self.study.features.table is not None
        return batches(
            self.slides, len(self.slides) if of_table else self.study.jobs.slides_per_job, "slides"
        )

    @cached_property
    def token_batches(self) -> dict[str, list[str]]:
        """Job of one encoder -> slides; the more encoders, the more, so that jobs grow no more in number."""
        encoders = max(1, len(self.encoders))
        return batches(self.slides, self.study.jobs.slides_per_job * encoders, "slides")

    @cached_property
    def bags(self) -> list[tuple[str, int]]:
        """What bags of proportions are drawn from, and their cells; each pair once."""
        return bags(itertools.chain.from_iterable(self.experiments.values()))

    @property
    def places(self) -> str:
        """The table of a slide that says where its cells lie; empty where nothing does."""
        return PLACES[self.study.input]

    @property
    def counted(self) -> str:
        """The table of a slide that lists the cells that are dealt into folds."""
        return COUNTED[self.study.input]

    @cached_property
    def healthy(self) -> list[int]:
        """Ranks of the stages of uninjured tissue."""
        stages = self.study.healthy.stages if self.study.healthy else ()
        return [self.study.stages.index(stage) for stage in stages]

    @cached_property
    def proportions(self) -> dict[str, list[float]]:
        """Proportions of every group; none where the study learns nothing."""
        shares = read_proportions(self.study) if self.study.proportions else {}
        return {group: share.tolist() for group, share in shares.items()}

    @cached_property
    def drawn(self) -> dict[str, SlideRow]:
        """Slides and annotations that the workflow draws itself, each with the slide that it is of."""
        found = list(self.slides.values()) if self.study.phantom else []
        return {file: slide for slide in found for file in (slide.path, slide.annotations) if file}

    def content(self, files: object) -> dict[str, str]:
        """What each of a user's ``files`` holds, whatever its time: where that is another, jobs run again.

        Read anew each time that the workflow starts, since a file may be replaced and keep its size and time.
        """
        named = dict.fromkeys(flat(files))
        unknown = [file for file in named if file not in self._contents]
        with ThreadPoolExecutor(READERS) as pool:
            self._contents.update(zip(unknown, pool.map(self._read, unknown), strict=True))
        return {file: self._contents[file] for file in named}

    def _read(self, file: str) -> str:
        """What a file holds; of a slide drawn here what it is drawn from, and what was put in its place."""
        held = ""
        if Path(file).is_file():  # Snakemake names what is missing
            held = checksums.given(file, self.study.jobs.whole_checksums)
        if file not in self.drawn:
            return held
        if any(held in checksums.as_given(said) for said in provenance.stated(file)):
            held = ""
        slide, study = self.drawn[file], self.study
        return held + provenance.digest(
            {
                "slide": (slide.slide, slide.animal, slide.border, slide.values["score"]),
                "proportions": self.proportions[slide.group],
                "healthy": study.healthy.stages if study.healthy else (),
                "stages": study.stages,
                "phantom": study.phantom.model_dump() if study.phantom else {},
                "code": self._drawing_code,
            }
        )

    @cached_property
    def _drawing_code(self) -> str:
        return provenance.code_digest(provenance.LIBRARY.parent / "phantom.py")

    def content_of_all(self, files: object) -> str:
        """:meth:`content` of any number of files, in a few characters."""
        return provenance.digest(self.content(files))

    @cached_property
    def _contents(self) -> dict[str, str]:
        return {}

    @cached_property
    def segmentation_model(self) -> str | list[str]:
        """The file of the Cellpose model: one that the study trains, or one that it names; else none."""
        if self.study.segmentation.train:
            return self.paths.study("cellpose/model.pt")
        return self.study.segmentation.model_file or []

    @cached_property
    def segmentation_images(self) -> list[str]:
        """Images, masks and weights that Cellpose is trained from."""
        training = self.study.segmentation.train
        if not training:
            return []
        files = [file for row in read_training_images(training.images) for file in (row.image, row.masks)]
        return files + ([training.start_file] if training.start_file else [])

    # --- experiments ----------------------------------------------------------------------------------------

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Experiment that cannot run -> why."""
        return left_out(self.study)

    @cached_property
    def runnable(self) -> Experiments:
        """The experiments that run on cells or slides; those in worlds are of :attr:`worlds`."""
        return {} if self.worlds else runnable(self.study)

    @cached_property
    def worlds(self) -> Worlds | None:
        """What is run in drawn worlds, in a study of these."""
        return Worlds(self.study) if self.study.world else None

    @cached_property
    def experiments(self) -> Experiments:
        """The experiments that stage cells."""
        return {label: specs for label, specs in self.runnable.items() if specs[0].method != "slide"}

    @cached_property
    def slide_experiments(self) -> Experiments:
        """The experiments that learn labels of slides."""
        return {label: specs for label, specs in self.runnable.items() if specs[0].method == "slide"}

    @cached_property
    def structure(self) -> dict[str, Any]:
        return structure(self.study, self.experiments, self.left_out)

    @cached_property
    def slide_structure(self) -> dict[str, Any]:
        return slide_structure(self.study, self.slide_experiments)

    @cached_property
    def shown(self) -> str | None:
        """The experiment that figures show and that stages every cell.

        Raises
        ------
        UserError
            It, or the one that others are compared with, is left out (:func:`left_out`).
        """
        study = self.study
        for key, name in (
            ("look.experiment", study.look.experiment),
            ("compare.reference", study.compare.reference),
        ):
            if name in self.left_out:
                raise UserError(
                    f"study {study.study}: {key} {name} is left out because {self.left_out[name]}; correct "
                    "that, or name another experiment"
                )
        named = study.look.experiment
        return named if named in self.experiments else next(iter(self.experiments), None)

    @cached_property
    def staging(self) -> list[RunSpec]:
        """The runs that stage every cell: of the shown experiment, or of the study that `apply` names."""
        if self.study.apply:
            return applied(self.study)[1]
        return self.experiments[self.shown] if self.shown else []

    @cached_property
    def applied_models(self) -> list[str]:
        """The models of the study that `apply` names, in the order of `staging`."""
        other, specs = applied(self.study)
        return of_runs(Paths.of(other.results, other.study), "model.safetensors", specs)

    @cached_property
    def staged_by(self) -> list[str]:
        """The predictions that stage every cell, in the order of `staging`."""
        if self.study.apply:
            return [self.paths.study(f"applied/{spec.id}.parquet") for spec in self.staging]
        return of_runs(self.paths, "predictions.parquet", self.staging)

    @cached_property
    def baselines(self) -> list[str]:
        """The baselines that are compared: without labels of cells not one that repeats what is given."""
        repeating = [name for name in BASELINES.names() if BASELINES[name].repeats_given]
        return [
            label
            for label in self.structure["baselines"]
            if self.labelled or self.experiments[label][0].method not in repeating
        ]

    @cached_property
    def ordered(self) -> str | None:
        """The experiment whose embedding is looked at: the shown one if it has L_SimProp, else the first."""
        labels = [self.shown, *self.experiments] if self.shown else []
        return next((name for name in labels if "simprop" in self.structure["losses"].get(name, {})), None)

    @cached_property
    def embedded(self) -> list[str]:
        """The experiments whose embeddings of stages are compared."""
        labels = dict.fromkeys([*self.structure["main"], *([self.ordered] if self.ordered else [])])
        return [name for name in labels if self.experiments[name][0].network]

    def before_and_after(self, name: str) -> dict[str, str]:
        """Experiments whose embeddings show what training ``name`` does, with captions.

        Before: one that leaves the same encoder as it was. None where there is no such experiment.
        """
        encoder, untrained = self.experiments[name][0].encoder, self.structure["untrained"]
        before = next((label for label in untrained if self.experiments[label][0].encoder == encoder), None)
        captions = {before: f"before training ({before})"} if before else {}
        return {**captions, name: f"after training ({name})"}

    @cached_property
    def conflicting(self) -> list[str]:
        """The experiments whose terms are watched for gradients that oppose each other."""
        losses = self.structure["losses"]
        return [name for name, terms in losses.items() if opposed(terms)]

    @cached_property
    def added(self) -> list[str]:
        """The experiments whose embeddings of uninjured tissue and of injured cells are added up."""
        regression = self.structure["regression"] if self.healthy else []
        return [name for name in regression if self.experiments[name][0].trained]

    @cached_property
    def attended(self) -> list[str]:
        """The experiments whose attention is shown: those named, or the reference and the first with Sm."""
        references, smoothed = self.slide_structure["references"], list(self.slide_structure["points"])
        named = [label for label in self.study.look.attention if label in references]
        first = next(iter(references.values()), None)
        like = [label for label in smoothed if references[label] == first and label != first]
        return named or [label for label in [first, *like[:1]] if label is not None]

    def drawn_slides(self, most: int = 3) -> list[str]:
        """The slides whose attention is drawn: those named, or injured ones, of each kind of border."""
        healthy = self.study.healthy.groups if self.study.healthy else ()
        injured = [name for name in self.labelled if self.slides[name].group not in healthy]
        of_kind = {self.slides[name].border: name for name in reversed(injured) if self.slides[name].border}
        named = [name for name in self.study.look.slides if name in self.labelled]
        return (named or list(of_kind.values()) or injured)[:most]

    # --- tables ---------------------------------------------------------------------------------------------

    @cached_property
    def cell_tables(self) -> list[str]:
        """Metrics of cells, and what belongs to them."""
        chosen = ["choices"] if self.choosing else []
        wrong = ["wrong_tables"] if self.wrong_tables else []
        return self._tables([*CELL_TABLES, *chosen, *wrong]) if self.experiments else []

    @cached_property
    def choosing(self) -> list[str]:
        """Ids of the runs that choose their settings."""
        specs = itertools.chain.from_iterable(self.experiments.values())
        return list(dict.fromkeys(spec.id for spec in specs if spec.training.choose))

    @property
    def wrong_tables(self) -> bool:
        """Whether priors are measured with wrong proportions too."""
        return bool(self.study.prediction.priors and self.labelled and self.experiments)

    @cached_property
    def slide_tables(self) -> list[str]:
        """Metrics of labels of slides, and what belongs to them."""
        return self._tables(SLIDE_TABLES) if self.slide_experiments else []

    @cached_property
    def attention_tables(self) -> list[str]:
        """How smooth attention is, and where it errs."""
        return self._tables(ATTENTION_TABLES) if self.attended and self.labelled else []

    @cached_property
    def algebra_tables(self) -> list[str]:
        """Whether embeddings add up."""
        return self._tables(["algebra"]) if self.added else []

    @cached_property
    def tables(self) -> list[str]:
        """Every table of numbers that the study answers with."""
        return [*self.cell_tables, *self.neighbour_tables, *self.world_tables]

    @cached_property
    def world_tables(self) -> list[str]:
        """What is measured in drawn worlds."""
        chosen = ["worlds_choices"] if self.worlds and self.worlds.choices else []
        return self._tables([*WORLD_TABLES, *chosen]) if self.worlds else []

    @cached_property
    def neighbour_tables(self) -> list[str]:
        """The tables of labels of slides, of smooth attention and of ordinal regression."""
        return [*self.slide_tables, *self.attention_tables, *self.algebra_tables]

    @cached_property
    def answers(self) -> dict[str, str]:
        """The metrics, comparisons and runs that the page is about: of cells, or else of labels of slides."""
        tables = zip(CELL_TABLES, self.cell_tables, strict=False) if self.experiments else ()
        found = dict(tables or zip(("metrics", "comparisons", "runs"), self.slide_tables, strict=False))
        return {name: found[name] for name in ("metrics", "comparisons", "runs") if found}

    @cached_property
    def answered_structure(self) -> dict[str, Any]:
        """The structure with the metric that `answers` are compared by."""
        if self.experiments:
            return self.structure
        compare = {**self.structure["compare"], "metric": self.study.compare.slide_metric}
        return {**self.structure, "compare": compare}

    @cached_property
    def summary(self) -> list[str]:
        """The page of answers; none where nothing is measured."""
        return [self.paths.study("summary.html")] if self.runnable or self.worlds else []

    @cached_property
    def stage_files(self) -> list[str]:
        """Stages of every cell; none in a study of ready-made features or of labels of slides alone."""
        if not self.staging:
            return []
        exported = [file for name in ("cells.geojson", "cells.csv") for file in self.each(name, self.imaged)]
        return self.each("stages.parquet", self.slides) + exported

    def _tables(self, names: Iterable[str]) -> list[str]:
        return [self.paths.study(f"{name}.parquet") for name in names]

    # --- runs in jobs ---------------------------------------------------------------------------------------

    @cached_property
    def run_batches(self) -> Experiments:
        """Job -> runs."""
        return run_batches(self.runnable, self.study.runs_per_job)

    @cached_property
    def longest(self) -> int:
        """Trainings of the largest job; each may take as long as it, so that they can be one job array."""
        counts = (sum(len(spec.trainings) for spec in specs) for specs in self.run_batches.values())
        return max(counts, default=1)

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        return encoders(self.study)

    def weights(self, encoder: str) -> str | list[str]:
        """The file of weights that a user gives for an encoder that is not fine-tuned, if any."""
        settings = self.encoders[encoder]
        return [] if settings.dino else settings.weights_file or []

    def encoder_json(self, encoder: str) -> str:
        """What shapes the tokens of an encoder, and nothing else."""
        return self.encoders[encoder].model_dump_json(exclude=NOT_IN_TOKENS)

    @cached_property
    def tuned(self) -> dict[str, str]:
        """The weights of every encoder that is fine-tuned, by its id; of those applied, the other study's.

        Raises
        ------
        UserError
            This study and the one that `apply` names both fine-tune an encoder of the same settings, each on
            its own crops.
        """
        study = self.study
        runs = [spec for specs in self.runnable.values() for spec in specs if spec.trained]
        files = {spec.encoder.id: self.paths.tuned(spec.encoder.id) for spec in runs if spec.encoder.dino}
        if study.apply is None:
            return files
        other, specs = applied(study)
        elsewhere = Paths.of(other.results, other.study)
        for spec in specs:
            if spec.encoder.id in files:
                raise UserError(
                    f"study {study.study}: its encoder {spec.encoder.id} is fine-tuned here and in "
                    f"{study.apply.study}; give encoder.dino another seed here"
                )
        return files | {
            spec.encoder.id: elsewhere.tuned(spec.encoder.id) for spec in specs if spec.encoder.dino
        }

    def read_by(self, specs: Sequence[RunSpec]) -> dict[str, list[str]]:
        """What runs read, by the name of the rule's input: ready to wait for, so receipts and not tokens."""
        encoders = list(dict.fromkeys(spec.encoder.id for spec in specs if spec.trained))
        tokens = [self.paths.tokens(slide, encoder) for encoder in encoders for slide in self.slides]
        labelled = any(spec.learns_labels for spec in specs)
        return {
            # a baseline only counts the cells
            "tokens": self.behind(tokens or self.each(self.counted, self.slides)),
            "labels": self.behind(self.each("labels.parquet", self.labelled)) if labelled else [],
            "cells": (
                self.behind(self.each(self.places, self.slides))
                if any(spec.spatial for spec in specs)
                else []
            ),
            "encoder": self.behind([self.tuned[encoder] for encoder in encoders if encoder in self.tuned]),
            "splits": [self.paths.study("splits.parquet")],
            "precheck": [self.paths.precheck(*bag) for bag in bags(specs)],
        }

    def members(self, batch: str) -> list[dict[str, Any]]:
        """The runs of a job, each with its id, the files that it reads and what it learns from.

        What a run does not use is not among it: that may change and the run stays.
        """
        return [
            {
                "run": spec.id,
                "labelled": self.labelled if spec.learns_labels else [],
                "places": self.places if spec.spatial else "",
                "inputs": [file for files in self.read_by([spec]).values() for file in files],
                "slide_proportions": (
                    self._slide_proportions if spec.training.proportions == "slide" else {}
                ),
                "scores": self._scores(spec),
                "classes": self._classes(spec),
                "terms": "+".join(self._code_of(file) for file in spec.code),
            }
            for spec in self.run_batches[batch]
        ]

    @cached_property
    def _digests(self) -> dict[Path, str]:
        return {}

    def _code_of(self, file: Path) -> str:
        """Digest of a file that declares a term or a baseline, which no script imports by name."""
        if file not in self._digests:
            self._digests[file] = provenance.code_digest(provenance.LIBRARY / file)
        return self._digests[file]

    def runs(self, labels: Iterable[str]) -> dict[str, list[str]]:
        """Experiment -> ids of its runs."""
        return {label: [spec.id for spec in self.runnable[label]] for label in labels}

    def specs(self, labels: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Id -> specification of each run of the experiments ``labels``, as plain values."""
        found = itertools.chain.from_iterable(self.runnable[label] for label in labels)
        return {spec.id: spec.model_dump(mode="json") for spec in found}

    @cached_property
    def _slide_proportions(self) -> dict[str, list[float]]:
        return {slide: share.tolist() for slide, share in read_slide_proportions(self.study).items()}

    def _scores(self, spec: RunSpec) -> dict[str, float]:
        """Score of every slide, in stages, where the run learns from a column of the slide table."""
        if not which(spec.losses, regression=True) or spec.training.score == EXPECTED_STAGE:
            return {}
        return slide_scores(self.study, str(spec.training.score), list(self.slides.values()))

    def _classes(self, spec: RunSpec) -> dict[str, int]:
        """Class of every slide, where the run learns a label of slides."""
        return slide_classes(self.study, spec.label, list(self.slides.values())) if spec.label else {}

    # --- what to wait for -----------------------------------------------------------------------------------

    @cached_property
    def receipts(self) -> dict[str, str]:
        """The receipt that stands for each file that a job of several slides or runs makes."""
        paths = self.paths
        found = {
            paths.slide(slide, name): paths.receipt(rule, batch)
            for batch, members in self.slide_batches.items()
            for slide in members
            for rule, name in MADE_BY[self.study.input]
        }
        for slide, encoder in itertools.product(self.slides, self.encoders):
            found[paths.tokens(slide, encoder)] = paths.receipt("tokens", encoder)
        for encoder, weights in self.tuned.items():
            if weights == paths.tuned(encoder):
                found[weights] = paths.receipt("dino", encoder)
        for batch, specs in self.run_batches.items():
            receipt = paths.receipt(*((BASELINE_JOB, "all") if batch == BASELINE_JOB else ("train", batch)))
            found |= {paths.run(spec.id, name): receipt for spec in specs for name in spec.files}
        return found

    def behind(self, files: object) -> list[str]:
        """What to wait for before ``files`` are there: themselves, or the receipts of their jobs."""
        return list(dict.fromkeys(self.receipts.get(file, file) for file in flat(files)))

    def each(self, name: str, slides: Iterable[str]) -> list[str]:
        """One file of each of the ``slides``."""
        return [self.paths.slide(slide, name) for slide in slides]

    def images(self, slides: Iterable[str]) -> list[str]:
        """The files of the ``slides``, each once: images, or the table of their cells."""
        return list(dict.fromkeys(self.slides[slide].path for slide in slides))

    def of_runs(self, name: str, labels: Iterable[str]) -> list[str]:
        """One file of each run of the experiments ``labels``."""
        return list(dict.fromkeys(flat(list(self.by_experiment(name, labels).values()))))

    def by_experiment(self, name: str, labels: Iterable[str]) -> dict[str, list[str]]:
        """Experiment -> one file of each of its runs."""
        return {label: of_runs(self.paths, name, self.runnable[label]) for label in labels}


def batches(members: Iterable[str], size: int, name: str) -> dict[str, list[str]]:
    """Cut members into even batches of at most ``size``; a batch of one bears its member's name."""
    listed = list(members)
    count = -(-len(listed) // size)
    edges = [i * len(listed) // count for i in range(count + 1)] if count else []
    cut = [listed[start:end] for start, end in itertools.pairwise(edges)]
    return {part[0] if len(part) == 1 else f"{name}{i}": part for i, part in enumerate(cut, start=1)}


def run_batches(experiments: Mapping[str, Sequence[RunSpec]], size: int) -> Experiments:
    """Job -> at most ``size`` runs, in the order of the experiments; each run once.

    Runs of several experiments share a job, which imports torch once. Jobs of their own have models of slide
    labels, which train in seconds, runs of an encoder that is fine-tuned first, which wait for it, and the
    baselines, which learn nothing. A job of one run bears its id. An experiment that is added last changes no
    job but the last; where jobs are cut otherwise, runs that are finished stay
    (:mod:`myostage.runtime.receipts`).
    """
    queues: dict[str, dict[str, RunSpec]] = {}
    for spec in itertools.chain.from_iterable(experiments.values()):
        queues.setdefault(_queue(spec), {})[spec.id] = spec
    cut: Experiments = {}
    for name, runs in queues.items():
        listed = list(runs.values())
        if name == BASELINE_JOB:
            cut[name] = listed
        elif size == 1:
            cut |= {_UNUSUAL.sub("_", run): [spec] for run, spec in runs.items()}
        else:
            starts = range(0, len(listed), size)
            cut |= {f"{name}{i}": listed[start : start + size] for i, start in enumerate(starts, start=1)}
    return cut


def _queue(spec: RunSpec) -> str:
    if not spec.trained:
        return BASELINE_JOB
    kind = "slides" if spec.method == "slide" else "runs"
    return f"{kind}-{spec.encoder.id}-" if spec.encoder.dino else kind


def of_runs(paths: Paths, name: str, specs: Iterable[RunSpec]) -> list[str]:
    """One file of each run."""
    return [paths.run(spec.id, name) for spec in specs]


def bags(specs: Iterable[RunSpec]) -> list[tuple[str, int]]:
    """What bags of proportions are drawn from (``slide`` or ``group``) and their cells; each pair once."""
    proportions = (spec for spec in specs if spec.method == "proportions")
    learning = [candidate.training for spec in proportions for candidate in spec.candidates]
    return list(dict.fromkeys((training.bags, training.bag_size) for training in learning))


def flat(files: object) -> list[str]:
    """The file names in a value, a list or a mapping, nested or not; empty names are left out."""
    if isinstance(files, str):
        return [files] if files else []
    inner = files.values() if isinstance(files, dict) else files
    assert isinstance(inner, Iterable)
    return [name for part in inner for name in flat(part)]

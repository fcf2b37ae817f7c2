"""The study, its paths, its batches and what its jobs need, for every rule file.

Reading this costs no import of torch, opens no slide and lists no folder.
"""

import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

SCRIPTS = Path(workflow.basedir) / "scripts"
sys.path.insert(0, str(SCRIPTS))

from myostage.study.inputs import read_slides
from myostage.study import config as studies
from myostage.study import plan
from myostage.errors import UserError
from myostage.cluster.estimate import estimate
from myostage.runtime.lock import acquire, release
from myostage.cluster.needs import read_needs, scaled
from myostage.paths import Paths
from myostage.runtime.provenance import code_digest
from myostage.cluster.site import read_site
from myostage.study.structure import slide_structure, structure

try:
    # a job on a node need not look at every slide again
    STUDY = studies.load_study(config, files=workflow.is_main_process)
    SLIDES = {row.slide: row for row in read_slides(STUDY)}
    LEFT_OUT = studies.left_out(STUDY)
    RUNNABLE = studies.runnable(STUDY)
    ENCODERS = studies.encoders(STUDY)
    PROPORTIONS = plan.proportions(STUDY)
    SLIDE_PROPORTIONS = plan.slide_proportions(STUDY)
    SHOWN = plan.shown(STUDY)
    STAGING = plan.staging_runs(STUDY)
    EXPERIMENTS = plan.of_cells(RUNNABLE)
    SLIDE_EXPERIMENTS = plan.of_slides(RUNNABLE)
    STRUCTURE = structure(STUDY, EXPERIMENTS, LEFT_OUT)
    SLIDE_STRUCTURE = slide_structure(STUDY, SLIDE_EXPERIMENTS)
    SITE = read_site(Path(workflow.basedir))
    NEEDS = read_needs(f"{workflow.basedir}/config/resources.tsv")
except UserError as error:
    raise WorkflowError(str(error)) from None

PATHS = Paths.of(STUDY.results, STUDY.study)
# none where a cluster hands them out, which `jobs` tells
CORES = None if workflow.resource_settings.nodes else workflow.resource_settings.cores
IMAGED = list(SLIDES) if STUDY.input == "slides" else []
# of ready-made features every instance may have a label
LABELLED = [name for name, slide in SLIDES.items() if slide.labelled or STUDY.input == "features"]
# where cells, or what stands for them, lie
PLACES = {"slides": "cells.parquet", "crops": "", "features": "positions.parquet"}[STUDY.input]
EMBED_BATCHES = plan.batches(SLIDES, STUDY.jobs.slides_per_job, "slides")
SLIDE_BATCHES = EMBED_BATCHES if IMAGED else {}
RUN_BATCHES = plan.run_batches(RUNNABLE, STUDY.jobs.runs_per_job)
RECEIPTS = plan.receipts(PATHS, STUDY.input, EMBED_BATCHES, list(SLIDES), ENCODERS, RUN_BATCHES)
MAIN = {label: EXPERIMENTS[label] for label in STRUCTURE["main"]}
AGAINST, CEILINGS = STRUCTURE["against"], STRUCTURE["ceilings"]
# where no cell is labelled, only proportions are measured, and `group_majority` repeats the given ones
BASELINES = [
    label for label in STRUCTURE["baselines"] if LABELLED or EXPERIMENTS[label][0].method != "group_majority"
]
RUNS = [spec.id for specs in RUN_BATCHES.values() for spec in specs if spec.method != "slide"]

if workflow.is_main_process:
    for label, reason in LEFT_OUT.items():
        logger.warning(f"{label} is left out: {reason}")
    logger.info(estimate(STUDY, len(SLIDES), RUNNABLE, RUN_BATCHES, CORES).sentence)


wildcard_constraints:
    batch="[^/]+",
    encoder="[^/]+",


digest = cache(code_digest)


def code(*names):
    """What re-runs a job when its script, or a library module that it reaches, means something else."""
    return lambda wildcards: "+".join(digest(SCRIPTS / name) for name in names)


def needs(rule, gpu=False, times=1):
    """Resources of a rule's jobs, ``times`` runs each. A GPU where it pays; account and partition of the site."""
    asked = scaled(NEEDS[rule], SITE.max_mem_mb, SITE.max_runtime, times)
    return asked | ({"gpu": 1} if gpu else {}) | SITE.resources(gpu)


def behind(files):
    """What to wait for before ``files`` are there: themselves, or the receipts of the jobs that make them."""
    return list(dict.fromkeys(RECEIPTS.get(file, file) for file in plan.flat(files)))


def images_of(slides):
    """The image files of the ``slides``."""
    return [SLIDES[slide].path for slide in slides]


def of_slides(name, slides):
    """One file of each of the ``slides``."""
    return [PATHS.slide(slide, name) for slide in slides]


def of_runs(name, runs):
    """One file of each of the ``runs``."""
    return [PATHS.run(run, name) for run in runs]


def tokens_of(spec):
    """Tokens of every slide under the encoder of ``spec``; a baseline only counts the crops."""
    if spec.trained:
        return [PATHS.tokens(slide, spec.encoder.id) for slide in SLIDES]
    return of_slides("crops.parquet", SLIDES)


def part_figure(part, metric, columns, table, experiments, against):
    """The table and figure of one part of the neighbours."""
    return (
        "slide_metrics",
        "Neighbours",
        {name: PATHS.study(f"{table}{name}.parquet") for name in ("metrics", "comparisons", "runs")},
        {
            "experiments": experiments,
            "columns": columns,
            "metric": metric,
            "against": {one: other for one, other in against.items() if one in experiments},
            "alpha": STUDY.compare.alpha,
            "study": f"{STUDY.study}, {part}",
        },
    )


def neighbours(wildcards):
    """Tables, figures and page of the neighbours; a study that has none says so."""
    files = [*SLIDE_TABLES, *ATTENTION_TABLES, *ALGEBRA_TABLES, *NEIGHBOUR_FIGURES]
    if not files:
        raise WorkflowError(
            f"study {STUDY.study} has no experiment with labels of slides or ordinal regression; name one that "
            "has: --configfile config/demo_neighbours.yaml"
        )
    return files + SUMMARY


onstart:
    arrays = getattr(workflow.executor_settings, "array_jobs", None)
    if arrays and workflow.resource_settings.nodes < len(RUN_BATCHES):
        raise WorkflowError(
            f"slurm-array-jobs: {arrays} waits for ever where jobs is {workflow.resource_settings.nodes} and "
            f"{len(RUN_BATCHES)} training jobs may be ready at once; set jobs: unlimited, or leave arrays out"
        )
    try:
        acquire(PATHS.root)
    except UserError as error:
        raise WorkflowError(str(error)) from None


onsuccess:
    release(PATHS.root)


onerror:
    release(PATHS.root)

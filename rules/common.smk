"""The study, its paths and its batches, for every rule file.

Reading this costs no import of torch, opens no slide and lists no folder.
"""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

SCRIPTS = Path(workflow.basedir) / "scripts"
sys.path.insert(0, str(SCRIPTS))

from myostage import config as studies
from myostage import plan
from myostage.errors import UserError
from myostage.estimate import estimate
from myostage.paths import Paths
from myostage.provenance import code_digest
from myostage.structure import structure

try:
    STUDY = studies.load_study(config)
    SLIDES = {row.slide: row for row in studies.read_slides(STUDY)}
    LEFT_OUT = studies.left_out(STUDY)
    EXPERIMENTS = studies.runnable(STUDY)
    ENCODERS = studies.encoders(STUDY)
    PROPORTIONS = plan.proportions(STUDY)
    SLIDE_PROPORTIONS = plan.slide_proportions(STUDY)
    SHOWN = plan.shown(STUDY)
    STAGING = plan.staging_runs(STUDY)
    STRUCTURE = structure(STUDY, EXPERIMENTS, LEFT_OUT)
except UserError as error:
    raise WorkflowError(str(error)) from None

PATHS = Paths.of(STUDY.results, STUDY.study)
IMAGED = list(SLIDES) if STUDY.input == "slides" else []
LABELLED = [name for name, slide in SLIDES.items() if slide.labelled]
SLIDE_BATCHES = plan.batches(IMAGED, STUDY.jobs.slides_per_job, "slides")
RUN_BATCHES = plan.run_batches(EXPERIMENTS, STUDY.jobs.runs_per_job)
MAIN = {label: EXPERIMENTS[label] for label in STRUCTURE["main"]}
AGAINST, CEILINGS = STRUCTURE["against"], STRUCTURE["ceilings"]
# where no cell is labelled, only proportions are measured, and `group_majority` repeats the given ones
BASELINES = [
    label for label in STRUCTURE["baselines"] if LABELLED or EXPERIMENTS[label][0].method != "group_majority"
]
RUNS = [spec.id for specs in RUN_BATCHES.values() for spec in specs]

if workflow.is_main_process:
    for label, reason in LEFT_OUT.items():
        logger.warning(f"{label} is left out: {reason}")
    logger.info(estimate(STUDY, len(SLIDES), EXPERIMENTS, RUN_BATCHES, workflow.cores or 1).sentence)


def code(name):
    """What re-runs a job when its script, or a library module that it reaches, means something else."""
    return code_digest(SCRIPTS / name)


def of_slides(name, slides):
    """One file of each of the ``slides``."""
    return [PATHS.slide(slide, name) for slide in slides]


def of_runs(name, runs):
    """One file of each of the ``runs``."""
    return [PATHS.run(run, name) for run in runs]

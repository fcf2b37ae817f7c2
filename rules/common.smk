"""The study, its paths and its batches, for every rule file.

Reading this costs no import of torch, opens no slide and lists no folder.
"""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

SCRIPTS = Path(workflow.basedir) / "scripts"
sys.path.insert(0, str(SCRIPTS))

from myostage import config as studies
from myostage import plan
from myostage.errors import UserError
from myostage.paths import Paths
from myostage.provenance import code_digest

try:
    STUDY = studies.load_study(config)
    SLIDES = {row.slide: row for row in studies.read_slides(STUDY)}
    EXPERIMENTS = studies.expand(STUDY)
    ENCODERS = studies.encoders(STUDY)
    PROPORTIONS = plan.proportions(STUDY)
except UserError as error:
    raise WorkflowError(str(error)) from None

PATHS = Paths.of(STUDY.results, STUDY.study)
IMAGED = list(SLIDES) if STUDY.input == "slides" else []
LABELLED = [name for name, slide in SLIDES.items() if slide.labelled]
SLIDE_BATCHES = plan.batches(IMAGED, STUDY.jobs.slides_per_job, "slides")
RUN_BATCHES = plan.run_batches(EXPERIMENTS, STUDY.jobs.runs_per_job)
RUNS = [spec.id for specs in RUN_BATCHES.values() for spec in specs]
SHOWN = plan.shown(STUDY)
STAGING = plan.staging_runs(STUDY)


def code(name):
    """What re-runs a job when its script, or a library module that it reaches, means something else."""
    return code_digest(SCRIPTS / name)


def of_slides(name, slides):
    """One file of each of the ``slides``."""
    return [PATHS.slide(slide, name) for slide in slides]


def of_runs(name, runs):
    """One file of each of the ``runs``."""
    return [PATHS.run(run, name) for run in runs]

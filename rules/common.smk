"""What the files of rules share:

STUDY, PATHS   the study file as read and checked; where everything of it lies
PLAN           its slides, runs, jobs and tables, and what they wait for (scripts/myostage/study/plan.py)
DRAWN          its figures by name (scripts/myostage/figures/record.py)
figures(...)   their files, all or those of some categories of the report
CORES          cores of this machine; none where a cluster hands them out
given(...)     inputs that a user gives: what they hold counts, not their time
code(...)      digest of a script and of the library it reaches: a param of every rule
required(...)  files that a target asks for, or an error that says what the study lacks
needs(...)     memory, time, GPU, account and partition of a rule's jobs

Reading this costs no import of torch, opens no slide and lists no folder.
"""

import logging
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

SCRIPTS = Path(workflow.basedir) / "scripts"
sys.path.insert(0, str(SCRIPTS))

from myostage.cluster.estimate import estimate, estimate_worlds
from myostage.cluster.needs import read_needs, scaled
from myostage.cluster.site import read_site
from myostage.errors import UserError, printable
from myostage.figures.record import Scope, of_study
from myostage.runtime.lock import acquire, release
from myostage.runtime.lost import remake_lost
from myostage.runtime.provenance import code_digest
from myostage.schema import WILDCARDS
from myostage.study.load import load_study, notes
from myostage.study.plan import Plan
from myostage.study.yaml_file import read_mapping

try:
    if workflow.is_main_process:
        for file in workflow.configfiles:
            read_mapping(file)  # Snakemake takes the last of two equal keys without a word
    # a job on a node need not look at every slide again
    STUDY = load_study(
        config, where=", ".join(map(str, workflow.configfiles)), files=workflow.is_main_process
    )
    PLAN = Plan(STUDY)
    DRAWN = of_study(Scope(PLAN))
    SITE = read_site(Path(workflow.basedir))
    NEEDS = read_needs(f"{workflow.basedir}/config/resources.tsv")
except UserError as error:
    raise WorkflowError(str(error)) from None

PATHS = PLAN.paths
CORES = None if workflow.resource_settings.nodes else workflow.resource_settings.cores

if workflow.is_main_process:
    remake_lost(workflow)
    # Snakemake's log lies in the working directory: each line that does not fit there would add a traceback
    logging.raiseExceptions = False
    for label, reason in PLAN.left_out.items():
        logger.warning(printable(f"{label} is left out: {reason}"))
    for note in notes(STUDY):
        logger.info(printable(note))
    if PLAN.worlds:
        logger.info(estimate_worlds(STUDY.study, PLAN.worlds, CORES))
    else:
        logger.info(estimate(STUDY, len(PLAN.slides), PLAN.runnable, PLAN.run_batches, CORES).sentence)


wildcard_constraints:
    batch="[^/]+",
    encoder="[^/]+",


digest = cache(code_digest)


def code(*names):
    """What re-runs a job when its script, or a library module that it reaches, means something else."""
    return lambda wildcards: "+".join(digest(SCRIPTS / name) for name in names)


def given(files):
    """Files that a user gives as inputs whose time does not count; ``PLAN.content`` is among the params.

    A slide drawn by the workflow stays an input as any other: Snakemake starts nothing behind an ancient one.
    Of several files those whose names Snakemake would take for wildcards are left out: scripts have them
    from params, which are functions for the same reason.
    """
    if isinstance(files, str):
        return files if files in PLAN.drawn else ancient(files)
    return [given(file) for file in files if not WILDCARDS & set(file)]


def needs(rule, gpu=False, times=1):
    """Resources of a rule's jobs, ``times`` runs each. A GPU where it pays; account and partition of the site."""
    asked = scaled(NEEDS[rule], SITE.max_mem_mb, SITE.max_runtime, times)
    return asked | ({"gpu": 1} if gpu else {}) | SITE.resources(gpu)


def figures(*categories):
    """The files of the figures of these categories of the report; of all figures where none is named."""
    return [
        PATHS.study(f"figures/{name}.png")
        for name, figure in DRAWN.items()
        if not categories or figure.record.category in categories
    ]


def required(files, lack):
    """The ``files`` of a target; where there are none an error says that the study has ``lack``."""
    if not files:
        raise WorkflowError(f"study {STUDY.study} has {lack}: name another by --configfile")
    return files


onstart:
    arrays = getattr(workflow.executor_settings, "array_jobs", None)
    if arrays and workflow.resource_settings.nodes < len(PLAN.run_batches):
        raise WorkflowError(
            f"slurm-array-jobs: {arrays} waits for ever where jobs is {workflow.resource_settings.nodes} and "
            f"{len(PLAN.run_batches)} training jobs may be ready at once; set jobs: unlimited, or leave arrays out"
        )
    try:
        acquire(PATHS.root)
    except UserError as error:
        raise WorkflowError(str(error)) from None


onsuccess:
    release(PATHS.root)


onerror:
    release(PATHS.root)

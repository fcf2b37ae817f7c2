"""Can this SLURM cluster run the workflow? A Snakefile of its own, since the question needs no study.

    make cluster-check

SLURM is asked on the login node. Then one CPU and one GPU job are sent through `profiles/slurm`, as the jobs of a
study are; each writes what it finds on its node, and that is judged and removed here.
"""

import secrets
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir).parent
sys.path.insert(0, str(ROOT / "scripts"))

from myostage.cluster import check
from myostage.cluster.site import read_site
from myostage.errors import UserError


# with --sdm apptainer the jobs run in it, as those of a study do
container: "myostage.sif"


try:
    SITE = read_site(ROOT)
except UserError as error:
    raise WorkflowError(str(error)) from None

FOLDER = Path(config.get("results", "results")) / ".cluster_check"
KINDS = ["cpu", "gpu"] if config.get("gpu", True) else ["cpu"]
ASKED = dict(zip(["mem_mb", "runtime"], check.limits(SITE), strict=True))
FINDINGS = []


def show(findings):
    """Print each finding as soon as it is there."""
    for finding in findings:
        print(finding, flush=True)
        FINDINGS.append(finding)


def conclude():
    """Print the last line and remove the jobs' files; where a check failed, fail."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    print(check.closing(FINDINGS), flush=True)
    if any(finding.level == "FAILED" for finding in FINDINGS):
        raise WorkflowError("the cluster check FAILED")


localrules:
    cluster_check,


rule cluster_check:
    default_target: True
    input:
        [FOLDER / f"{kind}.json" for kind in KINDS],


rule cluster_check_cpu:
    output:
        FOLDER / "cpu.json",
    retries: 0
    resources:
        **ASKED,
        **SITE.resources(gpu=False),
    params:
        gpu=False,
    script:
        "../scripts/cluster_check.py"


use rule cluster_check_cpu as cluster_check_gpu with:
    output:
        FOLDER / "gpu.json",
    resources:
        **ASKED,
        **SITE.resources(gpu=True),
        gpu=1,
    params:
        gpu=True,


onstart:
    profile = workflow.executor_settings
    if profile is None:
        raise WorkflowError(
            "name the profile whose jobs are to be tried: --workflow-profile profiles/slurm"
        )
    try:
        show(check.ask_slurm(SITE, KINDS, profile.status_command, account=not profile.no_account))
    except UserError as error:
        raise WorkflowError(str(error)) from None
    if any(finding.level == "FAILED" for finding in FINDINGS):
        conclude()
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / check.TOKEN).write_text(secrets.token_hex(4))
    print(
        f"{' and '.join(check.JOBS[kind] for kind in KINDS)} sent; Ctrl-C cancels and removes everything",
        flush=True,
    )


onsuccess:
    show(check.judge_jobs(FOLDER, KINDS, log[0]))
    conclude()


onerror:
    show(check.judge_jobs(FOLDER, KINDS, log[0]))
    conclude()

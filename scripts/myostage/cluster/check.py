"""The preflight of a cluster: what SLURM says on the login node and what two jobs found, judged in sentences.

:func:`ask_slurm` calls commands, :func:`judge_jobs` reads files; all else takes texts and returns findings.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

from myostage.cluster.estimate import duration
from myostage.cluster.probe import Facts, Torch, last_line
from myostage.cluster.site import SITE_FILE, Site
from myostage.errors import UserError
from myostage.schema import nearest

Kind = Literal["cpu", "gpu"]
JOBS: dict[Kind, str] = {"cpu": "CPU job", "gpu": "GPU job"}
# the file in which jobs must find what was written on the login node; SLURM's own output of jobs that failed
TOKEN = "token"
LOGS = Path(".snakemake/slurm_logs")

COMMANDS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue")
COMMAND_SECONDS = 60
SITES = f"~/.config/myostage/site.yaml (or {SITE_FILE})"
PROFILE = "profiles/slurm/config.yaml"
# what a job of the preflight asks for at most: enough to import torch
JOB_MEM_MB, JOB_MINUTES = 4000, 10
# sinfo's words for nodes that take jobs now or after those that they have
NODES_UP = {"idle", "mix", "alloc", "comp", "resv", "plnd", "pow_up", "pow_dn"}
# states are asked for every 40 s at first and seldomer later: squeue must remember a job for longer
LEAST_JOB_AGE = 120
SLOW_IMPORT_SECONDS = 60
LONG_WAIT_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Finding:
    """A line of the preflight, and below it, indented, what to do."""

    level: Literal["ok", "warning", "FAILED"]
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:<8} {self.text}" + (f"\n{'':13}{self.advice}" if self.advice else "")


ok, warn, fail = partial(Finding, "ok"), partial(Finding, "warning"), partial(Finding, "FAILED")


@dataclass
class Partition:
    """A partition: whether it is the default and takes jobs, its limits (None: none), its kinds of GPU."""

    default: bool = False
    works: bool = False
    minutes: int | None = None
    mem_mb: int | None = None
    gpus: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Answer:
    """Whether a command succeeded, and what it printed, errors last."""

    succeeded: bool
    text: str


def ask(*command: str, stdin: str = "") -> Answer:
    """Call a command of SLURM; a missing or hanging command is an answer too."""
    call = partial(subprocess.run, text=True, errors="replace", timeout=COMMAND_SECONDS)
    environment = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
    try:
        done = call(command, input=stdin, capture_output=True, env=environment)
    except FileNotFoundError:
        return Answer(False, f"{command[0]}: no such command")
    except subprocess.TimeoutExpired:
        return Answer(False, f"{command[0]} timed out after {COMMAND_SECONDS} s")
    return Answer(done.returncode == 0, done.stdout + done.stderr)


def ask_slurm(site: Site, kinds: Sequence[Kind], status_command: str, account: bool) -> Iterator[Finding]:
    """What must hold before a job is sent; nothing is left in the queue.

    Parameters
    ----------
    site
        What jobs ask for.
    kinds
        The jobs to be sent.
    status_command, account
        ``slurm-status-command`` of the profile, and whether it lets an account be sent.

    Raises
    ------
    UserError
        No SLURM on this machine.
    """
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise UserError(
            f"SLURM is not on this machine ({', '.join(missing)} not found): log in to the cluster's login "
            "node, or load the module that brings SLURM"
        )
    controller = judge_controller(ask("scontrol", "ping"), ask("sbatch", "--version").text)
    yield controller
    if controller.level == "FAILED":
        return
    sinfo = ask("sinfo", "--exact", "--noheader", "--format", "%P|%a|%l|%t|%m|%G")
    for kind in kinds:
        yield from judge_partition(site, kind, parse_partitions(sinfo.text))
    sacct = ask("sacct", "--allocations", "--noheader", "--starttime=now-1hour").succeeded
    yield judge_accounting(sacct, ask("scontrol", "show", "config").text, status_command, account)
    if site.account is not None:
        user = os.environ.get("USER") or str(os.getuid())
        listed = ask("sacctmgr", "-n", "-s", "list", "user", user, "format=account%256")
        yield judge_account(site.account, sacct, listed.text.split() if listed.succeeded else [])
    for kind in kinds:
        answer = ask("sbatch", "--test-only", *options(site, kind), stdin="#!/bin/sh\n")
        yield judge_submission(kind, answer, datetime.now())


def limits(site: Site) -> tuple[int, int]:
    """Memory (MB) and time (minutes) of a job of the preflight."""
    return min(JOB_MEM_MB, site.max_mem_mb), min(JOB_MINUTES, site.max_runtime)


def options(site: Site, kind: Kind) -> list[str]:
    """How ``sbatch`` is called for a job, as the workflow's executor calls it."""
    asked = site.resources(kind == "gpu")
    memory, minutes = limits(site)
    given = [f"--mem={memory}", f"--time={minutes}", "--cpus-per-task=1"]
    if kind == "gpu":
        given.append(f"--gpus={asked['gpu_model']}:1" if "gpu_model" in asked else "--gpus=1")
    named = {"--account": "slurm_account", "--partition": "slurm_partition", "--qos": "qos"}
    return given + [f"{option}={asked[key]}" for option, key in named.items() if key in asked]


# --- what SLURM says ----------------------------------------------------------------------------------------


def parse_minutes(text: str) -> int | None:
    """``1-12:00:00``, ``1:30:00`` or ``30:00`` (minutes and seconds) in minutes; None for no limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):\d+", text.strip())
    days, hours, minutes = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    return (days * 24 + hours) * 60 + minutes if found else None


def parse_partitions(sinfo: str) -> dict[str, Partition]:
    """Partitions by name, from ``sinfo --exact --noheader --format %P|%a|%l|%t|%m|%G``."""
    partitions: dict[str, Partition] = {}
    for line in sinfo.splitlines():
        cells = line.strip().split("|")
        if len(cells) != 6:
            continue
        name, available, limit, state, memory, gres = cells
        partition = partitions.setdefault(name.rstrip("*"), Partition(minutes=parse_minutes(limit)))
        partition.default |= name.endswith("*")
        # a trailing * is a node that does not answer, ~ a node that sleeps and can be woken
        if available != "up" or state.endswith("*") or state.rstrip("~#!%$@^-+") not in NODES_UP:
            continue
        partition.works = True
        if memory.rstrip("+").isdigit():
            partition.mem_mb = max(partition.mem_mb or 0, int(memory.rstrip("+")))
        # gpu:a100:4(S:0-1),gpu:2; the kind is empty where SLURM does not name it
        partition.gpus |= set(
            re.findall(r"(?:^|,)gpu(?=[:,]|$)(?::(?!\d+(?:,|$))(\w+))?", re.sub(r"\(.*?\)", "", gres))
        )
    return partitions


def judge_controller(ping: Answer, version: str) -> Finding:
    """Whether ``scontrol ping`` found a controller."""
    up = re.search(r"Slurmctld\(\w+\) at (\S+) is UP", ping.text)
    if ping.succeeded and up:
        return ok(f"{' '.join(['SLURM', *version.split()[-1:]])} answers from {up[1]}")
    return fail(
        f"SLURM's controller does not answer ({last_line(ping.text) or 'it says nothing'})",
        "try `scontrol ping` again in some minutes; if it stays so, tell the cluster's administrators",
    )


def judge_partition(site: Site, kind: Kind, partitions: Mapping[str, Partition]) -> list[Finding]:
    """Whether the partition of a kind of job exists, takes jobs, and has GPUs for the GPU job; its limits."""
    key = "gpu_partition" if kind == "gpu" else "partition"
    given: str | None = getattr(site, key)
    defaults = [name for name, partition in partitions.items() if partition.default]
    names = given.split(",") if given is not None else defaults
    usable = [name for name, each in partitions.items() if each.works and (kind == "cpu" or each.gpus)]
    advice = f"set {key} to one of {', '.join(usable)} in {SITES}"
    if not usable:
        advice = "no partition here has any now; `make cluster-check GPUS=0` checks the rest"
    if not names:
        return [fail(f"no partition is named for the {JOBS[kind]} and SLURM has no default", advice)]
    unknown = [name for name in names if name not in partitions]
    if unknown:
        return [fail(f"there is no partition {unknown[0]}{nearest(unknown[0], partitions)}", advice)]
    chosen = [partitions[name] for name in names]
    partition = f"partition {','.join(names)}{'' if given else ' (the default)'}"
    if not any(each.works for each in chosen):
        return [fail(f"{partition} is down, or none of its nodes is up", f"wait, or {advice}")]
    models = {model for each in chosen for model in each.gpus}
    if kind == "gpu" and not models:
        return [fail(f"{partition} has no GPU", advice)]
    if kind == "gpu" and site.gpu_model not in {None, *models}:
        named = sorted(models - {""})
        hint = nearest(str(site.gpu_model), named)
        advice = f"set gpu_model to one of {', '.join(['null', *named])} in {SITES}"
        return [fail(f"{partition} has no GPU {site.gpu_model}{hint}", advice)]
    findings = [ok(f"{partition} for the {JOBS[kind]} is up")]
    for limit, unit, amounts in (
        ("max_runtime", "minutes", [each.minutes for each in chosen]),
        ("max_mem_mb", "MB", [each.mem_mb for each in chosen]),
    ):
        asked = getattr(site, limit)
        most = max(asked if amount is None else amount for amount in amounts)
        if asked > most:
            text = f"{limit} is {asked} {unit}, more than the {most} that {partition} allows"
            advice = f"a job tried again with more would never start: set {limit}: {most} in {SITES}"
            findings.append(warn(text, advice))
    return findings


def judge_accounting(sacct: bool, config: str, status_command: str, account: bool) -> Finding:
    """Whether the profile asks for the state of jobs in a way that works here.

    ``config`` is what ``scontrol show config`` prints, the rest as in :func:`ask_slurm`.
    """
    if sacct:
        return ok("accounting answers (sacct): ends of jobs stay known; the efficiency report is available")
    if status_command != "squeue" or account:
        return fail(
            "there is no accounting (sacct), but the profile relies on it",
            f"write slurm-status-command: squeue and slurm-no-account: true into {PROFILE}",
        )
    found = re.search(r"^MinJobAge\s*=\s*(\d+)", config, re.MULTILINE)
    seconds = int(found[1]) if found else 0
    text = f"no accounting (sacct): squeue says how jobs ended, for {seconds} s after their end (MinJobAge)"
    if seconds < LEAST_JOB_AGE:
        ask_for = f"ask the cluster's administrators for MinJobAge={LEAST_JOB_AGE} or more"
        return warn(text, f"the workflow may miss an end: {ask_for}")
    return ok(text)


def judge_account(account: str, sacct: bool, accounts: Collection[str]) -> Finding:
    """Whether the ``account`` is among the ``accounts`` of the user, which may be unknown (empty)."""
    if accounts and account.lower() not in {name.lower() for name in accounts}:
        advice = f"set account to one of {', '.join(sorted(set(accounts)))} in {SITES}"
        return fail(f"account {account} is none of yours{nearest(account, accounts)}", advice)
    if not sacct and not accounts:
        text = f"account {account} is given, but without accounting no job can be charged to it"
        return fail(text, f"set account: null in {SITES}")
    return ok(f"account {account} can be charged")


# what sbatch says -> what to do
REFUSALS = {
    "invalid account": "set account in {site}; `sacctmgr show assoc user=$USER` lists yours",
    "invalid partition": "set partition and gpu_partition in {site}; `sinfo` lists them",
    "invalid qos": "set qos in {site}; `sacctmgr show assoc user=$USER format=account,qos` lists yours",
    "time limit": "lower max_runtime in {site} below the partition's limit",
    "memory": "lower max_mem_mb in {site} below the memory of the partition's nodes",
    "gres|gpu": "correct gpu_model and gpu_partition in {site}; `sinfo -o '%P %G'` lists the GPUs",
    "node configuration": "no node has what the job asks for: correct partition and gpu_model in {site}",
    "qos|policy|accounting|exceed": "you may not submit that: ask the administrators what you may",
    "unable to contact|socket|timed out": "the controller did not answer in time: try again",
    "": "look at the values in {site}",
}


def judge_submission(kind: Kind, answer: Answer, now: datetime) -> Finding:
    """What ``sbatch --test-only`` says of a job: accepted, and when it is expected to start."""
    if not answer.succeeded:
        advice = next(advice for said, advice in REFUSALS.items() if re.search(said, answer.text, re.I))
        reason = re.sub(r"^sbatch: (error: )?", "", last_line(answer.text)) or "sbatch gives no reason"
        return fail(f"the {JOBS[kind]} is refused: {reason}", advice.format(site=SITES))
    start = re.search(r"to start at (\d\S+)", answer.text)
    if not start:
        return ok(f"the {JOBS[kind]} is accepted; SLURM does not say when it would start")
    seconds = (datetime.fromisoformat(start[1]) - now).total_seconds()
    when = "at once" if seconds < 5 else f"in {duration(seconds)}"
    text = f"the {JOBS[kind]} is accepted and expected to start {when}"
    if seconds > LONG_WAIT_SECONDS:
        return warn(text, f"choose a partition with less to do in {SITES}; `squeue --start` lists waits")
    return ok(text)


# --- what the jobs found ------------------------------------------------------------------------------------


def judge_jobs(folder: Path, kinds: Sequence[Kind], log: str) -> Iterator[Finding]:
    """What each job wrote into ``folder``, or why it wrote nothing; ``log`` is Snakemake's log file."""
    said = Path(log).read_text(encoding="utf-8")
    if "on user request" in said:
        yield fail("stopped by you: the jobs are cancelled and their files removed")
        return
    token = folder / TOKEN
    for kind in kinds:
        file = folder / f"{kind}.json"
        if file.exists():
            yield from judge_facts(kind, json.loads(file.read_text()), token.read_text())
            continue
        logs = LOGS.glob(f"rule_cluster_check_{kind}/**/*.log")
        own = [path.read_text() for path in logs if path.stat().st_mtime > token.stat().st_mtime]
        yield judge_failure(kind, said, "".join(own))


# what Snakemake or the job's log says -> what to do
FAULTS = {
    "'OUT_OF_MEMORY'|oom.kill|exceeded memory": "raise max_mem_mb in {site}, if it is below 4000",
    "'(NODE|BOOT)_FAIL'": "the node broke down: try again, and tell the cluster's administrators",
    "'TIMEOUT'|TIME LIMIT": "the node or its disk is very slow: choose another partition in {site}",
    "'(CANCELLED|PREEMPTED)'": "another person or job ended it: try again",
    "sbatch failed": "the job was refused: look at the values in {site}",
    "MissingOutput|missing files": "the results folder is not shared with the node, or shows new files very "
    "late: put it on a disk that all nodes mount, or set latency-wait: 120 in {profile}",
    "not found|No such file|Permission denied|cannot execute": "the node does not see the repository or its "
    ".venv: put both on a disk that all nodes mount",
    "": "the environment does not start there: run `make install` on a node of that partition",
}


def judge_failure(kind: Kind, said: str, log: str) -> Finding:
    """A job that left no facts: what Snakemake said, and what the job printed."""
    advice = next(advice for fault, advice in FAULTS.items() if re.search(fault, said + log))
    text = f"the {JOBS[kind]} failed: {last_line(log) or 'it printed nothing'}"
    return fail(text, advice.format(site=SITES, profile=PROFILE))


def judge_facts(kind: Kind, facts: Facts, token: str) -> Iterator[Finding]:
    """What a job found; ``token`` is what was written for it to read."""
    node, torch = facts["node"], facts["torch"]
    times = dict(re.findall(r"\b(SubmitTime|StartTime)=(\d\S+)", facts["job"]))
    wait = ""
    if len(times) == 2:
        start, sent = (datetime.fromisoformat(times[name]) for name in ("StartTime", "SubmitTime"))
        wait = f" after a wait of {duration((start - sent).total_seconds())}"
    yield ok(f"the {JOBS[kind]} ran on {node}{wait}, and its file is seen here")
    if facts["token"] == token:
        late = "at once" if facts["token_seconds"] < 1 else f"after {duration(facts['token_seconds'])}"
        yield ok(f"{node} sees files written here {late}")
    else:
        advice = "put the repository and its results on a disk that all nodes mount, uncached"
        yield fail(f"{node} does not see a file written here before the job", advice)
    text = f"Python {facts['python']} starts on {node}"
    if torch is None:
        advice = (
            "the node may have an older system, not see all of .venv, or have a GPU that this torch is not "
            "built for: run `make install` there, use envs/myostage.def, or choose another gpu_model"
        )
        yield fail(f"{text}, but torch does not: {facts['error']}", advice)
        return
    text += f", and torch {torch['version']} within {duration(torch['seconds'])}"
    slow = torch["seconds"] > SLOW_IMPORT_SECONDS
    advice = "every job waits that long: put .venv on a faster disk, or use envs/myostage.def"
    yield warn(text, advice) if slow else ok(text)
    if kind == "gpu":
        yield judge_gpu(facts, torch)


def judge_gpu(facts: Facts, torch: Torch) -> Finding:
    """Whether the GPU job got a GPU, and that torch computes on it; the most probable reason first."""
    given = facts["visible_devices"]
    seen = f"CUDA_VISIBLE_DEVICES={given}" if given is not None else "CUDA_VISIBLE_DEVICES is not set"
    number, devices = facts["driver_cuda"], torch["devices"]
    if len(devices) == 1:
        return ok(f"torch computes on the one GPU of the GPU job, {devices[0]} ({seen})")
    if devices:
        return fail(
            f"the GPU job asked for one GPU and sees {len(devices)} ({seen})",
            "jobs would share GPUs: ask the cluster's administrators to confine them "
            "(ConstrainDevices in cgroup.conf, AutoDetect or File= in gres.conf)",
        )
    if torch["cuda"] is None:
        reason, advice = "it is built without CUDA", "run `make install`, which installs a torch with it"
    elif not number:
        reason = "the node has no NVIDIA driver"
        advice = f"set gpu_partition to a partition with NVIDIA GPUs in {SITES}, or have a driver installed"
    elif [int(part) for part in torch["cuda"].split(".")[:2]] > [number // 1000, number % 1000 // 10]:
        cuda = f"{number // 1000}.{number % 1000 // 10}"
        reason = f"it is built for CUDA {torch['cuda']}, the node's driver supports CUDA {cuda} at most"
        advice = f"install a torch built for CUDA {cuda} or older, or ask for a newer driver"
    else:
        reason = f"SLURM gave the job none, or none that works ({seen})"
        advice = "ask the cluster's administrators whether gres.conf names the devices of the node"
    return fail(f"torch sees no GPU in the GPU job on {facts['node']}: {reason}", advice)


def closing(findings: Sequence[Finding]) -> str:
    """The last line."""
    failed = sum(finding.level == "FAILED" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    warned = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    if failed:
        return f"{failed} check{'s' if failed > 1 else ''} FAILED{warned}: do what stands below each."
    return f"The cluster can run the workflow{warned}."

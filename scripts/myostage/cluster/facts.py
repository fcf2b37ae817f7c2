"""What SLURM's commands and the jobs of the preflight say, read and judged.

Nothing here calls a command: every function takes text or facts and returns facts or findings.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from myostage.cluster.probe import Disk, Report
from myostage.cluster.site import SITE_FILE, Site
from myostage.schema import nearest

Kind = Literal["cpu", "gpu"]

SITE_WORDS = f"~/.config/myostage/site.yaml (or {SITE_FILE})"
PROFILE = "profiles/slurm/config.yaml"
JOB_NAMES: dict[Kind, str] = {"cpu": "CPU job", "gpu": "GPU job"}

# sinfo's words for nodes that take jobs now or after those that they have
NODES_UP = {"idle", "mix", "alloc", "comp", "resv", "plnd", "pow_up", "pow_dn"}
ENDED = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "NODE_FAIL",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
}
# Snakemake's own `latency-wait`
LATENCY_SECONDS = 5
# a workflow asks for states every 40 s at first and seldomer later: squeue must remember a job for longer
LEAST_JOB_AGE = 120
SLOW_MB_PER_S = 20
LITTLE_FREE_GB = 10
SLOW_IMPORT_SECONDS = 60
LONG_WAIT_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Finding:
    """One line of the preflight; ``more`` stands below it, indented: how to mend it, or details."""

    level: Literal["ok", "warning", "FAILED"]
    text: str
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.level:<8} {self.text}", *(f"{'':13}{line}" for line in self.more)])


def ok(text: str, *more: str) -> Finding:
    """It works."""
    return Finding("ok", text, more)


def warning(text: str, *more: str) -> Finding:
    """It works, but not well, or not always."""
    return Finding("warning", text, more)


def failed(text: str, *more: str) -> Finding:
    """The workflow would not work."""
    return Finding("FAILED", text, more)


@dataclass
class Partition:
    """A partition.

    ``minutes`` and ``mem_mb`` (of one node) are None without a limit; ``gpus`` by model, of nodes up.
    """

    name: str
    default: bool = False
    up: bool = False
    minutes: int | None = None
    mem_mb: int | None = None
    nodes: int = 0
    nodes_up: int = 0
    gpus: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [
            "up" if self.up else "down",
            f"limit {spell_seconds(self.minutes * 60)}" if self.minutes is not None else "no time limit",
            f"{self.nodes_up} of {self.nodes} nodes up",
            f"{self.mem_mb} MB per node" if self.mem_mb is not None else "",
            spell_gpus(self.gpus),
        ]
        return f"{self.name}{' (default)' if self.default else ''}: {', '.join(filter(None, words))}"


@dataclass(frozen=True)
class Job:
    """A job as the controller tells it."""

    state: str
    reason: str = ""
    exit_code: str = ""
    node: str = ""
    submitted: datetime | None = None
    started: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether it will not run any more."""
        return self.state in ENDED

    @property
    def waited(self) -> float | None:
        """Seconds from its submission to its start; None where it has not started."""
        if self.submitted is None or self.started is None or self.state == "PENDING":
            return None
        return max((self.started - self.submitted).total_seconds(), 0.0)


# --- reading ------------------------------------------------------------------------------------------------


def parse_minutes(text: str) -> int | None:
    """``1-12:00:00``, ``1:30:00`` or ``30:00`` (minutes and seconds) in minutes; None for no limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not found:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes


def parse_gpus(gres: str) -> dict[str, int]:
    """GPUs by model in ``gpu:a100:4(S:0-1),gpu:2``; the model is empty where SLURM does not name it."""
    gpus: dict[str, int] = {}
    for entry in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *parts = entry.strip().split(":")
        if name != "gpu":
            continue
        count = int(parts.pop()) if parts and parts[-1].isdigit() else 1
        model = parts[0] if parts else ""
        gpus[model] = gpus.get(model, 0) + count
    return gpus


def parse_partitions(sinfo: str, scontrol: str = "") -> dict[str, Partition]:
    """Partitions by name.

    Parameters
    ----------
    sinfo
        What ``sinfo --exact --noheader --format %P|%a|%l|%D|%t|%m|%G`` prints.
    scontrol
        What ``scontrol show partition --oneliner`` prints, for the memory that a job may have on a node.
    """
    partitions: dict[str, Partition] = {}
    for line in sinfo.splitlines():
        cells = line.strip().split("|")
        if len(cells) != 7:
            continue
        name, available, limit, count, state, memory, gres = cells
        partition = partitions.setdefault(name.rstrip("*"), Partition(name.rstrip("*")))
        partition.default |= name.endswith("*")
        partition.up |= available == "up"
        partition.minutes = parse_minutes(limit)
        nodes = int(count) if count.isdigit() else 0
        partition.nodes += nodes
        # a trailing * is a node that does not answer, ~ one that is asleep and can be woken
        if state.endswith("*") or state.rstrip("~#!%$@^-+") not in NODES_UP:
            continue
        partition.nodes_up += nodes
        if memory.rstrip("+").isdigit():
            partition.mem_mb = max(partition.mem_mb or 0, int(memory.rstrip("+")))
        for model, gpus in parse_gpus(gres).items():
            partition.gpus[model] = partition.gpus.get(model, 0) + gpus * nodes
    for line in scontrol.splitlines():
        pairs = dict(re.findall(r"(\w+)=(\S*)", line))
        known = partitions.get(pairs.get("PartitionName", ""))
        most = pairs.get("MaxMemPerNode", "")
        if known and known.mem_mb is not None and most.isdigit() and int(most) > 0:
            known.mem_mb = min(known.mem_mb, int(most))
    return partitions


def parse_config(text: str) -> dict[str, str]:
    """``scontrol show config`` as keys and values."""
    return dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))


def parse_seconds(text: str) -> int | None:
    """``300 sec`` in seconds."""
    found = re.match(r"(\d+)\s*([a-z]*)", text)
    if not found:
        return None
    unit = {"m": 60, "h": 3600, "d": 86400}.get(found[2][:1], 1)
    return int(found[1]) * unit


def parse_time(text: str) -> datetime | None:
    """SLURM's standard time; None for ``Unknown`` and the like."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def parse_job(text: str) -> Job | None:
    """The job of ``scontrol show job --oneliner``; None where there is none."""
    pairs = dict(re.findall(r"(?:^|\s)([A-Za-z]+)=(\S*)", text))
    if "JobState" not in pairs:
        return None
    return Job(
        state=pairs["JobState"],
        reason=pairs.get("Reason", "").replace("_", " "),
        exit_code=pairs.get("ExitCode", ""),
        node=pairs.get("NodeList", "").replace("(null)", ""),
        submitted=parse_time(pairs.get("SubmitTime", "")),
        started=parse_time(pairs.get("StartTime", "")),
    )


def parse_expected_start(text: str) -> datetime | None:
    """When ``sbatch --test-only`` expects the job to start."""
    found = re.search(r"to start at (\S+)", text)
    return parse_time(found[1]) if found else None


def parse_driver(smi: str, driver_cuda: int) -> tuple[str, str]:
    """Version of the NVIDIA driver and the highest CUDA that it supports; empty where there is none.

    Parameters
    ----------
    smi
        What ``nvidia-smi`` prints.
    driver_cuda
        What the driver itself says, 12040 for 12.4; 0 where it is not there.
    """
    driver = re.search(r"(?:Driver|KMD) Version\s*:\s*([\d.]+)", smi)
    cuda = re.search(r"CUDA (?:\w+ )?Version\s*:\s*(\d+\.\d+)", smi)
    said = f"{driver_cuda // 1000}.{driver_cuda % 1000 // 10}" if driver_cuda else ""
    return driver[1] if driver else "", said or (cuda[1] if cuda else "")


def spell_seconds(seconds: float) -> str:
    """A duration as a person would say it."""
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    for unit, length, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def spell_gpus(gpus: Mapping[str, int]) -> str:
    """``4 a100, 2 v100``."""
    if not gpus:
        return "no GPU"
    return ", ".join(f"{count} {model or 'GPUs of no named model'}" for model, count in sorted(gpus.items()))


def last_line(text: str) -> str:
    """The last line of ``text`` that says something, without sbatch's prefix."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^sbatch: (?:error: )?", "", lines[-1]) if lines else ""


# --- judging the cluster ------------------------------------------------------------------------------------


def judge_controller(answered: bool, ping: str, version: str) -> Finding:
    """Whether the controller is there; ``ping`` is what ``scontrol ping`` prints."""
    up = re.findall(r"Slurmctld\((\w+)\) at (\S+) is UP", ping)
    if answered and up:
        return ok(
            f"SLURM {version.removeprefix('slurm-wlm').removeprefix('slurm').strip()} answers from {up[0][1]}"
        )
    return failed(
        f"SLURM's controller does not answer ({last_line(ping) or 'no word from it'})",
        "try `scontrol ping` again in some minutes; if it stays so, tell the cluster's administrators",
    )


def judge_partitions(partitions: Mapping[str, Partition]) -> Finding:
    """What there is."""
    if not partitions:
        return failed(
            "sinfo shows no partition that you may use",
            "ask the cluster's administrators which partitions are yours",
        )
    return ok(f"{len(partitions)} partitions", *map(str, partitions.values()))


def judge_wanted(site: Site, kind: Kind, partitions: Mapping[str, Partition]) -> list[Finding]:
    """Whether the partition of a kind of job is there, up, has GPUs for GPU jobs, and the site's limits."""
    key = "gpu_partition" if kind == "gpu" else "partition"
    given: str | None = getattr(site, key)
    jobs = "GPU jobs" if kind == "gpu" else "jobs without a GPU"
    there = ", ".join(partitions)
    if given is None:
        names = [name for name, partition in partitions.items() if partition.default]
        if not names:
            return [
                failed(
                    f"no partition is named for {jobs} and SLURM has no default",
                    f"set {key} to one of {there} in {SITE_WORDS}",
                )
            ]
    else:
        names = given.split(",")
    unknown = [name for name in names if name not in partitions]
    if unknown:
        return [
            failed(
                f"there is no partition {unknown[0]}{nearest(unknown[0], partitions)}",
                f"set {key} to one of {there} in {SITE_WORDS}",
            )
        ]
    chosen = [partitions[name] for name in names]
    words = f"partition {','.join(names)}{' (the default)' if given is None else ''} for {jobs}"
    if not any(partition.up and partition.nodes_up for partition in chosen):
        working = [name for name, partition in partitions.items() if partition.up and partition.nodes_up]
        return [
            failed(
                f"{words} is down, or none of its nodes is up",
                f"wait, or set {key} in {SITE_WORDS} to one that works ({', '.join(working) or 'none now'})",
            )
        ]
    if kind == "gpu":
        fault = _judge_gpus(site, words, chosen, partitions)
        if fault:
            return [fault]
    return [ok(f"{words} is up"), *_judge_limits(site, chosen)]


def _judge_gpus(
    site: Site, words: str, chosen: Sequence[Partition], partitions: Mapping[str, Partition]
) -> Finding | None:
    models = {model for partition in chosen for model in partition.gpus}
    if not models:
        others = [name for name, partition in partitions.items() if partition.gpus]
        return failed(
            f"{words} has no GPU",
            f"set gpu_partition to one of {', '.join(others)} in {SITE_WORDS}"
            if others
            else "no partition here has one: check with --no-gpu, and let the workflow run without GPUs",
        )
    if site.gpu_model is not None and site.gpu_model not in models:
        named = sorted(models - {""})
        better = f"one of {', '.join(named)}" if named else "null"
        return failed(
            f"{words} has no GPU {site.gpu_model}{nearest(site.gpu_model, named)}",
            f"set gpu_model to {better} in {SITE_WORDS}",
        )
    return None


def _judge_limits(site: Site, chosen: Iterable[Partition]) -> list[Finding]:
    findings = []
    for key, unit, limits in (
        ("max_runtime", "minutes", [partition.minutes for partition in chosen]),
        ("max_mem_mb", "MB", [partition.mem_mb for partition in chosen]),
    ):
        asked = getattr(site, key)
        known = [limit for limit in limits if limit is not None]
        if len(known) == len(limits) and asked > max(known):
            names = ",".join(partition.name for partition in chosen)
            better = f"set {key}: {max(known)} in {SITE_WORDS}"
            findings.append(
                warning(
                    f"{key} is {asked} {unit}, more than the {max(known)} that partition {names} allows",
                    f"a job tried again with more would never start: {better}",
                )
            )
    return findings


def judge_accounting(sacct: bool, config: Mapping[str, str]) -> Finding:
    """Which command tells how jobs ended, and what the profile should say of it."""
    if sacct:
        return ok(
            "accounting answers (sacct): ends of jobs stay known, and the efficiency report is available",
            f"in {PROFILE}: slurm-status-command: sacct",
        )
    age = parse_seconds(config.get("MinJobAge", ""))
    settings = f"in {PROFILE}: slurm-status-command: squeue and slurm-no-account: true"
    if age is None or age < LEAST_JOB_AGE:
        soon = "soon" if age is None else spell_seconds(age)
        return warning(
            f"no accounting (sacct), and squeue forgets a job {soon} after its end: the workflow may miss it",
            settings,
            f"ask the cluster's administrators for MinJobAge={LEAST_JOB_AGE} or more",
        )
    return ok(
        "no accounting (sacct): squeue tells how jobs ended, but not of those that ended more than "
        f"{spell_seconds(age)} ago (MinJobAge); there is no efficiency report",
        settings,
    )


def judge_account(account: str | None, sacct: bool, accounts: Collection[str]) -> list[Finding]:
    """Whether the workflow's executor would take the account; ``accounts`` are the user's, where known."""
    if account is None:
        return []
    if not sacct and not accounts:
        return [
            failed(
                f"account {account} is given, but without accounting nobody can tell whether it is valid",
                f"the workflow would stop at it: set account: null in {SITE_WORDS}",
            )
        ]
    if accounts and account.lower() not in {name.lower() for name in accounts}:
        return [
            failed(
                f"account {account} is none of yours{nearest(account, accounts)}",
                f"set account to one of {', '.join(sorted(accounts))} in {SITE_WORDS}",
            )
        ]
    return []


# what sbatch says -> how to mend it
REFUSALS = (
    (r"invalid account", "set account in {site}; `sacctmgr show assoc user=$USER` lists yours"),
    (r"invalid partition", "set partition and gpu_partition in {site}; `sinfo` lists them"),
    (
        r"invalid qos",
        "set qos in {site}; `sacctmgr show assoc user=$USER format=account,partition,qos` lists yours",
    ),
    (r"time limit", "lower max_runtime in {site} below the partition's limit"),
    (r"memory", "lower max_mem_mb in {site} below the memory of the partition's nodes"),
    (r"gres|gpu", "correct gpu_model and gpu_partition in {site}; `sinfo -o '%P %G'` lists the GPUs"),
    (
        r"node configuration",
        "no node has what the job asks for: correct the partition and gpu_model in {site}",
    ),
    (r"qos|policy|accounting|exceed", "you may not submit that: ask the administrators what you may"),
    (r"unable to contact|socket|timed out", "the controller did not answer in time: try again"),
)


def judge_submission(kind: Kind, answered: bool, text: str, now: datetime) -> Finding:
    """What ``sbatch --test-only`` said of a job: accepted, and when it is expected to start."""
    if not answered:
        return refusal(kind, text)
    start = parse_expected_start(text)
    if start is None:
        return ok(f"{JOB_NAMES[kind]} is accepted; SLURM does not say when it would start")
    seconds = (start - now).total_seconds()
    text = f"{JOB_NAMES[kind]} is accepted and expected to start "
    if seconds < 5:
        return ok(text + "at once")
    text += f"in {spell_seconds(seconds)}"
    if seconds > LONG_WAIT_SECONDS:
        return warning(
            text, f"choose a partition with less to do in {SITE_WORDS}; `squeue --start` lists waits"
        )
    return ok(text)


def refusal(kind: Kind, text: str) -> Finding:
    """What sbatch did not accept, and how to mend it."""
    said = last_line(text)
    mend = next((mend for pattern, mend in REFUSALS if re.search(pattern, text, re.IGNORECASE)), "")
    return failed(
        f"{JOB_NAMES[kind]} is refused: {said or 'sbatch gives no reason'}",
        (mend or "look at the values in {site}").format(site=SITE_WORDS),
    )


# --- judging the jobs ---------------------------------------------------------------------------------------

# how a job ended -> how to mend it
ENDS = {
    "OUT_OF_MEMORY": "raise max_mem_mb in {site}, if it is below 4000",
    "NODE_FAIL": "the node broke down: try again, and tell the cluster's administrators",
    "BOOT_FAIL": "the node did not start: try again, and tell the cluster's administrators",
    "TIMEOUT": "the node or its disk is very slow: try again, or choose another partition in {site}",
    "CANCELLED": "somebody cancelled it: try again",
    "PREEMPTED": "another job took its place: try again, or choose a partition without preemption in {site}",
}


def judge_overdue(kind: Kind, job: Job | None, seconds: float) -> Finding:
    """A job that did not end in time."""
    told = (
        f"{job.state.lower()}{f', {job.reason}' if job.reason not in ('', 'None') else ''}"
        if job
        else "unknown"
    )
    return failed(
        f"{JOB_NAMES[kind]} has not ended within {spell_seconds(seconds)} ({told}) and is cancelled",
        f"try again with a larger --timeout, or choose a partition with less to do in {SITE_WORDS}",
    )


def judge_end(kind: Kind, job: Job | None, log: str | None, latency: float | None) -> list[Finding]:
    """How a job ended and whether its report came back.

    Parameters
    ----------
    job
        As the controller tells it, None where it has forgotten it.
    log
        What the job printed, None where its log is not to be seen either.
    latency
        Seconds from the end seen to the report seen, None where it never came.
    """
    name = JOB_NAMES[kind]
    state = job.state if job else "UNKNOWN"
    if latency is not None:
        waited = job.waited if job else None
        node = f" on {job.node}" if job and job.node else ""
        start = f" after a wait of {spell_seconds(waited)}" if waited is not None else ""
        return [ok(f"{name} ran{node}{start}"), _judge_latency(kind, latency)]
    if log is None:
        return [
            failed(
                f"{name} ended ({state.lower()}), but neither its log nor its report is to be seen here: the "
                "folder is not shared with the node, or shows new files very late",
                "put the repository and its results on a disk that all nodes mount; if they are on one, set "
                f"latency-wait: 120 in {PROFILE}",
            )
        ]
    said = last_line(log) or "it printed nothing"
    if state in ENDS:
        mend = ENDS[state].format(site=SITE_WORDS)
    elif re.search(r"not found|No such file|Permission denied|cannot execute|can't cd", log):
        mend = "the node does not see the repository or its .venv: put both on a disk that all nodes mount"
    else:
        mend = "the environment does not start there: run `make install` on a node of that partition"
    return [failed(f"{name} ended as {state}: {said}", mend)]


def _judge_latency(kind: Kind, latency: float) -> Finding:
    late = "at once" if latency < 0.2 else f"{latency:.1f} s late"
    text = f"files of the {JOB_NAMES[kind]} are seen here {late}"
    if latency > LATENCY_SECONDS:
        return warning(text, f"set latency-wait: {max(60, round(3 * latency))} in {PROFILE}")
    return ok(text)


def judge_report(kind: Kind, report: Report, token: str) -> list[Finding]:
    """What a job found on its node; ``token`` is what had been written for it to read."""
    node = report["node"]
    findings = []
    if report["token"] == token:
        seconds = report["token_seconds"]
        late = "at once" if seconds < 0.2 else f"after {spell_seconds(seconds)}"
        findings.append(ok(f"{node} sees files written here {late}"))
    else:
        findings.append(
            failed(
                f"{node} does not see a file written here before the job",
                "put the repository and its results on a disk that all nodes mount, uncached",
            )
        )
    findings += [_judge_shared(node, report["shared"]), _judge_scratch(node, report["scratch"])]
    findings.append(_judge_environment(node, report))
    if kind == "gpu" and not report["torch"]["error"]:
        findings += judge_gpu(report)
    return findings


def _judge_shared(node: str, disk: Disk) -> Finding:
    if disk["error"]:
        return failed(
            f"{node} cannot write 256 MB to the results: {disk['error']}",
            "make room there (`quota -s` says what is left to you), or name another folder by `results`",
        )
    text = f"{node} writes to the results at {disk['mb_per_s']:.0f} MB/s, {disk['free_gb']:.0f} GB are free"
    if disk["free_gb"] < LITTLE_FREE_GB:
        return warning(
            text, "a study of whole slides needs more: make room, or name another folder by `results`"
        )
    if disk["mb_per_s"] < SLOW_MB_PER_S:
        return warning(text, "many cells take long to write: name a folder on a faster disk by `results`")
    return ok(text)


def _judge_scratch(node: str, disk: Disk) -> Finding:
    where = f"${disk['variable']} ({disk['path']})" if disk["variable"] else disk["path"]
    if disk["error"]:
        return warning(
            f"scratch {where} on {node} cannot be used: {disk['error']}",
            "unset TMPDIR where you start the workflow, or point it to a folder that is on every node",
        )
    named = "" if disk["variable"] else "; neither $SLURM_TMPDIR nor $TMPDIR is set"
    return ok(f"scratch on {node} is {where}, {disk['free_gb']:.0f} GB free{named}")


def _judge_environment(node: str, report: Report) -> Finding:
    torch = report["torch"]
    if torch["error"]:
        return failed(
            f"Python {report['python']} starts on {node}, but torch does not: {torch['error']}",
            "the node may have an older system, or not see all of .venv: run `make install` on it, or use "
            "the container of envs/myostage.def",
        )
    built = f"built for CUDA {torch['cuda']}" if torch["cuda"] else "built without CUDA"
    text = (
        f"Python {report['python']} and torch {torch['version']} ({built}) start on {node}; "
        f"`import torch` takes {spell_seconds(torch['seconds'])}"
    )
    if torch["seconds"] > SLOW_IMPORT_SECONDS:
        return warning(
            text,
            "every job waits that long: put .venv on a faster disk, or use envs/myostage.def",
        )
    return ok(text)


def judge_gpu(report: Report) -> list[Finding]:
    """The GPU as the GPU job saw it: driver, how many devices, and whether torch computes on it."""
    torch, node = report["torch"], report["node"]
    driver, cuda = parse_driver(report["smi"], report["driver_cuda"])
    visible = [
        name for name in (report["visible_devices"] or "").split(",") if name not in ("", "NoDevFiles")
    ]
    given = report["visible_devices"]
    findings = []
    if driver or cuda:
        findings.append(
            ok(f"NVIDIA driver {driver or 'of unknown version'} on {node} supports CUDA {cuda or '?'}")
        )
    seen = len(torch["devices"]) if torch["available"] else len(visible)
    said = f"CUDA_VISIBLE_DEVICES={given}" if given is not None else "CUDA_VISIBLE_DEVICES is not set"
    if seen == 1:
        findings.append(ok(f"SLURM gave the GPU job one GPU ({said})"))
    elif seen > 1:
        findings.append(
            failed(
                f"the GPU job asked for one GPU and sees {seen} ({said})",
                "jobs would share GPUs: ask the cluster's administrators to confine them "
                "(ConstrainDevices in cgroup.conf, AutoDetect or File= in gres.conf)",
            )
        )
    if not torch["available"]:
        findings.append(_no_gpu(report, driver, cuda, said if seen == 0 else ""))
        return findings
    return [*findings, *_judge_devices(report)]


def _judge_devices(report: Report) -> list[Finding]:
    torch = report["torch"]
    if torch["fault"]:
        kinds = ", ".join(
            f"{device['name']} (compute capability {device['capability']})" for device in torch["devices"]
        )
        return [
            failed(
                f"torch does not compute on the GPU {kinds or 'of ' + report['node']}: {torch['fault']}",
                f"torch {torch['version']} is built for {', '.join(torch['architectures']) or 'other GPUs'}: "
                f"choose a newer GPU by gpu_model in {SITE_WORDS}, or install a torch built for this one",
            )
        ]
    findings = []
    for device in torch["devices"]:
        text = f"torch computes on {device['name']}, {device['memory_gb']:.0f} GB"
        if device["free_gb"] < 0.8 * device["memory_gb"]:
            findings.append(
                warning(
                    f"{text}, but only {device['free_gb']:.0f} GB are free",
                    "somebody else computes on it: ask the cluster's administrators whether GPUs are shared",
                )
            )
        else:
            findings.append(ok(text))
    return findings


def _no_gpu(report: Report, driver: str, cuda: str, ungiven: str) -> Finding:
    """Why torch sees no GPU, most probable reason first; ``ungiven`` where SLURM gave the job none."""
    torch = report["torch"]
    if torch["cuda"] is None:
        reason = f"torch {torch['version']} is built without CUDA"
        mend = "run `make install`, which installs one with it"
    elif not driver and not cuda:
        reason = "the node has no NVIDIA driver"
        mend = (
            f"set gpu_partition to a partition with NVIDIA GPUs in {SITE_WORDS}, or ask the cluster's "
            "administrators to install the driver"
        )
    elif cuda and _numbers(torch["cuda"]) > _numbers(cuda):
        reason = f"torch is built for CUDA {torch['cuda']}, the driver {driver} supports CUDA {cuda} at most"
        index = f"https://download.pytorch.org/whl/cu{cuda.replace('.', '')}"
        mend = (
            f"install a torch built for CUDA {cuda} or older (.venv/bin/uv pip install torch torchvision "
            f"--index-url {index}), or ask for a newer driver"
        )
    elif ungiven:
        reason = f"SLURM gave the job none ({ungiven})"
        mend = "ask the cluster's administrators whether gres.conf names the devices of the node"
    else:
        reason = torch["warnings"][-1] if torch["warnings"] else "the driver shows the job no device"
        mend = "run `nvidia-smi` in a job there, and show the cluster's administrators what it says"
    return failed(f"no GPU visible to torch in the GPU job on {report['node']}: {reason}", mend)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def closing(findings: Sequence[Finding]) -> str:
    """The last line: what it all comes to."""
    broken = sum(finding.level == "FAILED" for finding in findings)
    doubtful = sum(finding.level == "warning" for finding in findings)
    warned = f", {doubtful} warning{'s' if doubtful > 1 else ''}" if doubtful else ""
    if broken:
        return f"{broken} check{'s' if broken > 1 else ''} FAILED{warned}: mend what is said below each."
    return f"The cluster can run the workflow{warned}."

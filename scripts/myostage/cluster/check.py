"""The preflight of a cluster: ask SLURM, send one CPU and one GPU job, and say what works.

Commands are called here; what they say is read and judged in cluster_facts.py, and cluster_probe.py is what
the jobs do on their nodes.
"""

import contextlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from myostage.cluster import facts
from myostage.cluster.facts import Finding, Job, Kind, Partition
from myostage.cluster.probe import TOKEN_FILE, Report
from myostage.cluster.site import Site
from myostage.errors import UserError

COMMANDS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue")
COMMAND_SECONDS = 60
FOLDER = ".cluster_check"
SCRIPTS = Path(__file__).absolute().parents[2]

# what a job of the preflight asks for: enough to import torch and write one file
JOB_MINUTES = 10
JOB_MEM_MB = 4000
# a report that is not seen this long after its job's end will not come
REPORT_SECONDS = 60
CANCEL_SECONDS = 15


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    fine: bool
    out: str
    said: str

    @property
    def text(self) -> str:
        """Both streams, the one that explains last."""
        return f"{self.out}\n{self.said}"


def call(*command: str, stdin: str = "") -> Answer:
    """Call a command of SLURM; a missing or hanging one is an answer that is not fine."""
    # a job's own variables would shape the jobs that it sends, a user's formats what is read here
    inside = "SLURM_JOB_ID" in os.environ
    environment = {
        name: value
        for name, value in os.environ.items()
        if not (inside and name.startswith("SLURM_") and name != "SLURM_CONF")
        and not name.startswith(("SINFO_", "SQUEUE_"))
    }
    environment["SLURM_TIME_FORMAT"] = "standard"
    try:
        # a session of its own: Ctrl-C is ours, and must not break a command that submits or cancels
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            env=environment,
            start_new_session=True,
        )
    except FileNotFoundError:
        return Answer(False, "", f"{command[0]}: no such command")
    except subprocess.TimeoutExpired:
        return Answer(False, "", f"{command[0]} timed out after {COMMAND_SECONDS} s")
    return Answer(done.returncode == 0, done.stdout, done.stderr)


def check(site: Site, results: Path, timeout: float, gpu: bool = True) -> Generator[Finding, None, None]:
    """Everything the workflow needs of a cluster, one finding after the other.

    Jobs are cancelled and their files removed whenever the iterator ends or is closed.

    Parameters
    ----------
    site
        What jobs ask for.
    results
        Folder below which the workflow would write.
    timeout
        Seconds that the jobs may take from their submission to their end.
    gpu
        Whether a GPU job is sent too.

    Raises
    ------
    UserError
        No SLURM on this machine, or ``results`` cannot be written to.
    """
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise UserError(
            f"SLURM is not on this machine ({', '.join(missing)} not found): log in to the cluster's login "
            "node, or load the module that brings SLURM"
        )
    ping = call("scontrol", "ping")
    controller = facts.judge_controller(ping.fine, ping.text, call("sbatch", "--version").out)
    yield controller
    if controller.level == "FAILED":
        return
    partitions = _partitions()
    yield facts.judge_partitions(partitions)
    kinds: list[Kind] = []
    for kind in ("cpu", "gpu") if gpu else ("cpu",):
        findings = facts.judge_wanted(site, kind, partitions)
        yield from findings
        if not _broken(findings):
            kinds.append(kind)
    findings = _account(site)
    yield from findings
    if not _broken(findings):
        yield from _jobs(site, results, timeout, kinds)


def _broken(findings: list[Finding]) -> bool:
    return any(finding.level == "FAILED" for finding in findings)


def _partitions() -> dict[str, Partition]:
    sinfo = call("sinfo", "--exact", "--noheader", "--format", "%P|%a|%l|%D|%t|%m|%G")
    return facts.parse_partitions(sinfo.out, call("scontrol", "show", "partition", "--oneliner").out)


def _account(site: Site) -> list[Finding]:
    sacct = call(
        "sacct", "--allocations", "--noheader", "--parsable2", "--format=JobIdRaw", "--starttime=now-1hour"
    )
    config = facts.parse_config(call("scontrol", "show", "config").out)
    accounts: list[str] = []
    if site.account is not None:
        user = os.environ.get("USER") or str(os.getuid())
        listed = call("sacctmgr", "-n", "-s", "list", "user", user, "format=account%256")
        if not listed.out.strip():
            listed = call("sshare", "-U", "--format=Account%256", "--noheader")
        accounts = listed.out.split() if listed.fine else []
    return [
        facts.judge_accounting(sacct.fine, config),
        *facts.judge_account(site.account, sacct.fine, accounts),
    ]


# --- jobs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sent:
    """A job that was submitted."""

    kind: Kind
    number: str


def options(site: Site, kind: Kind) -> list[str]:
    """What sbatch is told of a job, as the workflow's executor would."""
    asked = site.resources(kind == "gpu")
    given = [
        f"--time={min(JOB_MINUTES, site.max_runtime)}",
        f"--mem={min(JOB_MEM_MB, site.max_mem_mb)}",
        "--cpus-per-task=1",
    ]
    if kind == "gpu":
        given.append(f"--gpus={asked['gpu_model']}:1" if "gpu_model" in asked else "--gpus=1")
    else:
        given.append("--ntasks=1")
    for key, option in (("slurm_account", "--account"), ("slurm_partition", "--partition"), ("qos", "--qos")):
        if key in asked:
            given.append(f"{option}={asked[key]}")
    return given


def script(kind: Kind, folder: Path) -> str:
    """The job itself: the probe, by the interpreter that runs here."""
    probe = shlex.join([sys.executable, "-m", "myostage.cluster.probe", str(folder), kind])
    return f"#!/bin/sh\ncd {shlex.quote(str(SCRIPTS))} && exec {probe}\n"


def _jobs(site: Site, results: Path, timeout: float, kinds: list[Kind]) -> Iterator[Finding]:
    accepted: list[Kind] = []
    for kind in kinds:
        answer = call("sbatch", "--test-only", *options(site, kind), stdin=script(kind, results))
        yield facts.judge_submission(kind, answer.fine, answer.text, datetime.now())
        if answer.fine:
            accepted.append(kind)
    if not accepted:
        return
    folder, token = _prepare(results)
    name = f"myostage-check-{token}"
    try:
        sent: list[_Sent] = []
        for kind in accepted:
            answer = call(
                "sbatch",
                "--parsable",
                f"--job-name={name}",
                f"--output={folder / f'{kind}.log'}",
                f"--chdir={SCRIPTS}",
                "--export=ALL",
                *options(site, kind),
                stdin=script(kind, folder),
            )
            if answer.fine:
                sent.append(_Sent(kind, answer.out.strip().split(";")[0]))
            else:
                yield facts.refusal(kind, answer.text)
        yield from _follow(sent, folder, token, timeout)
    finally:
        _tidy(name, folder)


def _prepare(results: Path) -> tuple[Path, str]:
    """A folder for the jobs with a token that they are to read."""
    token = secrets.token_hex(4)
    try:
        parent = results.absolute() / FOLDER
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="jobs_", dir=parent))
        (folder / TOKEN_FILE).write_text(token, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{results}: the jobs' files cannot be written there ({error}); name another folder"
        ) from None
    return folder, token


def _follow(sent: list[_Sent], folder: Path, token: str, timeout: float) -> Iterator[Finding]:
    """Wait for the jobs and judge each as it ends."""
    begun = time.monotonic()
    open_ = list(sent)
    told: dict[str, Job | None] = {}
    while open_:
        for job in list(open_):
            answer = call("scontrol", "show", "job", "--oneliner", job.number)
            state = facts.parse_job(answer.out)
            forgotten = state is None and "Invalid job id" in answer.text
            if forgotten or (state is not None and state.ended):
                open_.remove(job)
                yield from _judge(job.kind, state, folder, token)
            else:
                told[job.number] = state or told.get(job.number)
        elapsed = time.monotonic() - begun
        if elapsed > timeout:
            for job in open_:
                yield facts.judge_overdue(job.kind, told.get(job.number), timeout)
            return
        # not too often: the controller serves the whole cluster
        time.sleep(1 if elapsed < 60 else 5)


def _judge(kind: Kind, job: Job | None, folder: Path, token: str) -> Iterator[Finding]:
    """What became of a job that has ended."""
    ended = time.monotonic()
    file = folder / f"{kind}.json"
    # a job that failed leaves no report, but its log must come
    expected = file if job is None or job.state == "COMPLETED" else folder / f"{kind}.log"
    while not _seen(expected) and time.monotonic() - ended < REPORT_SECONDS:
        time.sleep(0.1)
    latency = time.monotonic() - ended if _seen(file) else None
    yield from facts.judge_end(kind, job, _text(folder / f"{kind}.log"), latency)
    if latency is not None:
        report: Report = json.loads(file.read_text(encoding="utf-8"))
        yield from facts.judge_report(kind, report, token)


def _seen(file: Path) -> bool:
    # opening a file asks the server anew where a listing may come from a cache
    return _text(file) is not None


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _tidy(name: str, folder: Path) -> None:
    """Cancel what still runs and remove every file."""
    # by name: a job whose number was not read before Ctrl-C is cancelled too
    call("scancel", f"--name={name}")
    begun = time.monotonic()
    while (
        call("squeue", "--noheader", f"--name={name}").out.strip()
        and time.monotonic() - begun < CANCEL_SECONDS
    ):
        time.sleep(1)
    shutil.rmtree(folder, ignore_errors=True)
    # another check may still use it
    with contextlib.suppress(OSError):
        folder.parent.rmdir()

"""The preflight of a cluster: what SLURM's commands and the jobs say is read and judged rightly."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from myostage.cluster import check, facts, probe
from myostage.cluster.facts import Finding, Job, Kind, Partition
from myostage.cluster.probe import Report
from myostage.cluster.site import Site
from myostage.errors import UserError

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 1, 12, 0, 0)
TOKEN = "0123abcd"

SINFO = """\
cpu*|up|7-00:00:00|38|mix|190000|(null)
cpu*|up|7-00:00:00|1|down*|190000|(null)
cpu*|up|7-00:00:00|1|idle|760000|(null)
gpu|up|1-12:00:00|4|alloc|500000|gpu:a100:4(S:0-1),mps:400
gpu|up|1-12:00:00|2|idle~|500000|gpu:v100:2(S:0,1)
gpu|up|1-12:00:00|2|drain|500000|gpu:a100:4(S:0-1)
short|up|30:00|2|idle|64000+|gpu:2
old|down|infinite|3|idle|64000|(null)
broken line
"""
SCONTROL = (
    "PartitionName=cpu AllowGroups=ALL Default=YES MaxMemPerNode=380000 State=UP TotalNodes=40\n"
    "PartitionName=gpu AllowGroups=ALL Default=NO MaxMemPerNode=UNLIMITED State=UP TotalNodes=8\n"
)
JOB = (
    "JobId=17 JobName=myostage-check-1 UserId=me(1000) JobState={state} Reason={reason} Dependency=(null) "
    "ExitCode=0:0 RunTime=00:00:10 SubmitTime=2026-03-01T12:00:00 EligibleTime=2026-03-01T12:00:00 "
    "StartTime=2026-03-01T12:01:30 EndTime=2026-03-01T12:01:40 Partition=cpu ReqNodeList=(null) "
    "ExcNodeList=(null) NodeList={node} BatchHost=n1 NumNodes=1\n"
)
SMI = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.54.15              Driver Version: 550.54.15      CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
"""
PARTITIONS = facts.parse_partitions(SINFO, SCONTROL)


def report(**changed: Any) -> Report:
    """What a job on a sound GPU node finds; keys like ``torch__available`` change parts of it."""
    whole: dict[str, Any] = {
        "node": "n1",
        "python": "3.11.7",
        "token": TOKEN,
        "token_seconds": 0.001,
        "shared": {"path": "/r", "variable": "", "free_gb": 900.0, "mb_per_s": 400.0, "error": ""},
        "scratch": {"path": "/tmp/17", "variable": "TMPDIR", "free_gb": 70.0, "mb_per_s": 0.0, "error": ""},
        "torch": {
            "seconds": 8.0,
            "version": "2.9.0",
            "cuda": "12.4",
            "architectures": ["sm_80", "sm_90"],
            "available": True,
            "devices": [{"name": "NVIDIA A100", "memory_gb": 80.0, "free_gb": 79.0, "capability": "8.0"}],
            "warnings": [],
            "error": "",
            "fault": "",
        },
        "visible_devices": "0",
        "smi": SMI,
        "driver_cuda": 12040,
    }
    for key, value in changed.items():
        part, _, inner = key.rpartition("__")
        (whole[part] if part else whole)[inner] = value
    made: Report = whole  # type: ignore[assignment]
    return made


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def only(findings: list[Finding], level: str) -> Finding:
    (found,) = [finding for finding in findings if finding.level == level]
    return found


# --- reading ---


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("infinite", None),
        ("UNLIMITED", None),
        ("n/a", None),
        ("30:00", 30),
        ("1:30:00", 90),
        ("7-00:00:00", 10080),
        ("1-12:00:00", 2160),
    ],
)
def test_time_limits(text: str, minutes: int | None) -> None:
    assert facts.parse_minutes(text) == minutes


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", {}),
        ("gpu:2", {"": 2}),
        ("gpu", {"": 1}),
        ("gpu:a100", {"a100": 1}),
        ("gpu:a100:4(S:0-1),gpu:v100:2(S:0,1),mps:400", {"a100": 4, "v100": 2}),
        ("gpu:a100:1,gpu:a100:1", {"a100": 2}),
        ("craynetwork:4", {}),
    ],
)
def test_gpus_of_a_node(gres: str, gpus: dict[str, int]) -> None:
    assert facts.parse_gpus(gres) == gpus


def test_partitions_count_what_is_up() -> None:
    expected = {
        "cpu": Partition("cpu", True, True, 10080, 380000, 40, 39, {}),
        "gpu": Partition("gpu", False, True, 2160, 500000, 8, 6, {"a100": 16, "v100": 4}),
        "short": Partition("short", False, True, 30, 64000, 2, 2, {"": 4}),
        "old": Partition("old", False, False, None, 64000, 3, 3, {}),
    }
    assert expected == PARTITIONS
    assert (
        str(PARTITIONS["gpu"]) == "gpu: up, limit 36 h, 6 of 8 nodes up, 500000 MB per node, 16 a100, 4 v100"
    )
    assert str(PARTITIONS["old"]) == "old: down, no time limit, 3 of 3 nodes up, 64000 MB per node, no GPU"
    assert "cpu (default): up" in str(PARTITIONS["cpu"])


def test_configuration() -> None:
    config = facts.parse_config(
        "Configuration data as of 2026\nMinJobAge               = 300 sec\nEpilog = (null)\n"
    )
    assert config == {"MinJobAge": "300 sec", "Epilog": "(null)"}
    assert [facts.parse_seconds(text) for text in ("300 sec", "1h", "60", "5 min", "?")] == [
        300,
        3600,
        60,
        300,
        None,
    ]


def test_a_job() -> None:
    done = facts.parse_job(JOB.format(state="COMPLETED", reason="None", node="n1"))
    assert done is not None
    assert (done.ended, done.waited, done.node) == (True, 90, "n1")
    waiting = facts.parse_job(JOB.format(state="PENDING", reason="Nodes_busy", node="(null)"))
    assert waiting is not None
    # a waiting job has an expected start, which is no start
    assert (waiting.ended, waiting.waited, waiting.node, waiting.reason) == (False, None, "", "Nodes busy")
    assert facts.parse_job("slurm_load_jobs error: Invalid job id specified") is None


def test_the_expected_start() -> None:
    said = "sbatch: Job 18 to start at 2026-03-01T12:05:00 using 1 processors on nodes n1 in partition cpu"
    assert facts.parse_expected_start(said) == NOW + timedelta(minutes=5)
    assert facts.parse_expected_start("nothing") is None
    assert facts.parse_expected_start("to start at Unknown") is None


@pytest.mark.parametrize(
    ("smi", "number", "driver", "cuda"),
    [
        (SMI, 12040, "550.54.15", "12.4"),
        (SMI, 0, "550.54.15", "12.4"),
        ("", 13010, "", "13.1"),
        ("| NVIDIA-SMI 590.1  KMD Version: 590.1  CUDA UMD Version: 13.1 |", 0, "590.1", "13.1"),
        ("", 0, "", ""),
    ],
)
def test_the_driver(smi: str, number: int, driver: str, cuda: str) -> None:
    assert facts.parse_driver(smi, number) == (driver, cuda)


def test_durations_are_words() -> None:
    said = [facts.spell_seconds(seconds) for seconds in (0, 4.2, 40, 300, 86400, 10 * 86400)]
    assert said == ["0 s", "4.2 s", "40 s", "5 min", "24 h", "10 days"]


def test_a_finding_is_a_line_with_how_to_mend_it_below() -> None:
    assert str(facts.ok("fine")) == "ok       fine"
    assert str(facts.failed("bad", "do this", "or that")) == (
        "FAILED   bad\n             do this\n             or that"
    )


# --- the cluster ---


def test_the_controller() -> None:
    ping = "Slurmctld(primary) at head is UP\n"
    assert (
        str(facts.judge_controller(True, ping, "slurm-wlm 22.05.8\n"))
        == "ok       SLURM 22.05.8 answers from head"
    )
    assert facts.judge_controller(True, "Slurmctld(primary) at head is DOWN\n", "").level == "FAILED"
    backup = ping.replace("UP", "DOWN") + "Slurmctld(backup) at head2 is UP\n"
    assert facts.judge_controller(True, backup, "slurm 24.05.1").text == "SLURM 24.05.1 answers from head2"
    assert "timed out" in facts.judge_controller(False, "\nscontrol timed out after 60 s", "").text


LOW: Any = {"max_mem_mb": 1000, "max_runtime": 10}


@pytest.mark.parametrize(
    ("site", "kind", "level", "said"),
    [
        (Site(**LOW), "cpu", "ok", "partition cpu (the default) for jobs without a GPU is up"),
        (Site(gpu_partition="gpu", **LOW), "gpu", "ok", "partition gpu for GPU jobs is up"),
        (
            Site(gpu_partition="gpu,short", gpu_model="v100", **LOW),
            "gpu",
            "ok",
            "partition gpu,short for GPU",
        ),
        (Site(partition="cup"), "cpu", "FAILED", "there is no partition cup (did you mean cpu?)"),
        (
            Site(partition="cup"),
            "cpu",
            "FAILED",
            "set partition to one of cpu, gpu, short, old in ~/.config/",
        ),
        (Site(partition="old"), "cpu", "FAILED", "is down, or none of its nodes is up"),
        (Site(partition="old"), "cpu", "FAILED", "one that works (cpu, gpu, short)"),
        (Site(), "gpu", "FAILED", "partition cpu (the default) for GPU jobs has no GPU"),
        (Site(), "gpu", "FAILED", "set gpu_partition to one of gpu, short"),
        (Site(gpu_partition="gpu", gpu_model="a10"), "gpu", "FAILED", "has no GPU a10 (did you mean a100?)"),
        (Site(gpu_partition="gpu", gpu_model="a10"), "gpu", "FAILED", "set gpu_model to one of a100, v100"),
        (Site(gpu_partition="short", gpu_model="a100"), "gpu", "FAILED", "set gpu_model to null"),
        (
            Site(partition="short", max_runtime=60, max_mem_mb=1),
            "cpu",
            "warning",
            "max_runtime is 60 minutes, more than the 30 that partition short allows",
        ),
        (
            Site(partition="cpu", max_runtime=60, max_mem_mb=700000),
            "cpu",
            "warning",
            "max_mem_mb is 700000 MB, more than the 380000 that partition cpu allows",
        ),
    ],
)
def test_the_partition_a_job_would_use(site: Site, kind: Kind, level: str, said: str) -> None:
    assert said in str(only(facts.judge_wanted(site, kind, PARTITIONS), level))


def test_no_partition_at_all_and_no_default() -> None:
    assert facts.judge_partitions({}).level == "FAILED"
    findings = facts.judge_wanted(Site(), "cpu", {"gpu": PARTITIONS["gpu"]})
    assert "SLURM has no default" in only(findings, "FAILED").text
    without = {"cpu": PARTITIONS["cpu"]}
    assert "--no-gpu" in str(only(facts.judge_wanted(Site(), "gpu", without), "FAILED"))


def test_accounting() -> None:
    assert "slurm-status-command: sacct" in str(facts.judge_accounting(True, {}))
    without = facts.judge_accounting(False, {"MinJobAge": "300 sec"})
    assert without.level == "ok"
    assert "more than 5 min ago" in without.text
    assert "slurm-status-command: squeue and slurm-no-account: true" in without.more[0]
    assert facts.judge_accounting(False, {"MinJobAge": "2 sec"}).level == "warning"
    assert "forgets a job soon after" in facts.judge_accounting(False, {}).text


def test_the_account() -> None:
    assert facts.judge_account(None, False, []) == []
    assert facts.judge_account("Lab", True, ["lab", "other"]) == []
    # nothing is known of accounts: sbatch decides
    assert facts.judge_account("lab", True, []) == []
    wrong = only(facts.judge_account("lib", True, ["other", "lab"]), "FAILED")
    assert "account lib is none of yours (did you mean lab?)" in wrong.text
    assert "one of lab, other" in wrong.more[0]
    assert "account: null" in only(facts.judge_account("lab", False, []), "FAILED").more[0]


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination",
            "set account",
        ),
        ("allocation failure: Invalid partition name specified", "set partition"),
        ("allocation failure: Invalid qos specification", "set qos"),
        (
            "allocation failure: Job violates accounting/QOS policy (job submit limit)",
            "ask the administrators",
        ),
        (
            "allocation failure: Requested time limit is invalid (missing or exceeds some limit)",
            "lower max_runtime",
        ),
        ("sbatch: error: Memory specification can not be satisfied", "lower max_mem_mb"),
        ("sbatch: error: Invalid generic resource (gres) specification", "correct gpu_model"),
        (
            "allocation failure: Requested node configuration is not available",
            "no node has what the job asks for",
        ),
        ("sbatch timed out after 60 s", "try again"),
        ("something new", "look at the values in ~/.config/myostage/site.yaml"),
    ],
)
def test_what_sbatch_refuses_is_told_with_a_remedy(text: str, mend: str) -> None:
    finding = facts.judge_submission("gpu", False, text, NOW)
    assert finding.level == "FAILED"
    assert finding.text.startswith("GPU job is refused: ")
    assert finding.text.endswith(text.removeprefix("sbatch: error: "))
    assert mend in finding.more[0]
    assert "{" not in finding.more[0]


@pytest.mark.parametrize(
    ("start", "level", "said"),
    [
        ("2026-03-01T11:59:58", "ok", "CPU job is accepted and expected to start at once"),
        ("2026-03-01T12:20:00", "ok", "expected to start in 20 min"),
        ("2026-03-06T12:00:00", "warning", "expected to start in 5 days"),
        ("N/A", "ok", "SLURM does not say when"),
    ],
)
def test_the_expected_wait(start: str, level: str, said: str) -> None:
    finding = facts.judge_submission(
        "cpu", True, f"sbatch: Job 3 to start at {start} using 1 processors", NOW
    )
    assert finding.level == level
    assert said in finding.text


# --- the jobs ---


def job(state: str) -> Job:
    made = facts.parse_job(JOB.format(state=state, reason="Priority", node="n1"))
    assert made is not None
    return made


def test_a_job_that_ran() -> None:
    findings = facts.judge_end("cpu", job("COMPLETED"), "", 0.01)
    assert [finding.text for finding in findings] == [
        "CPU job ran on n1 after a wait of 90 s",
        "files of the CPU job are seen here at once",
    ]
    assert facts.judge_end("cpu", None, "", 0.01)[0].text == "CPU job ran"
    late = only(facts.judge_end("cpu", job("COMPLETED"), "", 30.0), "warning")
    assert (late.text, late.more[0][:20]) == (
        "files of the CPU job are seen here 30.0 s late",
        "set latency-wait: 90",
    )


@pytest.mark.parametrize(
    ("state", "log", "said", "mend"),
    [
        ("COMPLETED", None, "the folder is not shared with the node", "latency-wait: 120"),
        (
            "FAILED",
            "sh: 2: exec: /x/.venv/bin/python: not found\n",
            "ended as FAILED: sh",
            "on a disk that all nodes",
        ),
        ("FAILED", "sh: 2: cd: can't cd to /x/scripts\n", "can't cd", "on a disk that all nodes mount"),
        ("FAILED", "Traceback\nImportError: libc.so.6: version GLIBC_2.34", "GLIBC_2.34", "make install"),
        ("FAILED", "", "it printed nothing", "make install"),
        ("OUT_OF_MEMORY", "Killed", "ended as OUT_OF_MEMORY: Killed", "raise max_mem_mb in ~/.config"),
        ("NODE_FAIL", "", "ended as NODE_FAIL", "try again"),
    ],
)
def test_a_job_without_a_report(state: str, log: str | None, said: str, mend: str) -> None:
    finding = only(facts.judge_end("cpu", job(state), log, None), "FAILED")
    assert said in finding.text
    assert mend in finding.more[0]


def test_a_job_that_does_not_end() -> None:
    finding = facts.judge_overdue("gpu", job("PENDING"), 600)
    assert finding.text == "GPU job has not ended within 10 min (pending, Priority) and is cancelled"
    assert "--timeout" in finding.more[0]
    assert "(unknown)" in facts.judge_overdue("gpu", None, 600).text


def test_a_sound_node_passes() -> None:
    assert set(levels(facts.judge_report("cpu", report(), TOKEN))) == {"ok"}
    findings = facts.judge_report("gpu", report(), TOKEN)
    assert set(levels(findings)) == {"ok"}
    said = "\n".join(map(str, findings))
    assert "n1 sees files written here at once" in said
    assert "writes to the results at 400 MB/s, 900 GB are free" in said
    assert "scratch on n1 is $TMPDIR (/tmp/17), 70 GB free" in said
    assert "Python 3.11.7 and torch 2.9.0 (built for CUDA 12.4) start on n1; `import torch` takes 8 s" in said
    assert "NVIDIA driver 550.54.15 on n1 supports CUDA 12.4" in said
    assert "SLURM gave the GPU job one GPU (CUDA_VISIBLE_DEVICES=0)" in said
    assert "torch computes on NVIDIA A100, 80 GB" in said


TWO = report()["torch"]["devices"] * 2


@pytest.mark.parametrize(
    ("changed", "level", "said", "mend"),
    [
        ({"token": ""}, "FAILED", "does not see a file written here", "a disk that all nodes mount"),
        ({"shared__error": "Disk quota exceeded"}, "FAILED", "cannot write 256 MB", "quota -s"),
        ({"shared__free_gb": 3.0}, "warning", "3 GB are free", "make room"),
        ({"shared__mb_per_s": 4.0}, "warning", "at 4 MB/s", "faster disk"),
        (
            {"scratch__error": "No such file"},
            "warning",
            "scratch $TMPDIR (/tmp/17) on n1 cannot",
            "unset TMPDIR",
        ),
        (
            {"torch__error": "ImportError: libcuda"},
            "FAILED",
            "but torch does not: ImportError",
            "make install",
        ),
        ({"torch__seconds": 100.0}, "warning", "`import torch` takes 100 s", "faster disk"),
    ],
)
def test_what_is_wrong_with_a_node(changed: dict[str, Any], level: str, said: str, mend: str) -> None:
    finding = only(facts.judge_report("cpu", report(**changed), TOKEN), level)
    assert said in finding.text
    assert mend in finding.more[0]


NONE = {"torch__available": False, "torch__devices": []}


@pytest.mark.parametrize(
    ("changed", "level", "said", "mend"),
    [
        (
            {**NONE, "smi": "", "driver_cuda": 0},
            "FAILED",
            "no GPU visible to torch in the GPU job on n1: the node has no NVIDIA driver",
            "set gpu_partition",
        ),
        ({**NONE, "torch__cuda": None}, "FAILED", "torch 2.9.0 is built without CUDA", "make install"),
        (
            {**NONE, "torch__cuda": "13.2"},
            "FAILED",
            "torch is built for CUDA 13.2, the driver 550.54.15 supports CUDA 12.4 at most",
            "https://download.pytorch.org/whl/cu124), or ask for a newer driver",
        ),
        ({**NONE, "visible_devices": None}, "FAILED", "(CUDA_VISIBLE_DEVICES is not set)", "gres.conf"),
        ({**NONE, "visible_devices": "NoDevFiles"}, "FAILED", "SLURM gave the job none", "gres.conf"),
        ({**NONE, "torch__warnings": ["broken"]}, "FAILED", "on n1: broken", "nvidia-smi"),
        (
            {"torch__devices": TWO, "visible_devices": None},
            "FAILED",
            "one GPU and sees 2",
            "ConstrainDevices",
        ),
        (
            {"torch__fault": "no kernel image"},
            "FAILED",
            "(compute capability 8.0): no kernel",
            "sm_80, sm_90",
        ),
        (
            {"torch__devices": [{**TWO[0], "free_gb": 20.0}]},
            "warning",
            "80 GB, but only 20 GB are free",
            "shared",
        ),
    ],
)
def test_what_is_wrong_with_a_gpu(changed: dict[str, Any], level: str, said: str, mend: str) -> None:
    finding = only(facts.judge_report("gpu", report(**changed), TOKEN), level)
    assert said in finding.text
    assert mend in finding.more[0]


def test_a_newer_cuda_that_works_with_the_driver_is_fine() -> None:
    """CUDA runs on a driver of the same major version."""
    assert set(levels(facts.judge_gpu(report(torch__cuda="12.8")))) == {"ok"}


def test_the_gpu_is_judged_in_the_gpu_job_only() -> None:
    nothing = report(torch__available=False, torch__devices=[], visible_devices=None, smi="", driver_cuda=0)
    assert set(levels(facts.judge_report("cpu", nothing, TOKEN))) == {"ok"}


def test_the_last_line() -> None:
    assert facts.closing([facts.ok("a")]) == "The cluster can run the workflow."
    assert (
        facts.closing([facts.ok("a"), facts.warning("b")]) == "The cluster can run the workflow, 1 warning."
    )
    two = [facts.failed("a"), facts.failed("b"), facts.warning("c"), facts.warning("d")]
    assert facts.closing(two) == "2 checks FAILED, 2 warnings: mend what is said below each."


# --- the probe ---


def test_the_probe_writes_a_whole_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = report()["torch"]
    monkeypatch.setattr(probe, "WRITE_MB", 8)
    monkeypatch.setattr(probe, "try_torch", lambda gpu: torch)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    (tmp_path / probe.TOKEN_FILE).write_text(TOKEN)
    probe.main(tmp_path, gpu=True)
    found: Report = json.loads((tmp_path / "gpu.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "token"]
    assert found.keys() == report().keys()
    assert (found["token"], found["visible_devices"], found["torch"]) == (TOKEN, "1", torch)
    assert found["scratch"]["path"] == str(tmp_path)
    assert found["shared"]["error"] == ""


def test_the_probe_measures_the_disk_and_leaves_nothing(tmp_path: Path) -> None:
    disk = probe.write_speed(tmp_path, "a.bin", size_mb=8)
    assert disk["mb_per_s"] > 0
    assert disk["free_gb"] > 0
    assert list(tmp_path.iterdir()) == []
    assert "No such file" in probe.write_speed(tmp_path / "none", "a.bin", size_mb=8)["error"]


def test_the_probe_tells_of_a_scratch_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "none"))
    disk = probe.scratch()
    assert disk["variable"] == "SLURM_TMPDIR"
    assert "No such file" in disk["error"]


def test_the_probe_tells_of_a_torch_that_crashes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ImportError: no torch' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    assert probe.try_torch(False)["error"] == "ImportError: no torch"
    broken.write_text("#!/bin/sh\nkill -SEGV $$\n")
    assert probe.try_torch(False)["error"] == "it ended with exit code -11"


def test_the_token_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TOKEN_SECONDS", 0.2)
    token, seconds = probe.read_token(tmp_path / "token")
    assert token == ""
    assert seconds > 0.2


# --- the commands ---


def test_what_sbatch_is_asked_for() -> None:
    plain = ["--time=10", "--mem=4000", "--cpus-per-task=1"]
    assert check.options(Site(), "cpu") == [*plain, "--ntasks=1"]
    assert check.options(Site(), "gpu") == [*plain, "--gpus=1"]
    site = Site(
        account="lab",
        partition="c",
        gpu_partition="g",
        gpu_model="a100",
        qos="q",
        max_mem_mb=2000,
        max_runtime=5,
    )
    assert check.options(site, "gpu") == [
        "--time=5",
        "--mem=2000",
        "--cpus-per-task=1",
        "--gpus=a100:1",
        "--account=lab",
        "--partition=g",
        "--qos=q",
    ]
    assert "--partition=c" in check.options(site, "cpu")


def test_the_job_runs_the_probe_whatever_the_folder_is_called(tmp_path: Path) -> None:
    text = check.script("cpu", tmp_path / "with blank's")
    assert text.startswith("#!/bin/sh\ncd ")
    assert subprocess.run(["sh", "-n"], input=text, text=True).returncode == 0
    assert f"{sys.executable} -m myostage.cluster.probe" in text


# A SLURM of shell scripts: jobs run at once, on this machine, as far as $FAKE lets them.
FAKE_COMMANDS = {
    "sbatch": """
        case "$1" in
        --version) echo slurm 24.05.1; exit;;
        --test-only) echo "sbatch: Job 1 to start at 2020-01-01T00:00:00 using 1 processors" >&2; exit;;
        esac
        for word; do
            case "$word" in
            --output=*) log=${word#--output=};;
            --job-name=*) echo "$word" >>$FAKE/names;;
            esac
        done
        echo x >>$FAKE/jobs; number=$(wc -l <$FAKE/jobs)
        cat >$FAKE/script$number
        [ -e $FAKE/stuck ] || sh $FAKE/script$number >$log 2>&1
        echo $number
        """,
    "scontrol": """
        case "$1 $2" in
        "ping ") echo "Slurmctld(primary) at head is UP";;
        "show config") echo "MinJobAge = 300 sec";;
        "show partition") ;;
        "show job")
            state=COMPLETED; [ -e $FAKE/stuck ] && state=PENDING
            echo "JobId=$4 JobState=$state Reason=Priority SubmitTime=2026-03-01T12:00:00 \
StartTime=2026-03-01T12:00:00 NodeList=n1";;
        esac
        """,
    "sinfo": 'echo "all*|up|infinite|1|idle|64000|gpu:1"',
    "squeue": "true",
    "scancel": 'echo "$*" >>$FAKE/cancelled',
    "sacct": "exit 1",
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which fake commands keep what they were told; a file ``stuck`` there keeps jobs waiting."""
    folder = tmp_path / "fake"
    (folder / "bin").mkdir(parents=True)
    for name, text in FAKE_COMMANDS.items():
        command = folder / "bin" / name
        command.write_text(f"#!/bin/sh\n{text}\n")
        command.chmod(0o755)
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("MYOSTAGE_SITE", raising=False)
    return folder


def probe_writes(monkeypatch: pytest.MonkeyPatch, made: Callable[[Path, Kind], str]) -> None:
    monkeypatch.setattr(check, "script", lambda kind, folder: f"#!/bin/sh\n{made(folder, kind)}\n")


def test_both_jobs_are_sent_and_judged_and_leave_nothing(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "report.json"
    source.write_text(json.dumps(report()))
    probe_writes(
        monkeypatch,
        lambda folder, kind: f"sed s/{TOKEN}/$(cat {folder}/token)/ {source} >{folder}/{kind}.json",
    )
    findings = list(check.check(Site(max_mem_mb=8000), tmp_path / "results", 60))
    assert set(levels(findings)) == {"ok"}
    said = [finding.text for finding in findings]
    assert "CPU job ran on n1 after a wait of 0 s" in said
    assert "torch computes on NVIDIA A100, 80 GB" in said
    assert len((fake / "jobs").read_text().split()) == 2
    assert list((tmp_path / "results").iterdir()) == []


def test_a_folder_that_is_not_shared(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "REPORT_SECONDS", 0.3)
    probe_writes(monkeypatch, lambda folder, kind: f"rm {folder}/{kind}.log")
    findings = list(check.check(Site(max_mem_mb=8000), tmp_path, 60, gpu=False))
    assert "the folder is not shared with the node" in only(findings, "FAILED").text


def test_jobs_that_wait_too_long_are_cancelled_by_the_name_they_were_sent_with(
    fake: Path, tmp_path: Path
) -> None:
    (fake / "stuck").touch()
    findings = list(check.check(Site(max_mem_mb=8000), tmp_path / "results", 0.5, gpu=False))
    assert "has not ended within 0.5 s (pending, Priority)" in only(findings, "FAILED").text
    (name,) = (fake / "names").read_text().split()
    assert (fake / "cancelled").read_text().strip() == name.replace("--job-name", "--name")
    assert list((tmp_path / "results").iterdir()) == []


def test_results_that_cannot_be_written_to(fake: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written there"):
        list(check.check(Site(max_mem_mb=8000), tmp_path / "file", 60))
    assert not (fake / "jobs").exists()


def test_nothing_is_sent_where_the_site_is_wrong(fake: Path, tmp_path: Path) -> None:
    findings = list(check.check(Site(partition="none", gpu_partition="none"), tmp_path, 60))
    assert levels(findings).count("FAILED") == 2
    assert not (fake / "jobs").exists()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_and_removes(fake: Path, tmp_path: Path, sign: signal.Signals) -> None:
    (fake / "stuck").touch()
    command = [sys.executable, "scripts/cluster_check.py", "--results", str(tmp_path / "results"), "--no-gpu"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as check:
        end = time.monotonic() + 30
        while not (fake / "script1").exists() and time.monotonic() < end:
            time.sleep(0.05)
        check.send_signal(sign)
        _, error = check.communicate(timeout=30)
    assert check.returncode == 130
    assert error == "stopped; the jobs are cancelled and their files removed\n"
    assert "--name=myostage-check-" in (fake / "cancelled").read_text()
    assert list((tmp_path / "results").iterdir()) == []


def test_no_slurm_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/cluster_check.py", "--results", str(tmp_path)],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "SLURM is not on this machine (sbatch, scancel, scontrol, sinfo, squeue not found)"
    )
    assert done.stderr.count("\n") == 1


def test_a_command_that_hangs_is_an_answer(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "COMMAND_SECONDS", 0.2)
    (fake / "bin/sinfo").write_text("#!/bin/sh\nexec sleep 5\n")
    assert check.call("sinfo").said == "sinfo timed out after 0.2 s"
    assert not check.call("no-such-command").fine


def test_variables_of_the_job_around_do_not_shape_the_jobs_sent(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SINFO_FORMAT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    (fake / "bin/sinfo").write_text("#!/bin/sh\nenv\n")
    seen = dict(line.split("=", 1) for line in check.call("sinfo").out.splitlines() if "=" in line)
    assert not {"SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SINFO_FORMAT"} & set(seen)
    assert (seen["SLURM_CONF"], seen["SLURM_TIME_FORMAT"]) == ("/etc/slurm.conf", "standard")

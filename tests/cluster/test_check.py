"""The preflight of a cluster: what SLURM and the jobs say is judged, and each fault comes with its remedy."""

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from myostage.cluster import check, probe
from myostage.cluster.check import Answer, Finding, Kind
from myostage.cluster.probe import Facts
from myostage.cluster.site import Site
from myostage.errors import UserError

NOW = datetime(2026, 3, 1, 12)
SINFO = """\
cpu*|up|7-00:00:00|mix|190000|(null)
cpu*|up|7-00:00:00|down*|760000|(null)
cpu*|up|7-00:00:00|idle|380000+|(null)
gpu|up|1-12:00:00|alloc|500000|gpu:a100:4(S:0-1),mps:400
gpu|up|1-12:00:00|idle~|500000|gpu:v100:2(S:0,1),gpu_mem:80G
gpu|up|1-12:00:00|drain|900000|gpu:h100:4
short|up|30:00|idle|64000|gpu:2
old|down|infinite|idle|64000|gpu
broken line
"""
PARTITIONS = check.parse_partitions(SINFO)


def facts(**changed: Any) -> Facts:
    """What a job finds on a sound GPU node; keys like ``torch__cuda`` change parts of it."""
    found: dict[str, Any] = {
        "node": "n1",
        "python": "3.11.7",
        "token": "0123",
        "token_seconds": 0.001,
        "job": "JobId=17 SubmitTime=2026-03-01T12:00:00 StartTime=2026-03-01T12:01:20 Partition=gpu",
        "torch": {"seconds": 8.0, "version": "2.9.0", "cuda": "12.4", "devices": ["NVIDIA A100"]},
        "error": "",
        "visible_devices": "0",
        "driver_cuda": 12040,
    }
    for key, value in changed.items():
        part, _, inner = key.rpartition("__")
        (found[part] if part else found)[inner] = value
    made: Facts = found  # type: ignore[assignment]
    return made


def only(findings: Iterable[Finding], level: str) -> str:
    (found,) = [finding for finding in findings if finding.level == level]
    return str(found)


def test_partitions() -> None:
    assert [check.parse_minutes(text) for text in ("infinite", "n/a", "30:00", "1:30:00", "1-12:00:00")] == [
        None,
        None,
        30,
        90,
        2160,
    ]
    assert {
        "cpu": check.Partition(True, True, 10080, 380000, set()),
        "gpu": check.Partition(False, True, 2160, 500000, {"a100", "v100"}),
        "short": check.Partition(False, True, 30, 64000, {""}),
        "old": check.Partition(False, False, None, None, set()),
    } == PARTITIONS


@pytest.mark.parametrize(
    ("succeeded", "ping", "version", "said"),
    [
        (
            True,
            "Slurmctld(primary) at head is UP\n",
            "slurm-wlm 22.05.8",
            "ok       SLURM 22.05.8 answers from head",
        ),
        (
            True,
            "Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP",
            "slurm 24.05.1",
            "answers from b",
        ),
        (True, "Slurmctld(primary) at head is DOWN\n", "", "FAILED   SLURM's controller does not answer"),
        (False, "scontrol timed out after 60 s", "", "does not answer (scontrol timed out after 60 s)"),
    ],
)
def test_the_controller(succeeded: bool, ping: str, version: str, said: str) -> None:
    assert said in str(check.judge_controller(Answer(succeeded, ping), version))


LOW: Any = {"max_mem_mb": 1000, "max_runtime": 10}


@pytest.mark.parametrize(
    ("site", "kind", "level", "said"),
    [
        (Site(**LOW), "cpu", "ok", "partition cpu (the default) for the CPU job is up"),
        (Site(gpu_partition="gpu", **LOW), "gpu", "ok", "partition gpu for the GPU job is up"),
        (Site(gpu_partition="gpu,short", gpu_model="v100", **LOW), "gpu", "ok", "gpu,short for the GPU"),
        (Site(partition="cup"), "cpu", "FAILED", "there is no partition cup (did you mean cpu?)"),
        (Site(partition="cup"), "cpu", "FAILED", "set partition to one of cpu, gpu, short in ~/.config/"),
        (Site(partition="old"), "cpu", "FAILED", "partition old is down, or none of its nodes is up"),
        (Site(), "gpu", "FAILED", "partition cpu (the default) has no GPU"),
        (Site(), "gpu", "FAILED", "set gpu_partition to one of gpu, short"),
        (Site(gpu_partition="gpu", gpu_model="a10"), "gpu", "FAILED", "has no GPU a10 (did you mean a100?)"),
        (Site(gpu_partition="gpu", gpu_model="a10"), "gpu", "FAILED", "to one of null, a100, v100"),
        (Site(partition="short", max_runtime=60, max_mem_mb=1), "cpu", "warning", "more than the 30 that"),
        (Site(max_runtime=60, max_mem_mb=700000), "cpu", "warning", "set max_mem_mb: 380000 in ~/.config"),
    ],
)
def test_the_partition_of_a_job(site: Site, kind: Kind, level: str, said: str) -> None:
    assert said in only(check.judge_partition(site, kind, PARTITIONS), level)


def test_no_default_and_no_gpu_anywhere() -> None:
    assert "SLURM has no default" in only(check.judge_partition(Site(), "cpu", {}), "FAILED")
    without = {"cpu": PARTITIONS["cpu"]}
    assert "GPUS=0" in only(check.judge_partition(Site(), "gpu", without), "FAILED")


@pytest.mark.parametrize(
    ("sacct", "config", "status_command", "account", "said"),
    [
        (True, "", "sacct", True, "ok       accounting answers (sacct)"),
        (False, "", "sacct", False, "slurm-status-command: squeue and slurm-no-account: true into profiles/"),
        (False, "", "squeue", True, "FAILED   there is no accounting"),
        (False, "MinJobAge               = 300 sec\n", "squeue", False, "ok       no accounting (sacct)"),
        (False, "MinJobAge = 2 sec\n", "squeue", False, "MinJobAge=120 or more"),
        (False, "", "squeue", False, "warning  no accounting"),
    ],
)
def test_accounting(sacct: bool, config: str, status_command: str, account: bool, said: str) -> None:
    assert said in str(check.judge_accounting(sacct, config, status_command, account))


@pytest.mark.parametrize(
    ("account", "sacct", "accounts", "said"),
    [
        ("Lab", True, ["lab", "other"], "ok "),
        # nothing is known of accounts: sbatch decides
        ("lab", True, [], "ok "),
        ("lib", True, ["other", "lab"], "account lib is none of yours (did you mean lab?)"),
        ("lib", True, ["other", "lab"], "set account to one of lab, other in"),
        ("lab", False, [], "set account: null"),
    ],
)
def test_the_account(account: str, sacct: bool, accounts: list[str], said: str) -> None:
    assert said in str(check.judge_account(account, sacct, accounts))


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("sbatch: error: Batch job submission failed: Invalid account or combination", "set account"),
        ("allocation failure: Invalid partition name specified", "set partition"),
        ("allocation failure: Invalid qos specification", "set qos"),
        ("allocation failure: Job violates accounting/QOS policy", "ask the administrators"),
        ("allocation failure: Requested time limit is invalid", "lower max_runtime"),
        ("sbatch: error: Memory specification can not be satisfied", "lower max_mem_mb"),
        ("sbatch: error: Invalid generic resource (gres) specification", "correct gpu_model"),
        ("allocation failure: Requested node configuration is not available", "no node has what"),
        ("sbatch timed out after 60 s", "try again"),
        ("something new", "look at the values in ~/.config/myostage/site.yaml"),
    ],
)
def test_each_refusal_of_sbatch_has_a_remedy(text: str, advice: str) -> None:
    finding = check.judge_submission("gpu", Answer(False, text), NOW)
    assert str(finding).startswith("FAILED   the GPU job is refused: ")
    assert finding.text.endswith(text.removeprefix("sbatch: error: "))
    assert finding.advice.startswith(advice) or advice in finding.advice
    assert "{" not in finding.advice


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("2026-03-01T11:59:58", "ok       the CPU job is accepted and expected to start at once"),
        ("2026-03-01T12:20:00", "ok       the CPU job is accepted and expected to start in 20 min"),
        ("2026-03-06T12:00:00", "warning  the CPU job is accepted and expected to start in 120.0 h"),
        ("N/A", "SLURM does not say when"),
    ],
)
def test_the_expected_wait(start: str, said: str) -> None:
    text = f"sbatch: Job 3 to start at {start} using 1 processors"
    assert said in str(check.judge_submission("cpu", Answer(True, text), NOW))


def test_sbatch_is_called_as_by_the_executor() -> None:
    plain = ["--mem=4000", "--time=10", "--cpus-per-task=1"]
    assert check.options(Site(), "cpu") == plain
    assert check.options(Site(), "gpu") == [*plain, "--gpus=1"]
    site = Site(account="lab", gpu_partition="g", gpu_model="a100", qos="q", max_mem_mb=2000, max_runtime=5)
    assert check.options(site, "gpu") == [
        "--mem=2000",
        "--time=5",
        "--cpus-per-task=1",
        "--gpus=a100:1",
        "--account=lab",
        "--partition=g",
        "--qos=q",
    ]


def test_no_slurm_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"SLURM is not on this machine \(sbatch, scancel, scontrol, sinfo"):
        list(check.ask_slurm(Site(), ["cpu"], "sacct", account=True))


def test_a_command_that_hangs_or_is_missing_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "COMMAND_SECONDS", 0.2)
    assert check.ask("sleep", "5") == Answer(False, "sleep timed out after 0.2 s")
    assert check.ask("no-such-command") == Answer(False, "no-such-command: no such command")


def test_a_sound_node() -> None:
    assert [str(finding) for finding in check.judge_facts("gpu", facts(), "0123")] == [
        "ok       the GPU job ran on n1 after a wait of 80 s, and its file is seen here",
        "ok       n1 sees files written here at once",
        "ok       Python 3.11.7 starts on n1, and torch 2.9.0 within 8 s",
        "ok       torch computes on the one GPU of the GPU job, NVIDIA A100 (CUDA_VISIBLE_DEVICES=0)",
    ]
    # a CPU job has no GPU, and a job that the controller forgot no known wait
    found = facts(torch__devices=[], visible_devices=None, driver_cuda=0, job="")
    first, *others = check.judge_facts("cpu", found, "0123")
    assert first.text == "the CPU job ran on n1, and its file is seen here"
    assert {finding.level for finding in others} == {"ok"}


NO_GPU: dict[str, Any] = {"torch__devices": []}


@pytest.mark.parametrize(
    ("changed", "level", "said", "advice"),
    [
        ({"token": ""}, "FAILED", "does not see a file written here", "a disk that all nodes mount"),
        ({"torch": None, "error": "ImportError: libc"}, "FAILED", "not: ImportError: libc", "make install"),
        ({"torch__seconds": 100.0}, "warning", "torch 2.9.0 within 2 min", "faster disk"),
        ({**NO_GPU, "driver_cuda": 0}, "FAILED", "on n1: the node has no NVIDIA driver", "set gpu_partition"),
        ({**NO_GPU, "torch__cuda": None}, "FAILED", "it is built without CUDA", "make install"),
        (
            {**NO_GPU, "torch__cuda": "13.2"},
            "FAILED",
            "built for CUDA 13.2, the node's driver supports CUDA 12.4",
            "install a torch built for CUDA 12.4 or older",
        ),
        ({**NO_GPU, "visible_devices": None}, "FAILED", "(CUDA_VISIBLE_DEVICES is not set)", "gres.conf"),
        ({"torch__devices": ["A", "A"]}, "FAILED", "asked for one GPU and sees 2", "ConstrainDevices"),
    ],
)
def test_each_fault_of_a_node_has_a_remedy(
    changed: dict[str, Any], level: str, said: str, advice: str
) -> None:
    text, _, below = only(check.judge_facts("gpu", facts(**changed), "0123"), level).partition("\n")
    assert said in text
    assert advice in below


@pytest.mark.parametrize(
    ("said", "log", "advice"),
    [
        ("SLURM status is: 'OUT_OF_MEMORY'", "Killed", "raise max_mem_mb"),
        (
            "SLURM status is: 'FAILED'",
            "srun: Exceeded\nslurmstepd: exceeded memory limit",
            "raise max_mem_mb",
        ),
        ("SLURM status is: 'NODE_FAIL'", "", "try again, and tell"),
        ("SLURM status is: 'TIMEOUT'", "", "very slow"),
        ("SLURM sbatch failed. The error message was 'x'", "", "look at the values in ~/.config"),
        ("MissingOutputException in rule", "", "latency-wait: 120 in profiles/slurm/config.yaml"),
        ("failed", "bash: /x/.venv/bin/python: No such file or directory", "disk that all nodes mount"),
        ("failed", "ImportError: libc.so.6: version GLIBC_2.34", "make install"),
    ],
)
def test_each_failure_of_a_job_has_a_remedy(said: str, log: str, advice: str) -> None:
    finding = check.judge_failure("cpu", said, log)
    assert finding.text == f"the CPU job failed: {log.splitlines()[-1] if log else 'it printed nothing'}"
    assert advice in finding.advice


def test_only_the_log_of_this_job_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LOGS", tmp_path / "logs")
    for name in ("old", "new"):
        log = tmp_path / f"logs/rule_cluster_check_cpu/{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"the {name} words\n")
    os.utime(tmp_path / "logs/rule_cluster_check_cpu/old.log", (1, 1))
    (tmp_path / "token").write_text("0123")
    os.utime(tmp_path / "token", (1000, 1000))
    (tmp_path / "snakemake.log").write_text("SLURM status is: 'FAILED'")
    (finding,) = check.judge_jobs(tmp_path, ["cpu"], str(tmp_path / "snakemake.log"))
    assert finding.text == "the CPU job failed: the new words"


def test_the_last_line() -> None:
    assert check.closing([check.ok("a")]) == "The cluster can run the workflow."
    assert check.closing([check.warn("b")]) == "The cluster can run the workflow, 1 warning."
    two = [check.fail("a"), check.fail("b"), check.warn("c"), check.warn("d")]
    assert check.closing(two) == "2 checks FAILED, 2 warnings: do what stands below each."


def test_the_probe_collects_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = 'print("hello"); print(\'{"seconds": 1, "version": "2", "cuda": null, "devices": []}\')'
    monkeypatch.setattr(probe, "TORCH", torch)
    monkeypatch.setattr(probe, "TOKEN_SECONDS", 0.2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = probe.collect(tmp_path / "token", gpu=True)
    assert found.keys() == facts().keys()
    assert (found["token"], found["visible_devices"], found["error"]) == ("", "1", "")
    assert found["token_seconds"] > 0.2
    assert found["torch"] == {"seconds": 1, "version": "2", "cuda": None, "devices": []}
    (tmp_path / "token").write_text("0123")
    monkeypatch.setattr(probe, "TORCH", "raise RuntimeError('CUDA error\\nmore advice')")
    found = probe.collect(tmp_path / "token", gpu=True)
    assert (found["token"], found["torch"], found["error"]) == ("0123", None, "RuntimeError: CUDA error")
    monkeypatch.setattr(probe, "TORCH", "import os; os.kill(os.getpid(), 11)")
    assert probe.collect(tmp_path / "token", gpu=True)["error"] == "it ended with exit code -11"

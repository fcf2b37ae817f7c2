"""Dry-runs in this process: what Snakemake would do, at a tenth of the cost of a Snakemake of its own."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from snakemake.api import DAGApi
from snakemake.cli import args_to_api, parse_args

from myostage.runtime.jobs import SHAPE_NONE


@dataclass(frozen=True)
class Plan:
    """What Snakemake printed, and its graph of jobs; ``graph`` is None where it refused to plan."""

    text: str
    graph: Any

    @property
    def jobs(self) -> set[str]:
        """Jobs that would run, as ``rule`` or ``rule:wildcards``; without the target."""
        return {name(job) for job in self.graph.needrun_jobs(exclude_finished=False) if job.output}

    @property
    def rules(self) -> set[str]:
        """Their rules."""
        return {name.partition(":")[0] for name in self.jobs}

    @property
    def runs(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Run -> the job that trains it, and what it is trained from: another value trains it anew."""
        found = {}
        for job in self.graph.jobs:
            if job.rule.name in ("train", "baselines"):
                shared = {key: value for key, value in job.params.items() if key not in SHAPE_NONE}
                found |= {member["run"]: (name(job), shared | member) for member in job.params.runs}
        return found

    def trained(self, before: "Plan") -> set[str]:
        """Runs that are trained anew after ``before`` was carried out."""
        done = before.runs
        return {
            run for run, (_, made_from) in self.runs.items() if run not in done or done[run][1] != made_from
        }

    @property
    def code(self) -> dict[str, str]:
        """Digest of the code of every job of the study, to run or not."""
        return {name(job): getattr(job.params, "code", "") for job in self.graph.jobs if job.output}

    def behind(self, names: set[str]) -> set[str]:
        """Jobs with these names and all that wait for their outputs."""
        found, waiting = set(names), set(names)
        while waiting:
            waiting = {
                name(job)
                for job in self.graph.jobs
                if job.output and waiting & {name(other) for other in self.graph.dependencies[job]}
            } - found
            found |= waiting
        return found


def plan(snakefile: Path, folder: Path, study: Path, *targets: str) -> Plan:
    """A dry-run of ``study`` in ``folder``; an error where Snakemake refuses."""
    planned = _plan(snakefile, folder, study, targets)
    assert planned.graph is not None, planned.text[-4000:]
    return planned


def refusal(snakefile: Path, folder: Path, study: Path, *targets: str) -> str:
    """What Snakemake prints where it refuses to plan."""
    planned = _plan(snakefile, folder, study, targets)
    assert planned.graph is None
    return planned.text


def _plan(snakefile: Path, folder: Path, study: Path, targets: tuple[str, ...]) -> Plan:
    where = [f"--snakefile={snakefile}", f"--directory={folder}", f"--configfile={study}"]
    options = ["--dry-run", "--cores=2", "--resources", "gpu=2"]
    printed = io.StringIO()
    with _graphs() as graphs, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        parser, arguments = parse_args([*where, *targets, *options])
        accepted = args_to_api(arguments, parser)
    return Plan(printed.getvalue(), graphs[0] if accepted else None)


@contextlib.contextmanager
def _graphs() -> Iterator[list[Any]]:
    """Graphs that Snakemake plans meanwhile."""
    graphs = []
    execute = DAGApi.execute_workflow

    def keep(dag: DAGApi, *arguments: Any, **options: Any) -> None:
        execute(dag, *arguments, **options)
        graphs.append(dag.workflow_api._workflow.dag)

    with patch.object(DAGApi, "execute_workflow", keep):
        yield graphs


def name(job: Any) -> str:
    """A job as ``rule`` or ``rule:wildcards``."""
    values = (job.wildcards_dict or {}).values()
    return ":".join([job.rule.name, *map(str, values)])

"""Files that are gone are made again, though everything that was made from them is there.

Snakemake alone makes a missing file only for a job that runs and reads it, and knows receipts, not the files
that they stand for.
"""

import os
from collections.abc import Iterable
from typing import Any

from myostage.errors import UserError
from myostage.runtime import receipts


def remake_lost(workflow: Any) -> None:
    """Let the jobs that a target needs run where files of theirs are gone, and those behind them.

    Snakemake has no setting for this: its option ``--forcerun`` makes a target of every file that it names.

    Parameters
    ----------
    workflow
        Snakemake's, while its Snakefile is read.
    """
    # known to whatever starts Snakemake, and to nothing else of the library
    from snakemake.exceptions import WorkflowError

    prepare = workflow._prepare_dag

    def prepare_and_watch(*arguments: Any, **options: Any) -> None:
        prepare(*arguments, **options)
        graph = workflow.dag
        check = graph.check_incomplete

        async def force_and_check() -> None:
            try:
                gone = lost([list(job.output) for job in graph.jobs])
            except UserError as error:
                raise WorkflowError(str(error)) from None
            for job in graph.jobs:
                # what nothing was made from yet is missing to Snakemake too
                made_from = any(set(later.output) - gone for later in graph.depending[job])
                graph.forcefiles.update(
                    output for output in gone & set(job.output) if made_from or os.path.lexists(output)
                )
            await check()

        # called once the graph is known, and before Snakemake decides which of its jobs run
        graph.check_incomplete = force_and_check

    workflow._prepare_dag = prepare_and_watch


def lost(jobs: Iterable[Iterable[str]]) -> set[str]:
    """Outputs of jobs that are gone, and receipts of which a file is.

    Parameters
    ----------
    jobs
        The outputs of each job. A file that a receipt names and that is an output itself counts as such.

    Raises
    ------
    UserError
        A receipt is damaged.
    """
    outputs = {str(output) for job in jobs for output in job}
    gone = {output for output in outputs if not os.path.lexists(output)}
    for output in outputs - gone:
        receipt = receipts.read(output)
        if receipt and not all(map(os.path.exists, receipt["outputs"].keys() - outputs)):
            gone.add(output)
    return gone

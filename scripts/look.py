"""Draw one figure by its notebook."""

from pathlib import Path
from typing import Any

import papermill

from myostage.runtime import jobs, provenance


def work(smk: Any) -> None:
    papermill.execute_notebook(
        smk.input.notebook,
        smk.log.notebook,
        parameters={
            "scripts": str(provenance.LIBRARY.parent),
            "out": str(Path(smk.output.png).parent.resolve()),
            "name": smk.params.name,
            **smk.params.files,
            **smk.params.more,
        },
        kernel_name="python3",
        progress_bar=False,
        log_output=False,
    )


jobs.run(snakemake, work)

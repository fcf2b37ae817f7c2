"""Check folds and bags before a run trains on them."""

import json
from pathlib import Path
from typing import Any

from myostage import tables
from myostage.learning import precheck
from myostage.runtime import jobs


def work(smk: Any) -> None:
    cells = precheck.check_folds(
        smk.input.splits,
        smk.params.proportions,
        smk.params.stages,
        source=smk.params.source,
        size=smk.params.size,
    )
    with tables.atomic(Path(smk.output[0])) as path:
        path.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")


jobs.run(snakemake, work)

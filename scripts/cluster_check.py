"""Look around on the node of a job of the preflight, and write what is found there."""

import json
from pathlib import Path

from myostage.cluster import check, probe

output = Path(snakemake.output[0])
facts = probe.collect(output.parent / check.TOKEN, snakemake.params.gpu)
output.write_text(json.dumps(facts), encoding="utf-8")

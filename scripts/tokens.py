"""One receipt for the tokens of all slides under one encoder."""

from typing import Any

from myostage.runtime import jobs, receipts


def work(smk: Any) -> None:
    jobs.write_json(smk.output[0], receipts.joined(smk.rule, smk.input))


jobs.run(snakemake, work)

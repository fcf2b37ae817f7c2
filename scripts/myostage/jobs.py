"""How every script of a rule runs: log, errors, and the statement of what made its outputs."""

import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from myostage import provenance, schemas
from myostage.errors import UserError

LAST_LINES = 15


def run(snakemake: Any, work: Callable[[Any], None]) -> None:
    """Do the ``work`` of a rule.

    The log goes to the rule's log file and to the terminal. A mistake of the user ends as one sentence, a
    fault of ours with the last lines of its traceback; both exit with 1. When the work is done, what made its
    outputs is written beside the log as JSON.
    """
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    _start_logging(log, snakemake.rule)
    try:
        work(snakemake)
    except UserError as error:
        logging.getLogger("myostage").error("%s", error)
        sys.exit(1)
    except Exception:
        lines = traceback.format_exc().splitlines()
        logging.getLogger("myostage").debug("%s", "\n".join(lines))
        tail = "\n".join(lines[-LAST_LINES:])
        print(f"{snakemake.rule} failed; the whole story is in {log}, and ends with\n{tail}", file=sys.stderr)
        sys.exit(1)
    statement = provenance.statement(
        snakemake.rule, dict(snakemake.params.items()), _flat(snakemake.input), _flat(snakemake.output)
    )
    with schemas.atomic(log.with_suffix(".json")) as path:
        path.write_text(provenance.to_json(statement) + "\n", encoding="utf-8")


def _flat(files: Any) -> list[str]:
    return [str(file) for file in files]


def _start_logging(log: Path, rule: str) -> None:
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.INFO)
    file = logging.FileHandler(log, mode="w", encoding="utf-8")
    logger = logging.getLogger("myostage")
    logger.setLevel(logging.DEBUG)
    for handler, layout in ((terminal, f"{rule}: %(message)s"), (file, "%(asctime)s %(message)s")):
        handler.setFormatter(logging.Formatter(layout))
        logger.addHandler(handler)
    logger.propagate = False

"""Say in plain words whether this cluster can run the workflow, and how to mend what cannot work.

python scripts/cluster_check.py
"""

import argparse
import contextlib
import signal
import sys
from pathlib import Path

from myostage.cluster import check
from myostage.cluster.facts import closing
from myostage.cluster.site import read_site
from myostage.errors import UserError


def main(results: Path, timeout: float, gpu: bool) -> bool:
    """Print one line per check, and what to do about each that failed; whether none did."""
    site = read_site(Path(__file__).absolute().parent.parent)
    findings = []
    # closing it cancels the jobs, whatever ends this
    with contextlib.closing(check.check(site, results, timeout, gpu)) as checks:
        for finding in checks:
            print(finding, flush=True)
            findings.append(finding)
    print(closing(findings))
    return not any(finding.level == "FAILED" for finding in findings)


STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(*_: object) -> None:
    # once is enough: a second one would break the tidying up
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Say whether this cluster can run the workflow.")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder that the workflow writes to"
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds that the two jobs may take")
    parser.add_argument("--no-gpu", action="store_true", help="send no GPU job")
    options = parser.parse_args()
    for stop in STOPS:
        signal.signal(stop, _stop)
    try:
        sys.exit(0 if main(options.results, options.timeout, not options.no_gpu) else 1)
    except UserError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("stopped; the jobs are cancelled and their files removed", file=sys.stderr)
        sys.exit(130)

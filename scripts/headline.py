"""Say in plain sentences what a study found, and where its report lies.

python scripts/headline.py config/demo.yaml
"""

import argparse
import sys
from pathlib import Path

from myostage import config, report, schemas
from myostage.errors import UserError
from myostage.paths import Paths


def main(study: str) -> None:
    """Print the sentences and the report's path; ``study`` is a name in config/ or a YAML file."""
    file = Path(study) if study.endswith((".yaml", ".yml")) else Path("config") / f"{study}.yaml"
    # Slides may have been moved away since: what is printed needs their results only.
    settings = config.load_study(file, files=False)
    paths = Paths.of(settings.results, settings.study)
    experiments = config.expand(settings)
    if experiments:
        baselines = [name for name, specs in experiments.items() if not specs[0].trained]
        ceilings = [name for name, specs in experiments.items() if specs[0].method == "supervised"]
        table = schemas.read(paths.study("metrics.parquet"), schemas.METRICS)
        print("\n".join(report.headline(table, baselines, ceilings)))
    else:
        print(f"{settings.study} has no experiments of its own: its slides are staged, nothing is measured.")
    found = Path(paths.study("report.zip"))
    print(f"report: {found}" if found.exists() else f"figures: {paths.study('figures')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Say what a study found, and where its report lies.")
    parser.add_argument("study", help="name of a study in config/, or its YAML file")
    try:
        main(parser.parse_args().study)
    except UserError as error:
        sys.exit(str(error))

"""Say in plain sentences what a study found, and where its report lies.

python scripts/headline.py config/demo.yaml
"""

import argparse
import sys
from pathlib import Path

from myostage import tables
from myostage.errors import UserError
from myostage.evaluation import formatting, regimes
from myostage.evaluation.tables import METRICS, WORLDS_COMPARISONS
from myostage.study.load import load_study
from myostage.study.plan import Plan


def main(study: str) -> None:
    """Print the sentences and the report's path; ``study`` is a name in config/ or a YAML file."""
    file = Path(study) if study.endswith((".yaml", ".yml")) else Path("config") / f"{study}.yaml"
    # Slides may have been moved away since: what is printed needs their results only.
    settings = load_study(file, files=False)
    plan = Plan(settings)
    paths = plan.paths
    if plan.experiments:
        parts = plan.structure
        table = tables.read(paths.study("metrics.parquet"), METRICS)
        table = table[table["experiment"].isin(parts["main"])]
        print("\n".join(formatting.state_results(table, parts["baselines"], parts["label_learners"])))
    if plan.slide_experiments:
        table = tables.read(paths.study("slides_metrics.parquet"), METRICS)
        references = plan.slide_structure["references"]
        print("\n".join(formatting.state_slide_results(table, references, settings.compare.slide_metric)))
    if plan.worlds:
        alpha = settings.compare.alpha
        table = tables.read(paths.study("worlds_comparisons.parquet"), WORLDS_COMPARISONS)
        print("\n".join(regimes.state_maps(table, plan.worlds.drawn_maps, settings.compare.metric, alpha)))
    elif not plan.runnable:
        print(f"{settings.study} has no experiments of its own: its slides are staged, nothing is measured.")
    for name, made in (("answers", "summary.html"), ("report", "report.zip"), ("figures", "figures")):
        if Path(paths.study(made)).exists():
            print(f"{name}: {paths.study(made)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Say what a study found, and where its report lies.")
    parser.add_argument("study", help="name of a study in config/, or its YAML file")
    try:
        main(parser.parse_args().study)
    except UserError as error:
        sys.exit(str(error))

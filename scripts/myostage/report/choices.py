"""Which settings the runs chose for themselves, and by what."""

import pandas as pd

from myostage.evaluation.numbers import format_count, format_number

DECIMALS = 3


def describe_choices(choices: pd.DataFrame) -> list[str]:
    """How often each candidate was chosen, by experiment, of CHOICES."""
    sentences = [
        "Runs chose among settings by the KL divergence of given from predicted proportions of training "
        "slides that they held in. No cell label and no held-out animal was read."
    ]
    for experiment, rows in choices.groupby("experiment", sort=False):
        chosen = rows[rows["chosen"]]["settings"].value_counts(sort=False)
        runs = rows["run"].nunique()
        found = [f"{settings} ({format_count(count)} of {runs})" for settings, count in chosen.items()]
        failed = runs - int(chosen.sum())
        found += [f"none, as every candidate diverged ({failed} of {runs})"] if failed else []
        candidates = format_count(rows["candidate"].nunique(), "candidate")
        sentences.append(f"{experiment}, {candidates}: {'; '.join(found)}.")
    return sentences


def tabulate_choices(choices: pd.DataFrame) -> pd.DataFrame:
    """Divergence of every candidate by experiment, fold and seed; the chosen one is marked."""
    marks = choices["chosen"].map({True: " (chosen)", False: ""})
    text = choices["divergence"].map(lambda value: format_number(value, DECIMALS)) + marks
    keys = ["experiment", "fold", "seed"]
    table = choices.assign(text=text).pivot(index=[*keys, "slides"], columns="settings", values="text")
    order = choices["settings"].drop_duplicates()
    return table[order.tolist()].fillna("").reset_index().set_index("experiment")

"""What the paper's first experiments were to show, and whether a study's tables show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from myostage.evaluation.numbers import format_number
from myostage.evaluation.summaries import find_rhos, list_expected_stages

AGREEMENT = 1e-4
WORDS = {True: "PASS", False: "FAIL", None: "NOT DECIDED"}


@dataclass(frozen=True)
class Check:
    """What an experiment was to show, and whether it does; None: the study cannot tell."""

    passed: bool | None
    reason: str

    def __str__(self) -> str:
        return f"{WORDS[self.passed]}: {self.reason}."


def disagreement(gradients: pd.DataFrame) -> pd.Series:
    """Slope minus finite difference, as a share of the gradient's norm: that is how large a slope is."""
    scale = gradients[["slope", "finite_difference", "norm"]].abs().max(axis=1)
    apart = (gradients["slope"] - gradients["finite_difference"]).abs()
    return (apart / scale.where(scale > 0, 1.0)).rename("disagreement")


def encoder_part(gradients: pd.DataFrame) -> str:
    """The part of a model that says whether the encoder learns; of ready-made features their projection."""
    return "projection" if "projection" in set(gradients["part"]) else "attention"


def reaches_attention(gradients: pd.DataFrame) -> Check:
    """Whether L_SimProp's gradient reaches every attention parameter and both gradients are right.

    Of ready-made features, every parameter of their projection.

    ``gradients`` is the GRADIENTS table. Passes when every norm is above 0 and no gradient disagrees with its
    finite difference by 1e-4 or more.
    """
    part = encoder_part(gradients)
    attention = gradients[(gradients["loss"] == "simprop") & (gradients["part"] == part)]
    if attention.empty:
        return Check(None, "the model has no attention parameter")
    missed = attention.loc[~(attention["norm"] > 0), "parameter"].tolist()
    apart = disagreement(gradients)
    # A gradient that is not finite is not below the limit either.
    wrong = gradients.loc[~(apart < AGREEMENT), "parameter"].drop_duplicates().tolist()
    if missed:
        return Check(False, f"L_SimProp's gradient does not reach {', '.join(missed)}")
    if wrong:
        return Check(
            False, f"the gradient of {', '.join(wrong)} is not the finite difference (limit {AGREEMENT:g})"
        )
    return Check(
        True,
        f"L_SimProp's gradient reaches every {part} parameter ({len(attention)} of {len(attention)}), and "
        f"no gradient is further than {AGREEMENT:g} from finite differences",
    )


def rises(given: Mapping[str, Sequence[float]]) -> Check:
    """Whether the expected stage of the given proportions strictly rises from day to day after injury.

    Day 0 is uninjured muscle, a reference, and takes no part. Of several groups of one day, each must lie
    above every group of the day before.
    """
    frame = list_expected_stages(given)
    dated = not frame["day"].isna().any()
    if dated:
        frame = frame[frame["day"] > 0]
    steps = frame.groupby(frame["day"] if dated else np.arange(len(frame)))["expected"].agg(["min", "max"])
    names = [f"day {day:g}" for day in steps.index] if dated else frame["group"].tolist()
    if len(steps) < 2:
        return Check(None, "there are fewer than two days after injury to compare")
    broken = [
        f"from {names[at]} ({format_number(highest)}) to {names[at + 1]} ({format_number(lowest)})"
        for at, (highest, lowest) in enumerate(zip(steps["max"], steps["min"].iloc[1:], strict=False))
        if not lowest > highest
    ]
    order = (
        "day 0 is a reference and takes no part"
        if dated and len(frame) < len(given)
        else "the groups' names hold no day, so that the table's order is taken for the order in time"
        if not dated
        else ""
    )
    aside = f" ({order})" if order else ""
    if broken:
        return Check(False, f"the expected stage does not rise {', nor '.join(broken)}{aside}")
    return Check(True, f"the expected stage of the proportions rises with every step in time{aside}")


def follows_similarity(correlations: pd.DataFrame, experiments: Sequence[str]) -> Check:
    """Whether the cosine of stages follows sim(k, k') after training.

    ``correlations`` is the CORRELATIONS table; the last of ``experiments`` is after training, the first
    before. Passes when the interval of Spearman's rho after training lies above 0. Ranks of a few
    stages may be the same whichever animal is left out: then there is no interval, and nothing is decided.
    """
    found = find_rhos(correlations)
    after = experiments[-1] if len(experiments) else ""
    if after not in found:
        return Check(None, f"{after or 'no experiment'} has no labelled, embedded held-out cell")
    rho = found[after]
    if not np.isfinite([rho.value, rho.low, rho.high]).all():
        return Check(
            None,
            f"rho after training ({after}) is {format_number(rho.value)} and has no interval: no animal "
            "changes it, or stages are missing without one",
        )
    interval = f"[{format_number(rho.low)}, {format_number(rho.high)}]"
    reason = f"the interval of rho after training ({after}), {interval}, "
    reason += "lies above 0" if rho.low > 0 else "does not lie above 0"
    before = experiments[0]
    if before != after and before in found and np.isfinite(found[before].value):
        earlier = found[before].value
        higher = "higher" if rho.value > earlier else "not higher"
        values = f"{format_number(rho.value)} against {format_number(earlier)} of {before}"
        reason += f"; rho is {higher} than before ({values})"
    return Check(rho.low > 0, reason)

"""The section `compare` of a study file."""

from typing import Literal

from myostage.schema import Section, key


class Compare(Section):
    """How experiments are compared: paired over folds and seeds, Holm-corrected."""

    reference: str | None = key(None, "experiment that all others are compared with; none: the first")
    metric: Literal["accuracy", "rmse", "mae", "kappa", "macro_f1", "amae", "rps", "kl", "l1"] = key(
        "accuracy", "what the summary speaks of; all metrics are compared; `kl` where no cell is labelled"
    )
    slides: str | None = key(
        None,
        "experiment of `method: slide` that the others of the same label are compared with; none: the first",
    )
    slide_metric: Literal[
        "bag_auroc", "bag_accuracy", "bag_f1", "bag_kappa", "instance_auroc", "instance_f1"
    ] = key("bag_auroc", "what the summary speaks of for models of slide labels; all metrics are compared")
    alpha: float = key(0.05, "level of the tests, 0 to 1", gt=0, lt=0.5)
    power: float = key(0.8, "power of the minimum detectable difference, 0 to 1", gt=0.5, lt=1)

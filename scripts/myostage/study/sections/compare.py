"""The section `compare` of a study file."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from myostage.schema import Section, Text, key

# Metrics are declared in evaluation/metrics, which is imported by name: the digest of the code behind a run
# follows import statements, and how a metric is computed is no part of a run.
_metrics: Any = import_module("myostage.evaluation.metrics.registry")
MAY_BE_QUOTED: tuple[str, ...] = _metrics.MAY_BE_QUOTED
if TYPE_CHECKING:
    LeadMetric: TypeAlias = str
    LeadSlideMetric: TypeAlias = str
else:
    LeadMetric, LeadSlideMetric = Literal[_metrics.MAY_LEAD], Literal[_metrics.MAY_LEAD_SLIDES]


class Compare(Section):
    """How experiments are compared: paired by animal, fold and seed, Holm-corrected (docs/statistics.md)."""

    reference: Text | None = key(None, "experiment that all others are compared with; none: the first")
    metric: LeadMetric = key(
        "accuracy", "what the summary speaks of; all metrics are compared; `kl` where no cell is labelled"
    )
    slides: Text | None = key(
        None,
        "experiment of `method: slide` that the others of the same label are compared with; none: the first",
    )
    slide_metric: LeadSlideMetric = key(
        "bag_auroc", "what the summary speaks of for models of slide labels; all metrics are compared"
    )
    alpha: float = key(0.05, "level of the tests, 0 to 1", gt=0, lt=0.5)
    power: float = key(0.8, "power of the minimum detectable effect, 0 to 1", gt=0.5, lt=1)

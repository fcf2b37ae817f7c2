"""Every metric by its key, in the order of tables and figures."""

from myostage.evaluation.metrics import (
    attention,
    calibration,
    cells,
    composition,
    expected_stage,
    slide_labels,
)
from myostage.evaluation.metrics.record import Metric

METRICS: dict[str, Metric] = {
    metric.key: metric
    for family in (cells, calibration, composition, expected_stage, slide_labels, attention)
    for metric in family.METRICS
}

# What a study may name as the metric its pages speak of, of models that stage cells and of models of slides.
MAY_LEAD = tuple(
    metric.key for family in (cells, composition) for metric in family.METRICS if metric.may_lead
)
MAY_LEAD_SLIDES = tuple(
    metric.key for family in (slide_labels, attention) for metric in family.METRICS if metric.may_lead
)
# Figures of papers that may stand beside a study's own.
MAY_BE_QUOTED = cells.NAMES

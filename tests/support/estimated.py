"""Columns of METRICS and COMPARISONS that tests of pages and figures leave as they are."""

import numpy as np

VALUE = {
    "method": "animals and runs",
    "trusted": True,
    "low_folds": -0.2,
    "high_folds": 0.3,
    "animals": 8,
}
DIFFERENCE = VALUE | {"tests": 1, "p_folds": np.nan, "p_corrected": np.nan, "animals_needed": np.nan}

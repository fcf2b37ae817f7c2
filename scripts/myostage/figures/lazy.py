"""Pandas, matplotlib and the library's rooms that need them, each imported at its first use.

A figure's record is read whenever the Snakefile is, and must cost no import of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import matplotlib
    import pandas as pd
    from matplotlib import cm as mcm
    from matplotlib import collections as mcollections
    from matplotlib import colors as mcolors
    from matplotlib import lines as mlines
    from matplotlib import patches as mpatches
    from matplotlib import ticker as mticker

    from myostage import tables
    from myostage.evaluation import checks, convergence, formatting, intervals, regimes, selection, summaries
    from myostage.evaluation import comparisons as verdicts
    from myostage.evaluation import cost as costs
    from myostage.evaluation import tables as schemas
    from myostage.evaluation import wrong_tables as wrong
    from myostage.figures import style, views
else:

    class Lazy:
        """Stands for a module until an attribute of it is asked for."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(import_module(self._name), attribute)

    matplotlib, pd, mcm, mcollections, mcolors, mlines, mpatches, mticker = map(
        Lazy,
        (
            "matplotlib",
            "pandas",
            "matplotlib.cm",
            "matplotlib.collections",
            "matplotlib.colors",
            "matplotlib.lines",
            "matplotlib.patches",
            "matplotlib.ticker",
        ),
    )
    tables, style, views = map(Lazy, ("myostage.tables", "myostage.figures.style", "myostage.figures.views"))
    checks, convergence, verdicts, intervals, costs, formatting = map(
        Lazy,
        (
            "myostage.evaluation.checks",
            "myostage.evaluation.convergence",
            "myostage.evaluation.comparisons",
            "myostage.evaluation.intervals",
            "myostage.evaluation.cost",
            "myostage.evaluation.formatting",
        ),
    )
    regimes, selection, summaries, schemas, wrong = map(
        Lazy,
        (
            "myostage.evaluation.regimes",
            "myostage.evaluation.selection",
            "myostage.evaluation.summaries",
            "myostage.evaluation.tables",
            "myostage.evaluation.wrong_tables",
        ),
    )

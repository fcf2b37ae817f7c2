"""Figures as their records draw them, for the tests of all of them."""

from importlib import import_module
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from myostage.figures import style


def draw(key: str, *args: Any, **kwargs: Any) -> Figure:
    """The figure that ``figures/{key}.py`` draws, in the style of all."""
    with matplotlib.rc_context(style.STYLE):
        figure: Figure = import_module(f"myostage.figures.{key}").draw(*args, **kwargs)
    return figure


def title_of(figure: Figure) -> str:
    """Its title on one line."""
    return style.finding(figure)

"""What an experiment may learn by, and the loss terms it may name."""

from typing import TYPE_CHECKING, Literal

from myostage.learning.baseline import BASELINES
from myostage.learning.term import names

LEARNING = ("proportions", "slide", "supervised", "probe")
# learn from cell labels
LABEL_LEARNERS = ("supervised", "probe")

if TYPE_CHECKING:
    Method = str
    TermName = str
else:
    Method = Literal[(*LEARNING, *BASELINES.names())]
    TermName = Literal[tuple(names())]

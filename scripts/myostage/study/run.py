"""A run: the specification of everything that shapes its numbers."""

from functools import cached_property
from typing import Any

from pydantic import PositiveFloat

from myostage.schema import Section, digest
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.graph import Graph
from myostage.study.sections.healthy import Healthy
from myostage.study.sections.mil import Mil
from myostage.study.sections.slide_label import SlideLabel
from myostage.study.sections.training import Training
from myostage.study.terms import LEARNING, Method, Term

FILES = ("model.safetensors", "history.parquet", "predictions.parquet", "outcome.parquet")
# what a model of slide labels leaves beside them
ATTENTION = "attention.parquet"
# keys that change how fast a run is and not what it yields
NOT_IN_RUN_ID: dict[str, Any] = {
    "training": {"checkpoint_every", "cache_mb"},
    "encoder": {"batch_size": True, "dino": {"checkpoint_every"}},
}


class RunSpec(Section):
    """One run: everything that shapes its numbers, and nothing else."""

    method: Method
    losses: dict[Term, PositiveFloat]
    training: Training
    encoder: Encoder
    mil: Mil | None = None
    label: SlideLabel | None = None
    graph: Graph | None = None
    healthy: Healthy | None = None
    folds: int
    fold: int
    seed: int

    @property
    def trained(self) -> bool:
        """Whether the run learns anything; baselines do not."""
        return self.method in LEARNING

    @property
    def head_afterwards(self) -> bool:
        """Whether a head is fitted by L_prop afterwards, since no term of the run's own teaches it."""
        taught = self.losses.keys() & {"prop", "ot", "mse", "dist"}
        ranks = self.losses.keys() & {"simprop", "supcr"}
        return bool(ranks) and not taught and self.training.head == "trained"

    @property
    def files(self) -> tuple[str, ...]:
        """What it leaves in its folder."""
        return (*FILES, ATTENTION) if self.method == "slide" else FILES

    @property
    def spatial(self) -> bool:
        """Whether it needs to know where cells lie."""
        return self.graph is not None

    @cached_property
    def id(self) -> str:
        """Readable label and short hash of the specification."""
        label = "+".join(sorted(self.losses)) if self.method == "proportions" else self.method
        label = self.mil.model if self.mil else label
        return f"{label}-f{self.fold}-s{self.seed}-{digest(self.model_dump(exclude=NOT_IN_RUN_ID))}"

"""A run: the specification of everything that shapes its numbers."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import (
    PositiveFloat,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from myostage.learning.baseline import BASELINES
from myostage.learning.term import TERMS, option_keys, ordered
from myostage.schema import Section, digest
from myostage.study.methods import LABEL_LEARNERS, LEARNING, Method, TermName
from myostage.study.sections.encoder import Encoder, FoldEncoder
from myostage.study.sections.graph import Graph
from myostage.study.sections.healthy import Healthy
from myostage.study.sections.mil import Mil
from myostage.study.sections.slide_label import SlideLabel
from myostage.study.sections.training import Loop, Training

FILES = ("model.safetensors", "history.parquet", "predictions.parquet", "outcome.parquet")
# what a model of slide labels leaves beside them, and a run that chooses its settings
ATTENTION, CHOICES = "attention.parquet", "choices.parquet"
# keys that change how fast a run is and not what it yields
NOT_IN_RUN_ID: dict[str, Any] = {
    "training": {"checkpoint_every", "cache_mb"},
    "encoder": {"batch_size": True, "dino": {"checkpoint_every"}},
}
# keys of `training` that are no part of a run at their default
LATER = ("choose", "classifier", "decay", "clip_by", "drop_path", "prop_bags")
# of a setting that is the weight of a term
WEIGHT = "losses."
# fits the head where no term of the run's own teaches it
HEAD_TERM = "prop"


class RunSpec(Section):
    """One run: everything that shapes its numbers, and nothing else.

    Options of terms that the run does not use are set to their defaults and are no part of what is written,
    so that another value of theirs, or a term that is added, makes no other run.
    """

    method: Method
    losses: dict[TermName, PositiveFloat]
    training: Training
    encoder: FoldEncoder | Encoder
    mil: Mil | None = None
    label: SlideLabel | None = None
    graph: Graph | None = None
    healthy: Healthy | None = None
    folds: int
    fold: int
    seed: int
    _run: str = PrivateAttr("")

    @field_validator("training")
    @classmethod
    def _own_options(cls, training: Training, info: ValidationInfo) -> Training:
        own = _own_keys(info.data.get("losses", {}), training)
        fields = Training.model_fields
        return training.model_copy(update={key: fields[key].default for key in fields.keys() - own})

    @field_serializer("training", mode="wrap")
    def _without_unused(self, training: Training, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        own = _own_keys(self.losses, training)
        return {key: value for key, value in handler(training).items() if key in own}

    @field_serializer("mil", mode="wrap")
    def _without_default_form(self, mil: Mil | None, handler: SerializerFunctionWrapHandler) -> Any:
        written = handler(mil)
        if mil is not None and mil.srmil_form == "plain":
            del written["srmil_form"]  # as before there was another form
        return written

    @property
    def trained(self) -> bool:
        """Whether the run learns anything; baselines do not."""
        return self.method in LEARNING

    @property
    def network(self) -> bool:
        """Whether what learns is a network: it has a seed, a history of steps and an embedding."""
        return self.trained and self.method != "probe"

    @property
    def learns_labels(self) -> bool:
        """Whether it learns from cell labels."""
        return self.method in LABEL_LEARNERS

    @property
    def head_afterwards(self) -> bool:
        """Whether a head is fitted afterwards, since no term of the run's own teaches it."""
        return _head_afterwards(self.losses, self.training)

    @property
    def terms(self) -> list[str]:
        """The terms that the run computes, in their order: its own, and that of a head fitted afterwards."""
        return _terms(self.losses, self.training)

    @property
    def code(self) -> list[Path]:
        """The files of the library that compute its terms, or what it predicts without learning."""
        if not self.trained:
            return [BASELINES.file(self.method)]
        return [TERMS.file(name) for name in self.terms]

    @property
    def files(self) -> tuple[str, ...]:
        """What it leaves in its folder."""
        further = ATTENTION if self.method == "slide" else CHOICES if self.training.choose else None
        return (*FILES, further) if further else FILES

    @property
    def spatial(self) -> bool:
        """Whether it needs to know where cells lie."""
        return self.graph is not None

    @cached_property
    def candidates(self) -> "list[RunSpec]":
        """The run under each of the settings that it chooses from, with its id; or itself."""
        choose = self.training.choose
        return [self._under(settings) for settings in choose.candidates] if choose else [self]

    @property
    def trainings(self) -> "list[RunSpec]":
        """What is trained: every candidate once per part, and at most the longest once more; or itself."""
        choose = self.training.choose
        longest = max(self.candidates, key=lambda candidate: candidate.training.steps)
        return [*(self.candidates * choose.parts if choose else ()), longest]

    def _under(self, settings: Mapping[str, Any]) -> "RunSpec":
        weights = {name.removeprefix(WEIGHT): value for name, value in settings.items() if WEIGHT in name}
        keys = {name: value for name, value in settings.items() if WEIGHT not in name}
        training = {name: getattr(self.training, name) for name in Training.model_fields}
        losses = self.losses | weights
        changed = {"losses": losses, "training": Training(**training | keys | {"choose": None})}
        candidate = RunSpec.model_validate(self.model_dump() | changed)
        candidate._run = self.id
        return candidate

    @cached_property
    def id(self) -> str:
        """Readable label and short hash of the specification."""
        if self._run:
            return self._run
        label = "+".join(sorted(self.losses)) if self.method == "proportions" else self.method
        label = self.mil.model if self.mil else label
        return f"{label}-f{self.fold}-s{self.seed}-{digest(self.model_dump(exclude=NOT_IN_RUN_ID))}"


def _head_afterwards(losses: dict[str, float], training: Training) -> bool:
    teaching = {TERMS[name].teaches for name in losses}
    return "embedding" in teaching and "head" not in teaching and training.head == "trained"


def _terms(losses: dict[str, float], training: Training) -> list[str]:
    return ordered({*losses, HEAD_TERM} if _head_afterwards(losses, training) else losses)


def _own_keys(losses: dict[str, float], training: Training) -> set[str]:
    """The keys of `training` that a run uses: those of the loop, and the options of its terms."""
    fields = Training.model_fields
    unused = {name for name in LATER if getattr(training, name) == fields[name].default}
    return {*Loop.model_fields, *option_keys(_terms(losses, training))} - unused

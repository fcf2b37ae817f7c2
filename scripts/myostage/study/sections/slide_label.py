"""The section `slide_label` of a study file."""

from typing import Literal, Self

from pydantic import model_validator

from myostage.schema import Name, Section, Text, key

LabelKind = Literal["binary", "multiclass", "ordinal"]


class SlideLabel(Section):
    """A label of slides."""

    kind: LabelKind = key(..., "binary: the second class is sought; ordinal: `classes` stand in order")
    column: Name = key("group", "column of the slide table that says the class")
    classes: dict[Name, tuple[Text, ...]] = key(
        ...,
        "class -> values of the column; a slide with another value is not learnt from",
        min_length=2,
        max_length=1000,
    )

    @model_validator(mode="after")
    def _classes(self) -> Self:
        values = [value for listed in self.classes.values() for value in listed]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"classes name {', '.join(twice)} twice; a value belongs to one class")
        if self.kind == "binary" and len(self.classes) != 2:
            raise ValueError(
                f"kind is binary and there are {len(self.classes)} classes; name two, or multiclass"
            )
        return self

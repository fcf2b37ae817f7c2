"""The section `healthy` of a study file."""

from myostage.schema import Name, Section, Text, key


class Healthy(Section):
    """What counts as uninjured: the reference for injured tissue."""

    groups: tuple[Text, ...] = key(..., "groups of uninjured slides", min_length=1, max_length=1000)
    stages: tuple[Name, ...] = key(..., "stages of uninjured cells", min_length=1, max_length=1000)

"""The section `look` of a study file."""

from pydantic import PositiveInt

from myostage.schema import Section, Text, key


class Look(Section):
    """What the figures show."""

    experiment: Text | None = key(None, "experiment of the maps and galleries; none: the first")
    compared: tuple[Text, ...] = key(
        (),
        "experiments whose confusion matrices stand side by side; none: the first four that learn",
        max_length=1000,
    )
    slides: tuple[Text, ...] = key((), "slides drawn as maps; none: the middle one", max_length=1000)
    gallery: PositiveInt = key(8, "crops per stage in the gallery", le=1000)
    attention: tuple[Text, ...] = key(
        (),
        "experiments of `method: slide` whose attention stands side by side, first without Sm; none: the "
        "reference and the first with Sm",
        max_length=1000,
    )

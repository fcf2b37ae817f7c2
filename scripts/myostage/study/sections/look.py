"""The section `look` of a study file."""

from pydantic import PositiveInt

from myostage.schema import Section, key


class Look(Section):
    """What the figures show."""

    experiment: str | None = key(None, "experiment of the maps and galleries; none: the first")
    compared: tuple[str, ...] = key(
        (), "experiments whose confusion matrices stand side by side; none: the first four that learn"
    )
    slides: tuple[str, ...] = key((), "slides drawn as maps; none: the middle one")
    gallery: PositiveInt = key(8, "crops per stage in the gallery")
    attention: tuple[str, ...] = key(
        (),
        "experiments of `method: slide` whose attention stands side by side, first without Sm; none: the "
        "reference and the first with Sm",
    )

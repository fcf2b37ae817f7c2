"""One colour per stage, the same in every figure, map and export.

Stages are ordered, so their colours are: lightness rises from the first stage to the last, which keeps
them apart and in order for every kind of colour vision and in greyscale print.
"""

import numpy as np

# Nine equidistant colours of matplotlib's viridis (CC0), ending short of its yellow, which vanishes on paper.
_ANCHORS = np.array(
    [
        (68, 1, 84),
        (71, 40, 120),
        (62, 74, 137),
        (49, 104, 142),
        (38, 130, 142),
        (31, 158, 137),
        (80, 185, 110),
        (145, 212, 70),
        (236, 229, 40),
    ],
    dtype=np.float64,
)

# Okabe and Ito (2008), for things without order: experiments, loss terms. Black and yellow are left out.
_SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")

BASELINE = "#8c8c8c"
CEILING = "#3a3a3a"
MISSING = "#c9c9c9"


def stage_rgb(stages: int) -> np.ndarray:
    """Colours of ``stages`` ordered stages, uint8[stages, 3], first (dark) to last (light)."""
    if stages < 1:
        raise ValueError(f"a study has at least one stage, not {stages}")
    at = np.linspace(0, len(_ANCHORS) - 1, stages)
    channels = [np.interp(at, np.arange(len(_ANCHORS)), _ANCHORS[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def stage_colours(stages: int) -> tuple[str, ...]:
    """The same colours as ``#rrggbb``."""
    return tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in stage_rgb(stages).tolist())


def series_colours(count: int) -> tuple[str, ...]:
    """Colours of ``count`` unordered series; they repeat after six, so label the series as well."""
    return tuple(_SERIES[number % len(_SERIES)] for number in range(count))


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* (0 black to 100 white) of sRGB colours uint8[..., 3]."""
    linear = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)


def ink(colour: str) -> str:
    """Black or white: whichever is legible on ``colour`` (``#rrggbb``)."""
    rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    return "black" if float(lightness(rgb)) > 58 else "white"

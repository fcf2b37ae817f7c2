"""Measurements of masks whose shape is known by construction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import Polygon
from skimage.draw import disk, polygon

from myostage.cells.shapes import feret, measure, outline, polygon_area


def rectangle(height: int, width: int) -> np.ndarray:
    return np.pad(np.ones((height, width), dtype=bool), 3)


def rotated_ellipse(long: float, short: float, degrees: float) -> np.ndarray:
    y, x = np.mgrid[-100:101, -100:101]
    angle = np.radians(degrees)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (along / long) ** 2 + (across / short) ** 2 <= 1


def test_disc_is_measured_without_bias_in_um() -> None:
    mask = np.zeros((101, 101), dtype=bool)
    mask[disk((50, 50), 40.5)] = True
    shape = measure(mask, mpp=0.5)
    assert shape.area_um2 == pytest.approx(np.pi * 20.25**2, rel=0.005)
    assert shape.perimeter_um == pytest.approx(2 * np.pi * 20.25, rel=0.01)
    assert shape.min_feret_um == pytest.approx(40.5, rel=0.01)
    assert shape.max_feret_um == pytest.approx(40.5, rel=0.015)
    assert shape.circularity > 0.98
    assert shape.solidity > 0.98


@pytest.mark.parametrize("degrees", [0, 17, 45, 80])
def test_feret_diameters_of_an_ellipse_do_not_depend_on_its_angle(degrees: float) -> None:
    shape = measure(rotated_ellipse(60, 25, degrees), mpp=1.0)
    assert shape.min_feret_um == pytest.approx(50, rel=0.025)
    assert shape.max_feret_um == pytest.approx(120, rel=0.02)


def test_rectangle_by_hand() -> None:
    shape = measure(rectangle(10, 40), mpp=2.0)
    assert shape.area_um2 == 10 * 40 * 4
    assert shape.min_feret_um == pytest.approx(20)
    assert shape.solidity == pytest.approx(1)
    # the outline cuts the corners, each by half a px: the diagonal runs from (0, .5) to (40, 9.5)
    assert shape.max_feret_um == pytest.approx(2 * np.hypot(40, 9))


def test_a_notch_lowers_solidity_by_its_share() -> None:
    mask = rectangle(40, 40)
    mask[3:23, 13:33] = False
    assert measure(mask, 1.0).solidity == pytest.approx(0.75, abs=0.01)


def test_outline_starts_from_the_corner_of_the_pixel_grid() -> None:
    mask = np.zeros((5, 7), dtype=bool)
    mask[1:3, 2:6] = True
    points = outline(mask)
    assert points.min(axis=0).tolist() == [2, 1]
    assert points.max(axis=0).tolist() == [6, 3]


def test_one_pixel_is_a_shape() -> None:
    shape = measure(np.ones((1, 1), dtype=bool), mpp=0.5)
    assert shape.area_um2 == 0.25
    assert 0 < shape.min_feret_um <= shape.max_feret_um <= 0.5


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=3, max_size=12))
def test_feret_equals_brute_force_over_all_directions(cloud: list[tuple[float, float]]) -> None:
    hull = Polygon(cloud).convex_hull if len(set(cloud)) > 2 else None
    if hull is None or hull.geom_type != "Polygon" or hull.area < 1:
        return
    vertices = np.asarray(hull.exterior.coords)[:-1]
    angles = np.linspace(0, np.pi, 7200, endpoint=False)
    widths = np.ptp(vertices @ np.stack([np.cos(angles), np.sin(angles)]), axis=0)
    smallest, largest = feret(vertices)
    assert smallest <= widths.min() + 1e-9
    assert smallest == pytest.approx(widths.min(), abs=0.1)
    assert largest == pytest.approx(widths.max(), abs=0.1)


@given(st.integers(0, 2**32 - 1))
def test_outlines_of_neighbouring_masks_share_no_area(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.zeros((40, 40), dtype=bool)
    rows, columns = polygon(*(20 + 15 * rng.standard_normal((2, 6)).clip(-1, 1)), shape=image.shape)
    image[rows, columns] = True
    left, right = image.copy(), image.copy()
    cut = np.clip(np.cumsum(rng.integers(-1, 2, 40)) + 20, 1, 39)
    left[np.arange(40)[None] >= cut[:, None]] = False
    right[np.arange(40)[None] < cut[:, None]] = False
    if not left.any() or not right.any():
        return
    a, b = Polygon(outline(left)), Polygon(outline(right))
    assert a.is_valid and b.is_valid
    assert a.intersection(b).area < 1e-9
    assert a.area == pytest.approx(polygon_area(outline(left)))


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="no outline"):
        outline(np.zeros((4, 4), dtype=bool))

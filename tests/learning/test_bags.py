"""Folds never split an animal; what a step draws depends on seed and step alone."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from myostage import tables
from myostage.cells.tables import CROPS
from myostage.errors import UserError
from myostage.features import tokens
from myostage.features.tokens import TokenStore
from myostage.learning.bags import BagSampler
from myostage.learning.folds import assign_folds, split_slides
from myostage.learning.proportions import perturbed
from myostage.learning.tables import SPLITS

PROPORTIONS = {"d0": np.array([0.0, 1.0]), "d3": np.array([0.75, 0.25])}


def slide_table(rows: list[tuple[str, str, str, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["slide", "group", "animal", "cells"])


# --- folds


def test_every_fold_holds_out_every_group() -> None:
    rows = [
        (f"{day}_{n}", day, f"{day}_{n}", 100 + n)
        for day in ("d0", "d3", "d5", "d7", "d14")
        for n in range(3)
    ]
    slides = slide_table(rows)
    fold = assign_folds(slides, 3)
    assert fold.name == "fold" and fold.dtype == np.int32
    for held_out in range(3):
        assert sorted(slides["group"][fold == held_out]) == sorted({"d0", "d3", "d5", "d7", "d14"})


animals = st.lists(
    st.tuples(st.sampled_from(["d0", "d3", "d7"]), st.integers(1, 500)), min_size=6, max_size=24
)


@given(animals=animals, folds=st.integers(2, 6), slides_each=st.integers(1, 3), shuffle=st.randoms())
def test_folds_split_no_animal_and_balance_every_group(
    animals: list[tuple[str, int]], folds: int, slides_each: int, shuffle: object
) -> None:
    rows = [
        (f"s{number}.{part}", group, f"a{number}", cells)
        for number, (group, cells) in enumerate(animals)
        for part in range(slides_each)
    ]
    slides = slide_table(rows)
    fold = assign_folds(slides, folds)
    assert (slides.assign(fold=fold).groupby("animal")["fold"].nunique() == 1).all()
    assert set(fold) == set(range(folds))
    one_each = slides.assign(fold=fold).drop_duplicates("animal")
    for _, members in one_each.groupby("group"):
        counts = members["fold"].value_counts().reindex(range(folds), fill_value=0)
        assert counts.max() - counts.min() <= 1
    order = list(range(len(slides)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    pd.testing.assert_series_equal(assign_folds(slides.iloc[order], folds), fold.iloc[order])


def test_animals_of_several_groups_stay_whole_and_balanced() -> None:
    """Left muscle injured, right muscle not: both of an animal are held out together."""
    slides = slide_table(
        [(f"{side}{n}", group, f"a{n}", 50) for n in range(6) for side, group in (("l", "d3"), ("r", "d0"))]
    )
    fold = assign_folds(slides, 3)
    assert sorted(fold) == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert (fold[::2].to_numpy() == fold[1::2].to_numpy()).all()


def test_slides_without_group_or_cells_are_staged_only() -> None:
    slides = slide_table([("a", "d0", "1", 9), ("b", "d0", "2", 9), ("c", "", "3", 9), ("d", "d0", "4", 0)])
    assert assign_folds(slides, 2).tolist()[2:] == [-1, -1]
    with pytest.raises(UserError, match="3 folds need as many animals, but only 2 have a group and cells"):
        assign_folds(slides, 3)


def test_splits_table_counts_the_crops(tmp_path: Path) -> None:
    crops = {}
    for count, slide in ((3, "a"), (2, "b"), (1, "c"), (0, "x")):
        pixels = pa.array([bytes(64 * 64 * 3)] * count, pa.binary(64 * 64 * 3))
        table = pa.table([pa.array(range(count), pa.int32()), pixels], schema=CROPS.schema)
        crops[slide] = tmp_path / f"{slide}.parquet"
        tables.write(crops[slide], table, CROPS)
    rows = [("a", "d0", "1"), ("b", "d3", "2"), ("c", None, "3"), ("x", "d0", "4")]
    split_slides(
        pd.DataFrame(rows, columns=["slide", "group", "animal"]), crops, 2, tmp_path / "splits.parquet"
    )
    splits = tables.read(tmp_path / "splits.parquet", SPLITS).set_index("slide")
    assert splits["cells"].to_dict() == {"a": 3, "b": 2, "c": 1, "x": 0}
    assert splits.loc[["c", "x"], "fold"].tolist() == [-1, -1]
    assert set(splits.loc[["a", "b"], "fold"]) == {0, 1}


# --- bags


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenStore]:
    """Slides whose every token says which slide and row it is of."""
    folder = tmp_path_factory.mktemp("tokens")
    made = {}
    for number, (slide, cells) in enumerate({"a": 300, "b": 40, "c": 25, "d": 30}.items()):
        values = torch.arange(cells, dtype=torch.float16)[:, None, None].repeat(1, 2, 4)
        values[:, 1] = number
        with tokens.writer(folder / f"{slide}.parquet", tokens=2, width=4) as out:
            out.write(np.arange(cells, dtype=np.int32), values)
        made[slide] = TokenStore(folder / f"{slide}.parquet")
    return made


FOLDS_OF = slide_table(
    [("a", "d0", "1", 300), ("b", "d0", "2", 40), ("c", "d3", "3", 25), ("d", "d3", "4", 30)]
)


def source(bag: object) -> list[tuple[str, int]]:
    """Slide and row of every cell, read off its tokens."""
    values = bag.tokens  # type: ignore[attr-defined]
    return [
        ("abcd"[int(number)], int(row)) for row, number in zip(values[:, 0, 0], values[:, 1, 0], strict=True)
    ]


@pytest.mark.parametrize("by", ["slide", "group"])
@pytest.mark.parametrize("cache_mb", [0.0, 1e-3, 10.0], ids=["streamed", "part cached", "cached"])
def test_bags_hold_what_they_say(stores: dict[str, TokenStore], by: str, cache_mb: float) -> None:
    sampler = BagSampler(stores, FOLDS_OF, PROPORTIONS, 20, by, seed=3, cache_mb=cache_mb)  # type: ignore[arg-type]
    for step in range(30):
        for bag in sampler.pair(step):
            named = [(slide, int(row)) for slide, rows in bag.rows.items() for row in rows]
            assert source(bag) == named and len(set(named)) == 20
            assert {FOLDS_OF.set_index("slide").loc[slide, "group"] for slide in bag.rows} == {bag.group}
            assert bag.name == (bag.group if by == "group" else next(iter(bag.rows)))
            assert bag.tokens.dtype == torch.float16
            np.testing.assert_array_equal(bag.proportions, PROPORTIONS[bag.group])


def test_a_step_is_the_same_whatever_was_drawn_before(stores: dict[str, TokenStore]) -> None:
    def drawn(sampler: BagSampler, step: int) -> list[list[tuple[str, int]]]:
        return [source(bag) for bag in sampler.pair(step)]

    one = BagSampler(stores, FOLDS_OF, PROPORTIONS, 20, seed=1)
    forth = [drawn(one, step) for step in range(8)]
    shuffled = BagSampler(
        {s: stores[s] for s in "dcba"}, FOLDS_OF.iloc[::-1], PROPORTIONS, 20, seed=1, cache_mb=1
    )
    back = [drawn(shuffled, step) for step in reversed(range(8))][::-1]
    assert forth == back
    assert len({tuple(map(tuple, bags)) for bags in forth}) == 8
    assert forth != [drawn(BagSampler(stores, FOLDS_OF, PROPORTIONS, 20, seed=2), step) for step in range(8)]


def test_groups_are_drawn_alike_however_many_slides_they_have(stores: dict[str, TokenStore]) -> None:
    splits = FOLDS_OF[FOLDS_OF["slide"] != "d"]
    sampler = BagSampler(stores, splits, PROPORTIONS, 20)
    bags = list(itertools.chain.from_iterable(sampler.pair(step) for step in range(400)))
    counts = pd.Series([bag.name for bag in bags]).value_counts()
    # Binomial: 800 draws with p = 1/2 and 1/4 stay within 5 standard deviations of their mean.
    assert abs(counts["c"] - 400) < 5 * (800 * 0.25) ** 0.5
    assert abs(counts["a"] - 200) < 5 * (800 * 0.1875) ** 0.5


def test_bags_of_one_slide_share_no_cell_where_it_has_enough(stores: dict[str, TokenStore]) -> None:
    sampler = BagSampler(stores, FOLDS_OF, PROPORTIONS, 20)
    alike = {"b": [], "c": []}  # type: dict[str, list[int]]
    for step in range(300):
        first, second = sampler.pair(step)
        if first.name == second.name and first.name in alike:
            alike[first.name].append(len(set(source(first)) & set(source(second))))
    assert alike["b"] and max(alike["b"]) == 0  # 40 cells: two disjoint bags of 20
    assert alike["c"] and min(alike["c"]) >= 15  # 25 cells: 15 at least are in both


def test_only_allowed_rows_are_drawn(stores: dict[str, TokenStore]) -> None:
    allowed = {"a": np.array([299, 5, 7, 7]), "c": np.array([24]), "d": np.array([], np.int64)}
    sampler = BagSampler(stores, FOLDS_OF, PROPORTIONS, 1, draw_from=allowed)
    drawn = {cell for step in range(60) for bag in sampler.pair(step) for cell in source(bag)}
    assert drawn == {("a", 5), ("a", 7), ("a", 299), ("c", 24)}


def test_too_few_cells_or_proportions_are_named(stores: dict[str, TokenStore]) -> None:
    with pytest.raises(
        UserError, match=r"50 cells, more than slide b \(40\), c \(25\), d \(30\) .* bags: group"
    ):
        BagSampler(stores, FOLDS_OF, PROPORTIONS, 50)
    assert BagSampler(stores, FOLDS_OF, PROPORTIONS, 50, by="group").groups == ["d0", "d3"]
    with pytest.raises(UserError, match="no row for group d3"):
        BagSampler(stores, FOLDS_OF, {"d0": PROPORTIONS["d0"]}, 20)
    with pytest.raises(UserError, match="no slide with a group and cells"):
        BagSampler(stores, FOLDS_OF[:0], PROPORTIONS, 20)
    with pytest.raises(UserError, match="slide_proportions: no row for slide b, d; add it"):
        BagSampler(
            stores, FOLDS_OF, {"a": np.array([1, 0.0]), "c": np.array([0, 1.0])}, 20, proportions_of="slide"
        )


def test_a_bag_has_the_proportions_of_its_slide(stores: dict[str, TokenStore]) -> None:
    own = {
        slide: np.array([share, 1 - share]) for slide, share in zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True)
    }
    by_slide = BagSampler(stores, FOLDS_OF, own, 20, proportions_of="slide")
    by_group = BagSampler(stores, FOLDS_OF, PROPORTIONS, 20)
    for step in range(20):
        for one, other in zip(by_slide.pair(step), by_group.pair(step), strict=True):
            assert source(one) == source(other)
            np.testing.assert_array_equal(one.proportions, own[one.name])
            np.testing.assert_array_equal(other.proportions, PROPORTIONS[other.group])


# --- wrong proportions


def test_wrong_proportions_lie_between_the_given_and_random_ones() -> None:
    given = {"d0": np.array([0.1, 0.2, 0.7]), "d3": np.array([1.0, 0.0, 0.0])}
    random = perturbed(given, 1.0, 4)
    half = perturbed({"d3": given["d3"], "d0": given["d0"]}, 0.5, 4)
    for name, p in perturbed(given, 0.0, 4).items():
        assert p.tobytes() == given[name].tobytes()
    for name, q in random.items():
        np.testing.assert_allclose(half[name], (given[name] + q) / 2, rtol=1e-12)
        assert q.sum() == pytest.approx(1) and (q >= 0).all()
    assert not np.allclose(random["d0"], random["d3"])
    assert not np.allclose(random["d0"], perturbed(given, 1.0, 5)["d0"])


def test_wrong_proportions_are_drawn_evenly() -> None:
    """Dirichlet(1, ..., 1): mean 1 / K, variance (K - 1) / (K^2 (K + 1))."""
    stages, names = 3, [f"d{n}" for n in range(4000)]
    drawn = np.stack(list(perturbed(dict.fromkeys(names, np.full(stages, 1 / stages)), 1.0, 0).values()))
    variance = (stages - 1) / (stages**2 * (stages + 1))
    assert np.abs(drawn.mean(0) - 1 / stages).max() < 5 * (variance / len(names)) ** 0.5
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.1)


def test_slides_without_any_group_are_staged_only() -> None:
    slides = pd.DataFrame({"slide": ["a", "b"], "group": "", "animal": "m", "cells": [5, 0]})
    assert assign_folds(slides, 5).tolist() == [-1, -1]

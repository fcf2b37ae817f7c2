"""L_prop and MixBag's against slow loops and by hand."""

import math

import pytest
import torch

from myostage.learning.terms import prop
from support.formulas import D3, kl_loop, normal


def test_prop_is_the_formula() -> None:
    logits = normal(9, 5)
    soft = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits.tolist()]
    mean = [sum(column) / 9 for column in zip(*soft, strict=True)]
    assert float(prop.prop(logits, D3)) == pytest.approx(kl_loop(D3, mean), rel=1e-12)
    released = prop.prop(logits, D3, divide="released")
    assert float(released) == pytest.approx(kl_loop(D3, mean) / 5, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: prop.prop(x, D3), (logits.requires_grad_(),))


def test_prop_of_certain_wrong_cells_is_finite() -> None:
    logits = torch.tensor([[200.0, 0, 0]] * 4, requires_grad=True)
    loss = prop.prop(logits, [0, 1, 0])
    assert float(loss.detach()) == pytest.approx(200)
    loss.backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert prop.prop(logits, [1, 0, 0]).item() == 0


def test_prop_sees_proportions_and_no_cell() -> None:
    logits = torch.tensor([[50.0, 0], [0, 50.0], [0, 50.0], [50.0, 0]])
    assert float(prop.prop(logits, [0.5, 0.5])) == pytest.approx(0, abs=1e-6)
    assert float(prop.prop(logits, [0.75, 0.25])) > 0.1


def test_mixed_prop_is_prop_where_no_stage_is_within_its_interval() -> None:
    # Both bags hold one stage alone: no sampling error, every interval is a point.
    logits = normal(9, 3)
    for a, b, cells_a in (([1, 0, 0], [0, 1, 0], 3), ([0, 0, 1], [1, 0, 0], 6)):
        expected = [(cells_a * x + (9 - cells_a) * y) / 9 for x, y in zip(a, b, strict=True)]
        found = prop.mixed_prop(logits, cells_a, a, b)
        assert float(found) == pytest.approx(float(prop.prop(logits, expected)), rel=1e-12)
        released = prop.mixed_prop(logits, cells_a, a, b, divide="released")
        assert float(released) == pytest.approx(float(found) / 3, rel=1e-12)


@pytest.mark.parametrize(
    ("share", "inside"), [(0.5, True), (0.66, True), (0.661, False), (0.34, True), (0.339, False)]
)
def test_interval_of_a_mixed_bag_by_hand(share: float, inside: bool) -> None:
    # 25 of 100 cells from p = .8, 75 from .4: expected .5, half-width
    # 2.5758 (.25 sqrt(.8 .2 / 25) + .75 sqrt(.4 .6 / 75)) = .1608.
    logits = torch.tensor([[share, 1 - share]], dtype=torch.float64).log().expand(100, 2)
    found = float(prop.mixed_prop(logits, 25, [0.8, 0.2], [0.4, 0.6]))
    expected = 0.0 if inside else kl_loop([0.5, 0.5], [share, 1 - share])
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_mixed_prop_pulls_down_a_share_that_alone_is_too_large() -> None:
    # Stage 0 is above its interval, the others just within theirs.
    p = [0.4, 0.3, 0.3]
    half = 2.5758 * math.sqrt(0.24 / 40)  # both halves of 80 cells
    q = [0.4 + 1.05 * half, 0.3 - 0.525 * half, 0.3 - 0.525 * half]
    logits = torch.tensor([q], dtype=torch.float64).log().repeat(80, 1).requires_grad_()
    loss = prop.mixed_prop(logits, 40, p, p)
    assert float(loss.detach()) == pytest.approx(0.4 * math.log(0.4 / q[0]) - 0.4 + q[0], rel=1e-9)
    assert float(loss.detach()) > 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, 0] > 0).all() and (gradient[:, 1:] < 0).all()
    assert torch.autograd.gradcheck(
        lambda x: prop.mixed_prop(x, 4, p, p), (4 * normal(6, 3).requires_grad_(),)
    )


def test_mixbag_mixes_the_first_cells_of_both_bags() -> None:
    logits_a, logits_b = normal(5, 3), normal(7, 3, seed=1)
    p_a, p_b = [1, 0, 0], [0, 0.5, 0.5]
    mixtures = [
        prop.mixed_prop(torch.cat([logits_a[:n], logits_b[: 5 - n]]), n, p_a, p_b) for n in range(1, 5)
    ]
    torch.manual_seed(0)
    found = [float(prop.mixbag(logits_a, logits_b, p_a, p_b)) for _ in range(160)]
    counts = [sum(abs(x - float(mixture)) < 1e-12 for x in found) for mixture in mixtures]
    assert sum(counts) == 160 and min(counts) > 18  # 40 each, four standard deviations are 22
    repeated = [
        float(prop.mixbag(logits_a, logits_b, p_a, p_b, generator=torch.Generator().manual_seed(3)))
        for _ in range(2)
    ]
    assert repeated[0] == repeated[1]


def test_mixtures_that_are_none_are_refused() -> None:
    for cells_a in (0, 4, -1):
        with pytest.raises(ValueError, match="no mixture"):
            prop.mixed_prop(normal(4, 2), cells_a, [0.5, 0.5], [1, 0])
    with pytest.raises(ValueError, match="cannot be mixed"):
        prop.mixbag(normal(1, 2), normal(4, 2), [0.5, 0.5], [1, 0])
    with pytest.raises(ValueError, match="proportions"):
        prop.mixed_prop(normal(4, 2), 2, [0.5, 0.5], [1, 0, 0])

"""The cell term against its definition."""

import itertools

import pytest
import torch

from myostage.learning.terms import cell
from support.formulas import normal


def test_cell_is_the_definition_and_not_its_misprinted_expansion() -> None:
    z_i, z_w, z_p = normal(3, 4), normal(4, seed=1), normal(3, 4, seed=2)
    rows = [(z_i[b, d] - (z_w[d] + z_p[b, d])).item() ** 2 for b, d in itertools.product(range(3), range(4))]
    found = float(cell.cell(z_i, z_w, z_p))
    assert found == pytest.approx(sum(rows) / 12, rel=1e-12)
    misprint = float((z_w - (z_w + z_p)).square().mean())  # that is z_P alone
    assert abs(found - misprint) > 0.1
    assert float(cell.cell(z_w + z_p, z_w, z_p)) == pytest.approx(0, abs=1e-30)
    inputs = tuple(z.requires_grad_() for z in (z_i, z_w, z_p))
    assert torch.autograd.gradcheck(cell.cell, inputs)


def test_cell_refuses_what_would_be_broadcast() -> None:
    z_i, z_w, z_p = normal(3, 3), normal(3), normal(3, 3)
    for shapes in (
        (z_i, z_w[None], z_p),
        (z_i, z_w, z_p[:1]),
        (z_i[0], z_w, z_p[0]),
        (z_i[:0], z_w, z_p[:0]),
    ):
        with pytest.raises(ValueError, match="compared"):
            cell.cell(*shapes)

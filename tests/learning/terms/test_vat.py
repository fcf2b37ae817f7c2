"""Adversarial consistency: its direction, its gradient, its precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from myostage.learning.terms import vat
from support.formulas import normal


def kl_of_logits(clean: Tensor, other: Tensor) -> Tensor:
    p, log_q = clean.softmax(1), other.log_softmax(1)
    return (p * (p.log() - log_q)).sum(1).mean()


def classifier(seed: int = 0) -> torch.nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))


def test_vat_perturbs_a_linear_classifier_of_two_stages_along_its_weights() -> None:
    # Its prediction depends on one direction alone; the random start decides about the sign.
    x, weight = normal(8, 6), normal(6, 2, seed=1)
    direction = F.normalize(weight[:, 0] - weight[:, 1], dim=0)
    for cell in x.split(1):
        step = 0.1 * cell.norm() * direction
        possible = [float(kl_of_logits(cell @ weight, (cell + sign * step) @ weight)) for sign in (1, -1)]
        found = float(vat.vat(lambda y: y @ weight, cell, cell @ weight, radius=0.1))
        assert min(abs(found - value) for value in possible) < 1e-9


@pytest.mark.parametrize("shape", [(40, 12), (40, 5, 12)])
def test_vat_is_worse_than_any_random_direction_of_its_length(shape: tuple[int, ...]) -> None:
    model, x = classifier(), normal(*shape, dtype=torch.float32)
    torch.manual_seed(0)

    def forward(inputs: Tensor) -> Tensor:
        return model(inputs if inputs.ndim == 2 else inputs.mean(1))

    with torch.no_grad():
        logits = forward(x)
        lengths = 0.2 * x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
        randoms = []
        for seed in range(20):
            r = normal(*shape, seed=seed, dtype=torch.float32)
            r *= lengths / r.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
            randoms.append(float(kl_of_logits(logits, forward(x + r))))
    found = float(vat.vat(forward, x, logits, radius=0.2).detach())
    assert found > max(randoms) > 0
    assert found > float(vat.vat(forward, x, logits, radius=0.1).detach()) > 0


def test_vat_of_a_constant_classifier_is_zero() -> None:
    constant = torch.ones(3, requires_grad=True)
    x = normal(8, 4, dtype=torch.float32)
    loss = vat.vat(lambda y: 0 * y[:, :3] + constant, x, constant.expand(8, 3), radius=0.5)
    loss.backward()
    assert float(loss.detach()) == 0
    assert constant.grad is not None and torch.isfinite(constant.grad).all()


def test_vat_reaches_the_parameters_and_not_through_the_clean_branch() -> None:
    model = classifier()
    x = normal(8, 12, dtype=torch.float32).half().requires_grad_()
    logits = model(x.float())
    logits.retain_grad()
    torch.manual_seed(5)
    loss = vat.vat(model, x, logits, radius=0.1)
    assert loss.dtype == torch.float32
    loss.backward()
    assert logits.grad is None and x.grad is None
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)
    torch.manual_seed(5)
    assert torch.equal(vat.vat(model, x, logits, radius=0.1), loss)
    torch.manual_seed(6)
    assert not torch.equal(vat.vat(model, x, logits, radius=0.1), loss)


def test_vat_computes_in_float32_within_autocast() -> None:
    model, x = classifier(), normal(8, 12, dtype=torch.float32)
    logits = model(x).detach()
    generators = (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1))
    outside = vat.vat(model, x, logits, radius=0.1, generator=generators[0])
    with torch.autocast("cpu", torch.bfloat16):
        inside = vat.vat(model, x, logits, radius=0.1, generator=generators[1])
    assert torch.equal(inside, outside)

"""The soft histogram against a slow loop, its gradients, and all pairs of large bags in little memory."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from myostage.learning import histogram
from myostage.learning.histogram import log_pair_histogram, log_soft_histogram, soft_histogram
from support.formulas import histogram_loop, normal

SCRIPTS = Path(histogram.__file__).parents[2]


@given(
    s=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    bins=st.integers(2, 40),
    sigma=st.floats(0.05, 2),
    data=st.data(),
)
def test_histogram_is_the_formula(s: list[float], bins: int, sigma: float, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.01, 5), min_size=len(s), max_size=len(s)))
    found = soft_histogram(
        torch.tensor(s, dtype=torch.float64), bins, sigma, torch.tensor(weights, dtype=torch.float64)
    )
    assert found.tolist() == pytest.approx(histogram_loop(s, weights, bins, sigma), abs=1e-12)


@given(
    s=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30),
    bins=st.integers(2, 64),
    log_sigma=st.floats(-12, 2),
)
@example(s=[0.5], bins=2, log_sigma=-3.0)  # both logarithms are -31250, which float32 holds to .002
def test_histogram_sums_to_one_and_has_finite_gradients_for_any_sigma(
    s: list[float], bins: int, log_sigma: float
) -> None:
    similarities = torch.tensor(s, dtype=torch.float32, requires_grad=True)
    log = log_soft_histogram(similarities, bins, 10**log_sigma)
    assert torch.isfinite(log).all()
    assert float(log.exp().sum().detach()) == pytest.approx(1, abs=1e-5)
    log.sum().backward()
    assert similarities.grad is not None
    assert torch.isfinite(similarities.grad).all()


def test_narrow_kernel_counts() -> None:
    s = torch.tensor([0.25, 0.25, 0.75, 0.25])
    assert soft_histogram(s, 2, 1e-6).tolist() == pytest.approx([0.75, 0.25], abs=1e-6)


def test_weight_zero_takes_no_part() -> None:
    s = torch.tensor([0.1, 0.9], dtype=torch.float64, requires_grad=True)
    some = soft_histogram(s, 6, 0.1, torch.tensor([0.0, 3.0]))
    assert torch.allclose(some, soft_histogram(s[1:], 6, 0.1), atol=1e-15)
    some[5].backward()
    assert s.grad is not None
    assert s.grad[0] == 0 and s.grad[1] != 0


def test_histogram_gradient_by_finite_differences() -> None:
    s = torch.rand(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_soft_histogram(x, 5, 0.1), (s,))
    assert torch.autograd.gradcheck(lambda x: soft_histogram(x, 2, 0.3, torch.ones(3, 4)), (s,))


def test_blocks_of_bins_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[Tensor, Tensor]:
        s = normal(40).sigmoid().requires_grad_()
        log = log_soft_histogram(s, 7, 0.1)
        return log.detach(), torch.autograd.grad(log[3], s)[0]

    whole = run()
    monkeypatch.setattr("myostage.learning.histogram.BLOCK", 80)
    assert all(torch.allclose(a, b, atol=1e-14) for a, b in zip(whole, run(), strict=True))


@pytest.mark.parametrize(
    ("bins", "sigma", "size"), [(1, 0.1, 3), (6, 0.0, 3), (6, math.nan, 3), (6, math.inf, 3), (6, 0.1, 0)]
)
def test_histogram_refuses(bins: int, sigma: float, size: int) -> None:
    with pytest.raises(ValueError, match=r"histogram|sigma"):
        soft_histogram(torch.rand(size), bins, sigma)


# --- all pairs


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(normal(*shape, seed=seed), dim=1)


def value_and_gradients(log: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """With a gradient that differs from bin to bin."""
    return log.detach(), *torch.autograd.grad(log @ torch.arange(1.0, len(log) + 1, dtype=log.dtype), (u, v))


@pytest.mark.parametrize(("bins", "sigma"), [(2, 0.5), (6, 0.1), (31, 1e-3)])
@pytest.mark.parametrize("block", [1, 20, 63, 2**18])
def test_pairs_are_the_plain_formula(
    bins: int, sigma: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    u, v = unit(9, 5).requires_grad_(), unit(7, 5, seed=1).requires_grad_()
    s = (1 + u @ v.T) / 2
    centres = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    log_mass = (-((s.reshape(-1, 1) - centres) ** 2) / (2 * sigma**2)).logsumexp(0)
    plain = value_and_gradients(log_mass.log_softmax(0), u, v)
    monkeypatch.setattr(histogram, "BLOCK", block)
    found = value_and_gradients(log_pair_histogram(u, v, bins, sigma), u, v)
    for one, other in zip(found, plain, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


@pytest.mark.parametrize("block", [16, 2**18])
def test_gradient_of_pairs_by_finite_differences(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "BLOCK", block)
    u, v = unit(5, 4).requires_grad_(), unit(6, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: log_pair_histogram(a, b, 5, 0.1), (u, v))
    assert torch.autograd.gradcheck(lambda a: log_pair_histogram(a, a, 5, 0.1), (u,))


@pytest.mark.parametrize("block", [16, 2**18])
def test_pairs_give_a_gradient_only_where_it_is_needed(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "BLOCK", block)
    u, v = unit(5, 4).requires_grad_(), unit(6, 4, seed=1).requires_grad_()
    both = torch.autograd.grad(log_pair_histogram(u, v, 5, 0.1)[0], (u, v))
    (only_u,) = torch.autograd.grad(log_pair_histogram(u, v.detach(), 5, 0.1)[0], u)
    (only_v,) = torch.autograd.grad(log_pair_histogram(u.detach(), v, 5, 0.1)[0], v)
    assert torch.equal(only_u, both[0]) and torch.equal(only_v, both[1])


def test_pairs_refuse_an_empty_bag() -> None:
    with pytest.raises(ValueError, match="no similarities"):
        log_pair_histogram(unit(3, 2), torch.empty(0, 2), 6, 0.1)


LARGE_BAGS = """
import torch
from myostage.learning.terms.simprop import simprop

def peak_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

def step(cells, bins):
    simprop(u[:cells], v, p, q, sigma=0.1, bins=bins).backward()

torch.set_num_threads(1)
p, q = [0.59, 0.41, 0, 0, 0], [0.17, 0.28, 0.55, 0, 0]
u, v = (torch.randn(4_000, 96, requires_grad=True) for _ in range(2))
step(9, 6)  # loads what torch loads late
before = peak_mb()
step(4_000, 6)
step(500, 50)
print(peak_mb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_bags_of_thousands_need_little_memory() -> None:
    # With 50 bins fewer rows: more of them take more time and no more memory.
    done = subprocess.run(
        [sys.executable, "-c", LARGE_BAGS], cwd=SCRIPTS, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 40, "MB; a number per pair is 64, one per pair and bin 400"

"""What smooths values over a graph: Sm (arXiv 2410.03276), random walk, total variation.

For all operators alpha lies between 0 (nothing is smoothed) and 1, and gamma = alpha / (1 - alpha) weighs the
roughness against the distance from the values. Whatever autocast is on, they are computed in float32 (in
float64 where the values are).
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from myostage.spatial.graph import CellGraph
from myostage.spatial.sparse import multiply, product
from myostage.study.sections.mil import SmOperator

Alpha = float | Tensor

# Relative residual at which conjugate gradients stop, above what rounding leaves in each dtype.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
# Rounding delays conjugate gradients beyond the steps that the condition number allows.
DELAY = 2


def sm(values: Tensor, graph: CellGraph, alpha: Alpha, steps: int) -> Tensor:
    """Sm in T steps: G_0 = U, G_t = alpha D^-1/2 A D^-1/2 G_{t-1} + (1 - alpha) U (arXiv 2410.03276).

    Approaches :func:`sm_exact`: what is missing shrinks by alpha with every step. Time and memory grow with
    the edges; the gradient of alpha is carried along in one more product a step, so memory does not grow
    with the steps.

    Parameters
    ----------
    values
        U, [n] or [n, D].
    graph
        Of n cells; the values of isolated ones stay.
    alpha
        How much is smoothed, above 0 and below 1; a 0-d tensor where it is learnt.
    steps
        T, at least 1.

    Returns
    -------
    Tensor
        As ``values``; differentiable once in values and alpha.

    Raises
    ------
    ValueError
        alpha or steps out of range, values that are not one row per cell.
    """
    _check(alpha, steps)
    u = graph.columns(values)
    # autograd tells its functions that a parameter wants a gradient even where gradients are off
    learnt = alpha if torch.is_grad_enabled() else _number(alpha)
    smoothed: Tensor = _Sm.apply(u, learnt, graph.operator("symmetric", u.dtype), steps)
    return smoothed.reshape(values.shape)


def sm_exact(values: Tensor, graph: CellGraph, alpha: Alpha) -> Tensor:
    """Sm itself, (I + gamma L)^-1 U with L = I - D^-1/2 A D^-1/2, by conjugate gradients (arXiv 2410.03276).

    They run until the residual of every column is 1e-6 (float64: 1e-12) of its right-hand side; in float32
    that takes fewer than ten times sqrt((1 + alpha) / (1 - alpha)) steps, and the gradient as many again.

    Parameters
    ----------
    values, graph, alpha
        As in :func:`sm`.

    Returns
    -------
    Tensor
        As ``values``; differentiable once in values and alpha.

    Raises
    ------
    ValueError
        alpha out of range, values that are not one row per cell.
    RuntimeError
        Rounding kept the residual above its goal: alpha is too near to 1 for the dtype.
    """
    _check(alpha)
    u = graph.columns(values)
    if not u.numel():
        return u.reshape(values.shape)
    smoothed: Tensor = _SmExact.apply(u, alpha, graph.operator("symmetric", u.dtype))
    return smoothed.reshape(values.shape)


def random_walk(values: Tensor, graph: CellGraph, alpha: Alpha, steps: int) -> Tensor:
    """As :func:`sm` with D^-1 A: means over neighbours, so that a constant stays what it is."""
    # D^-1 A = D^-1/2 (D^-1/2 A D^-1/2) D^1/2
    u = graph.columns(values)
    root = graph.root_degree(u)
    return (sm(u * root, graph, alpha, steps) / root).reshape(values.shape)


def total_variation(values: Tensor, graph: CellGraph, alpha: Alpha, steps: int) -> Tensor:
    """argmin over G of 1/2 ||G - U||^2 + gamma sum over pairs of neighbours |g_i - g_j|, column by column.

    T steps of Chambolle's dual projection (J. Math. Imaging Vis. 20, 2004): with K the differences along the
    pairs and q their multipliers, G = U - K^T q and q <- (q + tau K G) / (1 + tau |K G| / gamma). The width
    of a step, tau = 1 / (d_i + d_j), is small enough for each pair by Gershgorin's theorem.

    Few steps do not reach the minimum where alpha is large, since a step carries a value no farther than to
    the neighbours. Of the distance between U and the minimum there remained, for 1,000 cells with 8
    neighbours and values of variance 1, noise or two halves with noise:

    ====== ============ ============= =============
    steps  alpha .1     alpha .5      alpha .9
    ====== ============ ============= =============
    10     11 to 20 %   17 to 45 %    15 to 89 %
    200    .5 to 3 %    4 to 22 %     3 to 64 %
    1,000  .04 to .6 %  1 to 4 %      1 to 28 %
    ====== ============ ============= =============

    Not linear, unlike the other operators: the smaller the values, the more of them gamma flattens. With
    gradients it keeps some tensors of [pairs, D] for every step.

    Parameters
    ----------
    values, graph, alpha, steps
        As in :func:`sm`.

    Returns
    -------
    Tensor
        As ``values``; differentiable through the steps.

    Raises
    ------
    ValueError
        As :func:`sm`.
    """
    _check(alpha, steps)
    u = graph.columns(values)
    weight = alpha.to(u) if isinstance(alpha, Tensor) else alpha
    gamma = weight / (1 - weight)
    differences, transpose = graph.incidence(u.dtype)
    tau = 1 / graph.degree.to(u)[graph.pairs].sum(0)[:, None]  # [m / 2, 1]
    q = u.new_zeros(len(tau), u.shape[1])
    smoothed = u
    for _ in range(steps):
        rise = tau * product(smoothed, differences, transpose)
        q = (q + rise) / (1 + rise.abs() / gamma)
        smoothed = u - product(q, transpose, differences)
    return smoothed.reshape(values.shape)


class Smoother(nn.Module):
    """An operator with its alpha, given or learnt.

    Parameters
    ----------
    operator
        ``sm``, ``sm_exact``, ``random_walk`` or ``total_variation``.
    alpha
        How much is smoothed, above 0 and below 1, or ``trainable``: the sigmoid of a parameter that starts
        at 0, so that alpha starts at 1/2 and cannot leave its range.
    steps
        T, at least 1; ``sm_exact`` takes as many as it needs.

    Raises
    ------
    ValueError
        An unknown operator, alpha or steps out of range.
    """

    def __init__(self, operator: SmOperator, alpha: float | Literal["trainable"], steps: int) -> None:
        super().__init__()
        if operator not in get_args(SmOperator):
            raise ValueError(f"operator is one of {', '.join(get_args(SmOperator))}, not {operator!r}")
        self.operator = operator
        self.steps = steps
        self.theta = nn.Parameter(torch.zeros(())) if alpha == "trainable" else None
        self.given = None if alpha == "trainable" else alpha
        _check(self.alpha, steps)

    @property
    def alpha(self) -> Alpha:
        """How much is smoothed: a number, or a 0-d tensor where it is learnt."""
        if self.theta is not None:
            return self.theta.sigmoid()
        assert self.given is not None
        return self.given

    def forward(self, values: Tensor, graph: CellGraph) -> Tensor:
        """Smoothed ``values`` [n] or [n, D]."""
        if self.operator == "sm_exact":
            return sm_exact(values, graph, self.alpha)
        smooth = {"sm": sm, "random_walk": random_walk, "total_variation": total_variation}[self.operator]
        return smooth(values, graph, self.alpha, self.steps)

    def extra_repr(self) -> str:
        return f"{self.operator}, alpha={self.given or 'trainable'}, steps={self.steps}"


class _Sm(torch.autograd.Function):
    """The recursion of :func:`sm`: a polynomial of a symmetric matrix, so its own adjoint."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, alpha: Alpha, matrix: Tensor, steps: int) -> Tensor:
        ctx.matrix, ctx.alpha, ctx.steps = matrix, _number(alpha), steps
        slope = torch.zeros_like(values) if ctx.needs_input_grad[1] else None  # dG_t / d alpha
        smoothed = values
        for _ in range(steps):
            if slope is not None:
                slope = multiply(matrix, smoothed + ctx.alpha * slope, values, beta=-1)
            smoothed = multiply(matrix, smoothed, values, beta=1 - ctx.alpha, scale=ctx.alpha)
        ctx.save_for_backward(slope)
        return smoothed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        to_values = None
        if ctx.needs_input_grad[0]:
            to_values = grad
            for _ in range(ctx.steps):
                to_values = multiply(ctx.matrix, to_values, grad, beta=1 - ctx.alpha, scale=ctx.alpha)
        return to_values, None if slope is None else (grad * slope).sum(), None, None


class _SmExact(torch.autograd.Function):
    """X with (I - alpha S) X = (1 - alpha) U, S the symmetric operator: :func:`sm_exact` times 1 - alpha."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, alpha: Alpha, matrix: Tensor) -> Tensor:
        ctx.matrix, ctx.alpha = matrix, _number(alpha)
        smoothed = _conjugate_gradients(matrix, values, ctx.alpha)
        ctx.save_for_backward(*([values, smoothed] if ctx.needs_input_grad[1] else []))
        return smoothed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        adjoint = _conjugate_gradients(ctx.matrix, grad, ctx.alpha)
        to_alpha = None
        if ctx.needs_input_grad[1]:
            values, smoothed = ctx.saved_tensors
            # from (I - alpha S) dX = (S X - U) d alpha
            to_alpha = (adjoint * multiply(ctx.matrix, smoothed, values, beta=-1)).sum() / (1 - ctx.alpha)
        return adjoint, to_alpha, None


def _conjugate_gradients(matrix: Tensor, values: Tensor, alpha: float) -> Tensor:
    """X with (I - alpha S) X = (1 - alpha) U, every column of U [n, D] with step widths of its own.

    The method of Hestenes and Stiefel (J. Res. Natl. Bur. Stand. 49, 1952).
    """
    tolerance = TOLERANCE[values.dtype]
    root_condition = math.sqrt((1 + alpha) / (1 - alpha))
    limit = DELAY * math.ceil(root_condition / 2 * math.log(2 * root_condition / tolerance))
    # so that squares of small gradients do not underflow
    scale = _or_one(values.abs().amax(0))
    wanted = values / scale
    goal = ((1 - alpha) * tolerance) ** 2 * wanted.square().sum(0)
    # from U itself, where isolated cells have no residual and so never move
    x = wanted.clone()
    residual = alpha * multiply(matrix, wanted, wanted, beta=-1)
    direction = residual.clone()
    size = residual.square().sum(0)
    for _ in range(limit):
        image = multiply(matrix, direction, direction, scale=-alpha)
        width = size / _or_one((direction * image).sum(0))
        x.addcmul_(width, direction)
        residual.addcmul_(width, image, value=-1)
        before, size = size, residual.square().sum(0)
        direction.mul_(size / _or_one(before)).add_(residual)
        # a column that is not finite stays so, as in any product
        if bool(((size <= goal) | size.isnan()).all()):
            return x * scale
    raise RuntimeError(f"conjugate gradients did not reach {tolerance:g} in {limit} steps at alpha {alpha:g}")


def _or_one(x: Tensor) -> Tensor:
    """What to divide by: ``x``, or 1 where it is 0 (and so is what is divided)."""
    return torch.where(x > 0, x, torch.ones_like(x))


def _number(alpha: Alpha) -> float:
    return float(alpha.detach() if isinstance(alpha, Tensor) else alpha)


def _check(alpha: Alpha, steps: int = 1) -> None:
    if not 0 < _number(alpha) < 1:
        raise ValueError(f"alpha lies above 0 and below 1, not {_number(alpha):g}")
    if steps < 1:
        raise ValueError(f"steps are 1 or more, not {steps}")

"""Sparse matrices of a graph times dense values, the same under any autocast."""

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def csr(rows: Tensor, columns: Tensor, weights: Tensor, shape: tuple[int, int]) -> Tensor:
    order = torch.argsort(rows * shape[1] + columns)
    starts = torch.zeros(shape[0] + 1, dtype=torch.int64, device=rows.device)
    starts[1:] = torch.bincount(rows, minlength=shape[0]).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        # numbers of 32 bits: MKL and cuSPARSE would copy longer ones at every product
        return torch.sparse_csr_tensor(
            starts.int(), columns[order].int(), weights[order], shape, check_invariants=True
        )


def multiply(
    matrix: Tensor, dense: Tensor, added: Tensor | None = None, *, beta: float = 1, scale: float = 1
) -> Tensor:
    """beta ``added`` + scale ``matrix`` ``dense``, sparse [n, k] by dense [k, D]."""
    # backward may run under an autocast that forward has not seen
    with torch.autocast(dense.device.type, enabled=False):
        if added is None:
            return torch.sparse.mm(matrix, dense.contiguous())
        return torch.addmm(added, matrix, dense.contiguous(), beta=beta, alpha=scale)


def product(dense: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
    product: Tensor = _Product.apply(dense, matrix, transpose)
    return product


class _Product(torch.autograd.Function):
    """Sparse matrix times dense; its transpose is given, since torch would make it anew at every backward."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.transpose = transpose
        return multiply(matrix, dense)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return multiply(ctx.transpose, grad), None, None

r"""Three operators on a graph of fixed degree, closed under differentiation.

Node :math:`n` listens, in each of G groups of channels, to L rows of a table,
:math:`i_{n,g,1} \dots i_{n,g,L}`:

.. math::
    \text{gather\_dot:} \quad & s_{n,g,l} = \mathbf{x}_{n,g} \cdot \mathbf{t}_{i_{n,g,l},\,g} \\
    \text{gather\_sum:} \quad & \mathbf{y}_{n,g} =
        \sum_l w_{n,g,l} \, \mathbf{t}_{i_{n,g,l},\,g} \\
    \text{scatter\_sum:} \quad & \mathbf{t}_{m,g} =
        \sum_{n, l : \, i_{n,g,l} = m} w_{n,g,l} \, \mathbf{x}_{n,g}

Each one's gradients are the other two. They are :mod:`torch.library` operators: compilers and
exporters see one opaque node each. None of them holds an ``[N, L, C]`` tensor.

Indices are ``[N, H, L]``, int32 or int64, and are trusted to be in range; H is 1 where all groups
listen to the same rows, else G. Dot products and weights are in float32 at least; sums are in the
dtype of the rows.

Where PyTorch transforms a backward pass (``is_grads_batched``), the same formulas in standard
operators stand in for them, which do hold such a tensor.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dyngraph.derivatives import transforms_active
from dyngraph.grid import Shape
from dyngraph.ops.kernels import load_kernels
from dyngraph.ops.precision import accumulator


def gather_dot(x: Tensor, table: Tensor, index: Tensor, groups: int, backend: str) -> Tensor:
    r"""Dot products of each node with its rows: ``[N, C], [M, C] -> [N, G, L]``."""
    if not transforms_active():
        scores: Tensor = _gather_dot(x, table, index, groups, backend)
        return scores
    dtype = accumulator(x.dtype)
    rows = _rows(table.to(dtype), index, groups)
    products: Tensor = x.to(dtype).unflatten(1, (groups, 1, -1)) * rows
    return products.sum(dim=-1)


def gather_sum(weight: Tensor, table: Tensor, index: Tensor, backend: str) -> Tensor:
    r"""Weighted sum of each node's rows: ``[N, G, L], [M, C] -> [N, C]``."""
    if not transforms_active():
        sums: Tensor = _gather_sum(weight, table, index, backend)
        return sums
    rows = _rows(table.to(weight.dtype), index, weight.shape[1])
    return (weight.unsqueeze(-1) * rows).sum(dim=2).flatten(1).to(table.dtype)


def scatter_sum(weight: Tensor, x: Tensor, index: Tensor, num_rows: int, backend: str) -> Tensor:
    r"""Sums weighted nodes into the rows that they listen to: ``[N, G, L], [N, C] -> [M, C]``."""
    if not transforms_active():
        out: Tensor = _scatter_sum(weight, x, index, num_rows, backend)
        return out
    groups = weight.shape[1]
    edges = weight.unsqueeze(-1) * x.to(weight.dtype).unflatten(1, (groups, 1, -1))
    out = edges.new_zeros(num_rows * groups, edges.shape[-1])
    out = out.index_add(0, _row_of_group(index, groups).flatten(), edges.flatten(0, 2))
    return out.view(num_rows, -1).to(x.dtype)


def _rows(table: Tensor, index: Tensor, groups: int) -> Tensor:
    """Each group's slice of the rows that it listens to, ``[N, G, L, C / G]``."""
    slices: Tensor = table.unflatten(1, (groups, -1)).flatten(0, 1)
    return slices[_row_of_group(index, groups)]


def _row_of_group(index: Tensor, groups: int) -> Tensor:
    """Where the slices are in the table of all slices, ``[N, G, L]``."""
    return index * groups + torch.arange(groups, device=index.device).view(-1, 1)


@torch.library.custom_op("dyngraph::gather_dot", mutates_args=())
def _gather_dot(x: Tensor, table: Tensor, index: Tensor, groups: int, backend: str) -> Tensor:
    return load_kernels(backend).gather_dot(x, table, index, groups)


@torch.library.custom_op("dyngraph::gather_sum", mutates_args=())
def _gather_sum(weight: Tensor, table: Tensor, index: Tensor, backend: str) -> Tensor:
    return load_kernels(backend).gather_sum(weight, table, index)


@torch.library.custom_op("dyngraph::scatter_sum", mutates_args=())
def _scatter_sum(weight: Tensor, x: Tensor, index: Tensor, num_rows: int, backend: str) -> Tensor:
    return load_kernels(backend).scatter_sum(weight, x, index, num_rows)


@_gather_dot.register_fake
def _(x: Tensor, table: Tensor, index: Tensor, groups: int, backend: str) -> Tensor:
    size = (index.shape[0], groups, index.shape[2])
    return x.new_empty(size, dtype=accumulator(x.dtype))


@_gather_sum.register_fake
def _(weight: Tensor, table: Tensor, index: Tensor, backend: str) -> Tensor:
    return table.new_empty(index.shape[0], table.shape[1])


@_scatter_sum.register_fake
def _(weight: Tensor, x: Tensor, index: Tensor, num_rows: int, backend: str) -> Tensor:
    return x.new_empty(num_rows, x.shape[1])


def _gather_dot_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, table, index, _, ctx.backend = inputs
    ctx.save_for_backward(x, table, index)


def _gather_dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, table, index = ctx.saved_tensors
    grad_x = grad_table = None
    if ctx.needs_input_grad[0]:
        grad_x = gather_sum(grad, table, index, ctx.backend)
    if ctx.needs_input_grad[1]:
        grad_table = scatter_sum(grad, x, index, table.shape[0], ctx.backend)
    return grad_x, grad_table, None, None, None


def _gather_sum_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, table, index, ctx.backend = inputs
    ctx.save_for_backward(weight, table, index)


def _gather_sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weight, table, index = ctx.saved_tensors
    grad_weight = grad_table = None
    if ctx.needs_input_grad[0]:
        grad_weight = gather_dot(grad, table, index, weight.shape[1], ctx.backend)
    if ctx.needs_input_grad[1]:
        grad_table = scatter_sum(weight, grad, index, table.shape[0], ctx.backend)
    return grad_weight, grad_table, None, None


def _scatter_sum_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, x, index, _, ctx.backend = inputs
    ctx.save_for_backward(weight, x, index)


def _scatter_sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weight, x, index = ctx.saved_tensors
    grad_weight = grad_x = None
    if ctx.needs_input_grad[0]:
        grad_weight = gather_dot(x, grad, index, weight.shape[1], ctx.backend)
    if ctx.needs_input_grad[1]:
        grad_x = gather_sum(weight, grad, index, ctx.backend)
    return grad_weight, grad_x, None, None, None


_gather_dot.register_autograd(_gather_dot_backward, setup_context=_gather_dot_setup)
_gather_sum.register_autograd(_gather_sum_backward, setup_context=_gather_sum_setup)
_scatter_sum.register_autograd(_scatter_sum_backward, setup_context=_scatter_sum_setup)


@register_flop_formula([torch.ops.dyngraph.gather_dot, torch.ops.dyngraph.gather_sum])
def _gather_flops(first: Shape, table: Shape, index: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * index[0] * index[2] * table[1]


@register_flop_formula(torch.ops.dyngraph.scatter_sum)
def _scatter_flops(weight: Shape, x: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * weight[0] * weight[2] * x[1]

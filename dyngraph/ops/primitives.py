r"""Three operators on a graph of fixed degree, closed under differentiation.

Node :math:`n` listens to L rows of a table, :math:`i_{n,1} \dots i_{n,L}`. In each of G groups of
channels:

.. math::
    \text{gather\_dot:} \quad & s_{n,l} = \mathbf{x}_n \cdot \mathbf{t}_{i_{n,l}} \\
    \text{gather\_sum:} \quad & \mathbf{y}_n = \sum_l w_{n,l} \, \mathbf{t}_{i_{n,l}} \\
    \text{scatter\_sum:} \quad & \mathbf{t}_m = \sum_{n, l : \, i_{n,l} = m} w_{n,l} \, \mathbf{x}_n

Each one's gradients are the other two. They are :mod:`torch.library` operators: compilers and
exporters see one opaque node each. None of them holds an ``[N, L, C]`` tensor.

Indices are ``[N, L]``, int32 or int64, and are trusted to be in range. Dot products and weights are
in float32 at least; sums are in the dtype of the rows.

Where PyTorch transforms the program (forward-mode derivatives, :mod:`torch.func`), the same
formulas in standard operators stand in for them, which do hold such a tensor.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dyngraph.ops.backend import accumulator, kernels
from dyngraph.ops.transforms import transforms_active


def gather_dot(x: Tensor, table: Tensor, index: Tensor, groups: int, backend: str) -> Tensor:
    r"""Dot products of each node with its L rows: ``[N, C], [M, C] -> [G, N, L]``."""
    if not transforms_active():
        return _gather_dot(x, table, index, groups, backend)
    dtype = accumulator(x.dtype)
    products = x.to(dtype).unsqueeze(1) * table.to(dtype)[index]
    return products.unflatten(2, (groups, -1)).sum(dim=-1).permute(2, 0, 1)


def gather_sum(weight: Tensor, table: Tensor, index: Tensor, backend: str) -> Tensor:
    r"""Weighted sum of each node's L rows: ``[G, N, L], [M, C] -> [N, C]``."""
    if not transforms_active():
        return _gather_sum(weight, table, index, backend)
    rows = table.to(weight.dtype)[index].unflatten(2, (weight.shape[0], -1))
    out = (weight.permute(1, 2, 0).unsqueeze(-1) * rows).sum(dim=1)
    return out.flatten(1).to(table.dtype)


def scatter_sum(weight: Tensor, x: Tensor, index: Tensor, num_rows: int, backend: str) -> Tensor:
    r"""Sums weighted nodes into the rows that they listen to: ``[G, N, L], [N, C] -> [M, C]``."""
    if not transforms_active():
        return _scatter_sum(weight, x, index, num_rows, backend)
    blocks = x.to(weight.dtype).unflatten(1, (weight.shape[0], -1)).unsqueeze(1)
    edges = (weight.permute(1, 2, 0).unsqueeze(-1) * blocks).flatten(2).flatten(0, 1)
    out = edges.new_zeros(num_rows, x.shape[1])
    return out.index_add(0, index.flatten(), edges).to(x.dtype)


@torch.library.custom_op("dyngraph::gather_dot", mutates_args=())
def _gather_dot(x: Tensor, table: Tensor, index: Tensor, groups: int, backend: str) -> Tensor:
    return kernels(backend).dot(x, table, index, groups)


@torch.library.custom_op("dyngraph::gather_sum", mutates_args=())
def _gather_sum(weight: Tensor, table: Tensor, index: Tensor, backend: str) -> Tensor:
    return kernels(backend).gather(weight, table, index)


@torch.library.custom_op("dyngraph::scatter_sum", mutates_args=())
def _scatter_sum(weight: Tensor, x: Tensor, index: Tensor, num_rows: int, backend: str) -> Tensor:
    return kernels(backend).scatter(weight, x, index, num_rows)


@_gather_dot.register_fake
def _(x: Tensor, table: Tensor, index: Tensor, groups: int, backend: str) -> Tensor:
    return x.new_empty(groups, *index.shape, dtype=accumulator(x.dtype))


@_gather_sum.register_fake
def _(weight: Tensor, table: Tensor, index: Tensor, backend: str) -> Tensor:
    return table.new_empty(index.shape[0], table.shape[1])


@_scatter_sum.register_fake
def _(weight: Tensor, x: Tensor, index: Tensor, num_rows: int, backend: str) -> Tensor:
    return x.new_empty(num_rows, x.shape[1])


def _gather_dot_setup(ctx, inputs, output):
    x, table, index, _, ctx.backend = inputs
    ctx.save_for_backward(x, table, index)


def _gather_dot_backward(ctx, grad):
    x, table, index = ctx.saved_tensors
    grad_x = grad_table = None
    if ctx.needs_input_grad[0]:
        grad_x = gather_sum(grad, table, index, ctx.backend)
    if ctx.needs_input_grad[1]:
        grad_table = scatter_sum(grad, x, index, table.shape[0], ctx.backend)
    return grad_x, grad_table, None, None, None


def _gather_sum_setup(ctx, inputs, output):
    weight, table, index, ctx.backend = inputs
    ctx.save_for_backward(weight, table, index)


def _gather_sum_backward(ctx, grad):
    weight, table, index = ctx.saved_tensors
    grad_weight = grad_table = None
    if ctx.needs_input_grad[0]:
        grad_weight = gather_dot(grad, table, index, weight.shape[0], ctx.backend)
    if ctx.needs_input_grad[1]:
        grad_table = scatter_sum(weight, grad, index, table.shape[0], ctx.backend)
    return grad_weight, grad_table, None, None


def _scatter_sum_setup(ctx, inputs, output):
    weight, x, index, _, ctx.backend = inputs
    ctx.save_for_backward(weight, x, index)


def _scatter_sum_backward(ctx, grad):
    weight, x, index = ctx.saved_tensors
    grad_weight = grad_x = None
    if ctx.needs_input_grad[0]:
        grad_weight = gather_dot(x, grad, index, weight.shape[0], ctx.backend)
    if ctx.needs_input_grad[1]:
        grad_x = gather_sum(weight, grad, index, ctx.backend)
    return grad_weight, grad_x, None, None, None


_gather_dot.register_autograd(_gather_dot_backward, setup_context=_gather_dot_setup)
_gather_sum.register_autograd(_gather_sum_backward, setup_context=_gather_sum_setup)
_scatter_sum.register_autograd(_scatter_sum_backward, setup_context=_scatter_sum_setup)


@register_flop_formula([torch.ops.dyngraph.gather_dot, torch.ops.dyngraph.gather_sum])
def _gather_flops(first, table, index, *args, out_shape=None, **kwargs) -> int:
    return 2 * index[0] * index[1] * table[1]


@register_flop_formula(torch.ops.dyngraph.scatter_sum)
def _scatter_flops(weight, x, *args, out_shape=None, **kwargs) -> int:
    return 2 * weight[1] * weight[2] * x[1]

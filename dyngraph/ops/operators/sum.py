r"""The weighted sum over samples as one operator on their positions.

With the corners :math:`i_{n,c,k}` and interpolation weights :math:`w_{n,c,k}` of sample k of node
n, for each group of channels:

.. math::
    \mathbf{y}_n = \sum_{k,c} a_{n,k} \, w_{n,c,k} \, \mathbf{v}_{i_{n,c,k}}

Positions are an input, so that kernels need not keep corners, nor the gradients of their weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dyngraph import multilinear
from dyngraph.derivatives import differentiable_gradients, transforms_active
from dyngraph.grid import Shape
from dyngraph.multilinear import unflatten_maps
from dyngraph.ops.kernels import load_kernels
from dyngraph.ops.operators.edges import gather_sum


@torch.library.custom_op("dyngraph::sampled_sum", mutates_args=())
def sampled_sum(
    weight: Tensor, table: Tensor, pos: Tensor, maps: Sequence[int], border: bool, backend: str
) -> Tensor:
    r"""Weighted sums of interpolated rows.

    Args:
        weight: ``[N, G, K]``, in at least float32.
        table: ``[M, C]``.
        pos: The positions of the samples, ``[N, H, K, P]``, H = 1 or G.
        maps: The maps that the N nodes listen to, by
            :func:`~dyngraph.multilinear.flatten_maps`.
        border: Whether positions are clamped to the map. Otherwise a corner outside weighs 0.
        backend: Whose kernels carry it out.

    Returns:
        ``[N, C]``.
    """
    return load_kernels(backend).sampled_sum(weight, table, pos, unflatten_maps(maps, pos), border)


@torch.library.custom_op("dyngraph::sampled_sum_backward", mutates_args=())
def sampled_sum_backward(
    grad_out: Tensor,
    weight: Tensor,
    table: Tensor,
    pos: Tensor,
    maps: Sequence[int],
    border: bool,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The gradients of weight, table and pos that ``needs`` asks for, else empty."""
    return load_kernels(backend).sampled_sum_backward(
        grad_out, weight, table, pos, unflatten_maps(maps, pos), border, needs
    )


@sampled_sum.register_fake
def _(
    weight: Tensor, table: Tensor, pos: Tensor, maps: Sequence[int], border: bool, backend: str
) -> Tensor:
    return table.new_empty(pos.shape[0], table.shape[1])


@sampled_sum_backward.register_fake
def _(
    grad_out: Tensor, weight: Tensor, table: Tensor, pos: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    return tuple(
        like.new_empty(like.shape if need else (0,))
        for like, need in zip((weight, table, pos), args[-2], strict=True)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, table, pos, *ctx.samples, ctx.backend = inputs
    ctx.save_for_backward(weight, table, pos)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    if torch.is_grad_enabled() or transforms_active():

        def formula(*inputs: Any) -> tuple[Tensor]:
            return (_sum_of_edges(inputs, ctx.samples, ctx.backend),)

        grads = differentiable_gradients(formula, inputs, wanted, (grad_out,))
    else:
        results = sampled_sum_backward(grad_out, *inputs, *ctx.samples, wanted, ctx.backend)
        grads = [result if need else None for result, need in zip(results, wanted, strict=True)]
    return *grads, None, None, None


sampled_sum.register_autograd(_backward, setup_context=_setup)


def _sum_of_edges(inputs: Sequence[Any], samples: Sequence[Any], backend: str) -> Tensor:
    """The same, made of operators that can be differentiated twice."""
    weight, table, pos = inputs
    maps, border = samples
    parts = unflatten_maps(maps, pos)
    index, corner = multilinear.corners(pos, parts, border, multilinear.index_dtype(pos, parts))
    by_corner = weight.unsqueeze(2) * corner.to(weight.dtype)
    return gather_sum(by_corner.flatten(2), table, index.flatten(2), backend)


@register_flop_formula(torch.ops.dyngraph.sampled_sum)
def _flops(weight: Shape, table: Shape, pos: Shape, *args: Any, **kwargs: Any) -> int:
    """As of the sum over corners: the products of weights are few beside it."""
    num_nodes, _, samples, axes = pos
    num_corners: int = 2**axes
    return 2 * num_nodes * samples * num_corners * table[1]

r"""Sampled attention as one operator, with a backward pass of its own.

With the corners :math:`i_{n,c,k}` and interpolation weights :math:`w_{n,c,k}` of sample k of node
n, for each group of channels:

.. math::
    d_{n,c,k} &= \mathbf{q}_n \cdot \mathbf{k}_{i_{n,c,k}} \\
    \alpha_{n,k} &= \mathrm{softmax}_k \Big(\sigma \sum_c w_{n,c,k} \, d_{n,c,k} + b_{n,k}\Big) \\
    \mathbf{y}_n &= \sum_{k,c} \alpha_{n,k} \, w_{n,c,k} \, \mathbf{v}_{i_{n,c,k}}

The score of a fractional position is the interpolation of its corners' scores, so keys are never
interpolated, nor are values. Positions are an input, so that kernels need not keep corners, nor the
gradients of their weights.
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
from dyngraph.ops.operators.edges import gather_dot, gather_sum
from dyngraph.ops.precision import accumulator


@torch.library.custom_op("dyngraph::attention", mutates_args=())
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    bias: Tensor | None,
    maps: Sequence[int],
    border: bool,
    groups: int,
    scale: float,
    keep_scores: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Attention of each node over its K samples.

    Args:
        query: ``[N, C]``.
        key: ``[M, C]``.
        value: ``[M, C']``, or None if the keys are the values.
        pos: The positions of the samples, ``[N, H, K, P]``, H = 1 or G.
        bias: ``[N, G, K]``, added to the scores, or None.
        maps: The maps that the N nodes listen to, by
            :func:`~dyngraph.multilinear.flatten_maps`.
        border: Whether positions are clamped to the map. Otherwise a corner outside weighs 0.
        groups: G, the number of channel groups.
        scale: σ, the factor of the scores.
        keep_scores: Whether the backward pass gets the corner scores d, if the kernels can use
            them.
        backend: Whose kernels carry it out.

    Returns:
        The output ``[N, C']``, the attention ``[N, G, K]`` in at least float32, and the corner
        scores ``[N, G, 2^P, K]``, empty if they are not kept.
    """
    return load_kernels(backend).attention(
        query, key, value, pos, bias, unflatten_maps(maps, pos), border, groups, scale, keep_scores
    )


@torch.library.custom_op("dyngraph::attention_backward", mutates_args=())
def attention_backward(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    alpha: Tensor,
    scores: Tensor,
    maps: Sequence[int],
    border: bool,
    groups: int,
    scale: float,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    r"""The gradients of query, key, value, pos and bias that ``needs`` asks for, else empty.

    The gradient of shared keys and values is that of the key.
    """
    return load_kernels(backend).attention_backward(
        grad_out, grad_alpha, query, key, value, pos, alpha, scores, unflatten_maps(maps, pos),
        border, groups, scale, needs,
    )  # fmt: skip


@attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    bias: Tensor | None,
    maps: Sequence[int],
    border: bool,
    groups: int,
    scale: float,
    keep_scores: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    num_nodes, _, samples, axes = pos.shape
    channels = (key if value is None else value).shape[1]
    dtype = accumulator(query.dtype)
    kept = (num_nodes, groups, 2**axes, samples) if keep_scores else (0,)
    return (
        query.new_empty(num_nodes, channels),
        query.new_empty(num_nodes, groups, samples, dtype=dtype),
        query.new_empty(kept, dtype=dtype),
    )


@attention_backward.register_fake
def _(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    alpha: Tensor,
    *args: Any,
) -> tuple[Tensor, ...]:
    inputs, needs = (query, key, key if value is None else value, pos, alpha), args[-2]
    return tuple(
        like.new_empty(like.shape if need else (0,))
        for like, need in zip(inputs, needs, strict=True)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, value, pos, bias, *ctx.samples, _, ctx.backend = inputs
    _, alpha, scores = output
    ctx.mark_non_differentiable(scores)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, pos, bias, alpha, scores)


def _backward(
    ctx: Any, grad_out: Tensor | None, grad_alpha: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    *inputs, alpha, scores = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:5])
    if torch.is_grad_enabled() or transforms_active():

        def formula(*inputs: Any) -> tuple[Tensor, Tensor]:
            return _attention_of_edges(inputs, ctx.samples, ctx.backend)

        grads = differentiable_gradients(formula, inputs, wanted, (grad_out, grad_alpha))
    else:
        query, key, value, pos, _ = inputs
        results = attention_backward(
            grad_out, grad_alpha, query, key, value, pos, alpha, scores, *ctx.samples, wanted,
            ctx.backend,
        )  # fmt: skip
        grads = [result if need else None for result, need in zip(results, wanted, strict=True)]
    return *grads, *[None] * 6


attention.register_autograd(_backward, setup_context=_setup)


def _attention_of_edges(
    inputs: Sequence[Any], samples: Sequence[Any], backend: str
) -> tuple[Tensor, Tensor]:
    """The same output and attention, made of operators that can be differentiated twice."""
    query, key, value, pos, bias = inputs
    maps, border, groups, scale = samples
    parts = unflatten_maps(maps, pos)
    index, weight = multilinear.corners(pos, parts, border, multilinear.index_dtype(pos, parts))
    weight = weight.to(accumulator(query.dtype))
    edges = index.flatten(2)
    corner_score = gather_dot(query, key, edges, groups, backend)
    score = scale * (corner_score.unflatten(2, weight.shape[2:]) * weight).sum(dim=2)
    alpha = (score if bias is None else score + bias).softmax(dim=-1)
    corner_alpha = (alpha.unsqueeze(2) * weight).flatten(2)
    return gather_sum(corner_alpha, key if value is None else value, edges, backend), alpha


@register_flop_formula(torch.ops.dyngraph.attention)
def _flops(
    query: Shape, key: Shape, value: Shape | None, pos: Shape, *args: Any, **kwargs: Any
) -> int:
    """By definition, as the papers count: interpolate each table once, then score, then sum."""
    num_nodes, _, samples, axes = pos
    interpolated = key[1] + (0 if value is None else value[1])
    channels = key[1] if value is None else value[1]
    num_corners: int = 2**axes
    return 2 * num_nodes * samples * (num_corners * interpolated + key[1] + channels)

r"""Sampled attention as one operator, which works group by group and transposes the graph once.

With the corners :math:`i_{n,c,k}` and interpolation weights :math:`w_{n,c,k}` of sample k of node
n, for each group of channels:

.. math::
    d_{n,c,k} &= \mathbf{q}_n \cdot \mathbf{k}_{i_{n,c,k}} \\
    \alpha_{n,k} &= \mathrm{softmax}_k \Big(\sigma \sum_c w_{n,c,k} \, d_{n,c,k} + b_{n,k}\Big) \\
    \mathbf{y}_n &= \sum_{k,c} \alpha_{n,k} \, w_{n,c,k} \, \mathbf{v}_{i_{n,c,k}}

The score of a fractional position is the interpolation of its corners' scores, so keys are never
interpolated, nor are values.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dyngraph.ops.primitives import (
    dot_rows,
    gather_dot,
    gather_sum,
    reorder,
    sum_rows,
    transpose_index,
)
from dyngraph.ops.softmax import softmax_over_samples


@torch.library.custom_op("dyngraph::attention", mutates_args=())
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    index: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    scale: float,
    recompute: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Attention of each node over its K samples.

    Args:
        query: ``[N, C]``.
        key: ``[M, C]``.
        value: ``[M, C']``, or None if the keys are the values.
        index: Corner indices ``[N, 2^P, K]``.
        weight: Interpolation weights ``[N, 2^P, K]``.
        bias: ``[G, N, K]``, added to the scores, or None.
        groups: G, the number of channel groups.
        scale: σ, the factor of the scores.
        recompute: Whether the backward pass computes the corner scores again.

    Returns:
        The output ``[N, C']``, the attention ``[G, N, K]`` and, for the backward pass, the corner
        scores d ``[G, N, 2^P, K]``, empty if they are recomputed.
    """
    table = key if value is None else value
    out = table.new_empty(len(query), table.shape[1])
    alpha = query.new_empty(groups, len(query), weight.shape[2])
    saved = query.new_empty(0) if recompute else query.new_empty(groups, *weight.shape)
    blocks = zip(*(tensor.chunk(groups, dim=1) for tensor in (query, key, table, out)), strict=True)
    for g, (query_g, key_g, value_g, out_g) in enumerate(blocks):
        corner_score = dot_rows(query_g, key_g, index.flatten(1)).view(weight.shape)
        score = (corner_score * weight).sum(dim=1) * scale
        alpha[g] = softmax_over_samples(score if bias is None else score + bias[g])
        sum_rows(out_g, index.flatten(1), [(_corner_alpha(alpha[g], weight), value_g)])
        if not recompute:
            saved[g] = corner_score
    return out, alpha, saved


@torch.library.custom_op("dyngraph::attention_backward", mutates_args=())
def attention_backward(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    index: Tensor,
    weight: Tensor,
    alpha: Tensor,
    saved: Tensor,
    groups: int,
    scale: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    r"""The gradients of query, key, value, weight and bias that ``needs`` asks for, else empty.

    The gradient of shared keys and values is that of the key.
    """
    table = key if value is None else value
    edges = index.flatten(1)
    if grad_out is None:
        grad_out = table.new_zeros(len(query), table.shape[1])
    grads = [
        torch.empty_like(like, memory_format=torch.contiguous_format) if need else like.new_empty(0)
        for like, need in zip((query, key, table, weight, alpha), needs, strict=True)
    ]
    grad_query, grad_key, grad_value, grad_weight, grad_bias = grads
    needs_query, needs_key, needs_value, needs_weight, needs_bias = needs
    if needs_key or needs_value:
        order, ptr = transpose_index(edges, len(key))
        listener, start = order // max(edges.shape[1], 1), ptr[:-1]

    def block(tensor: Tensor, g: int) -> Tensor:
        return tensor.chunk(groups, dim=1)[g]

    for g in range(groups):
        query_g, key_g, value_g = block(query, g), block(key, g), block(table, g)
        grad_out_g, alpha_g = block(grad_out, g), alpha[g]

        # y = Σ_k Σ_c α_k w_ck v_ck
        corner_alpha = _corner_alpha(alpha_g, weight)
        grad_corner_alpha = dot_rows(grad_out_g, value_g, edges).view(weight.shape)
        grad_alpha_g = (grad_corner_alpha * weight).sum(dim=1)
        if grad_alpha is not None:
            grad_alpha_g += grad_alpha[g]
        # α = softmax(s)
        expected = (alpha_g * grad_alpha_g).sum(dim=-1, keepdim=True)
        grad_score = alpha_g * (grad_alpha_g - expected)
        # s_k = σ Σ_c w_ck d_ck + b_k
        scaled = (grad_score * scale).unsqueeze(1)
        grad_corner_score = (scaled * weight).flatten(1)

        if needs_bias:
            grad_bias[g] = grad_score
        if needs_weight:
            corner_score = saved[g] if saved.numel() else dot_rows(query_g, key_g, edges)
            part = torch.addcmul(
                alpha_g.unsqueeze(1) * grad_corner_alpha, scaled, corner_score.view(weight.shape)
            )
            grad_weight = part if g == 0 else grad_weight.add_(part)
        if needs_query:
            sum_rows(block(grad_query, g), edges, [(grad_corner_score, key_g)])
        if needs_key:
            terms = [(reorder(grad_corner_score, order), query_g)]
            if value is None:
                terms.append((reorder(corner_alpha, order), grad_out_g))
            sum_rows(block(grad_key, g), listener, terms, start)
        if needs_value:
            terms = [(reorder(corner_alpha, order), grad_out_g)]
            sum_rows(block(grad_value, g), listener, terms, start)
    return grad_query, grad_key, grad_value, grad_weight, grad_bias


def _corner_alpha(alpha: Tensor, weight: Tensor) -> Tensor:
    """The attention that each corner gets, ``[..., N, 2^P K]``."""
    return (alpha.unsqueeze(-2) * weight).flatten(-2)


@attention.register_fake
def _(query, key, value, index, weight, bias, groups, scale, recompute):
    num_nodes, _, samples = index.shape
    channels = (key if value is None else value).shape[1]
    saved = (0,) if recompute else (groups, *weight.shape)
    return (
        query.new_empty(num_nodes, channels),
        query.new_empty(groups, num_nodes, samples),
        query.new_empty(saved),
    )


@attention_backward.register_fake
def _(
    grad_out,
    grad_alpha,
    query,
    key,
    value,
    index,
    weight,
    alpha,
    saved,
    groups,
    scale,
    needs,
):
    inputs = (query, key, key if value is None else value, weight, alpha)
    return tuple(
        like.new_empty(like.shape if need else (0,))
        for like, need in zip(inputs, needs, strict=True)
    )


def _setup(ctx, inputs, output):
    query, key, value, index, weight, bias, ctx.groups, ctx.scale, _ = inputs
    _, alpha, saved = output
    ctx.mark_non_differentiable(saved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, index, weight, bias, alpha, saved)


def _backward(ctx, grad_out, grad_alpha, _):
    query, key, value, index, weight, bias, alpha, saved = ctx.saved_tensors
    wanted = [ctx.needs_input_grad[n] for n in (0, 1, 2, 4, 5)]
    if torch.is_grad_enabled():
        inputs = (query, key, value, weight, bias)
        grads = _differentiable_backward(
            inputs, wanted, index, ctx.groups, ctx.scale, (grad_out, grad_alpha)
        )
    else:
        results = attention_backward(
            grad_out,
            grad_alpha,
            query,
            key,
            value,
            index,
            weight,
            alpha,
            saved,
            ctx.groups,
            ctx.scale,
            wanted,
        )
        grads = [result if need else None for result, need in zip(results, wanted, strict=True)]
    grad_query, grad_key, grad_value, grad_weight, grad_bias = grads
    return grad_query, grad_key, grad_value, None, grad_weight, grad_bias, None, None, None


def _differentiable_backward(
    inputs: tuple[Tensor | None, ...],
    wanted: list[bool],
    index: Tensor,
    groups: int,
    scale: float,
    grad_outputs: tuple[Tensor | None, Tensor | None],
) -> list[Tensor | None]:
    """The gradients of the same attention made of differentiable operators."""
    # Views, so that an input that depends on another is not followed to it.
    views: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
    query, key, value, weight, bias = views
    edges = index.flatten(1)
    score = (gather_dot(query, key, edges, groups).view(groups, *weight.shape) * weight).sum(dim=2)
    score = score * scale if bias is None else score * scale + bias
    alpha = score.softmax(dim=-1)
    out = gather_sum(_corner_alpha(alpha, weight), key if value is None else value, edges)
    pairs = zip((out, alpha), grad_outputs, strict=True)
    outputs, grads = zip(*(pair for pair in pairs if pair[1] is not None), strict=True)
    results = torch.autograd.grad(
        outputs,
        [view for view, need in zip(views, wanted, strict=True) if need],
        grads,
        create_graph=True,
        materialize_grads=True,
    )
    remaining = iter(results)
    return [next(remaining) if need else None for need in wanted]


attention.register_autograd(_backward, setup_context=_setup)


@register_flop_formula(torch.ops.dyngraph.attention)
def _flops(query, key, value, index, *args, out_shape=None, **kwargs) -> int:
    """By definition, as the papers count: interpolate each table once, then score, then sum."""
    num_nodes, corners, samples = index
    interpolated = key[1] + (0 if value is None else value[1])
    channels = key[1] if value is None else value[1]
    return 2 * num_nodes * samples * (corners * interpolated + key[1] + channels)

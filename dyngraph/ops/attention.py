r"""Sampled attention as one operator, so that its backward pass transposes the graph only once.

With the corners :math:`i_{n,c,k}` and interpolation weights :math:`w_{n,c,k}` of sample k of node
n, for each group of channels:

.. math::
    d_{n,c,k} &= \mathbf{q}_n \cdot \mathbf{k}_{i_{n,c,k}} \\
    \alpha_{n,k} &= \mathrm{softmax}_k \Big(\sigma \sum_c w_{n,c,k} \, d_{n,c,k} + b_{n,k}\Big) \\
    \mathbf{y}_n &= \sum_{k,c} \alpha_{n,k} \, w_{n,c,k} \, \mathbf{v}_{i_{n,c,k}}

The score of a fractional position is the interpolation of its corners' scores, so keys are never
interpolated, nor are values.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dyngraph.ops.primitives import (
    gather_dot,
    gather_sum,
    scatter_sum,
    transpose_index,
)


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

    Returns:
        The output ``[N, C']``, the attention ``[G, N, K]`` and the corner scores ``[G, N, 2^P K]``.
    """
    corner_score = gather_dot(query, key, index.flatten(1), groups)
    score = (corner_score.view(groups, *weight.shape) * weight).sum(dim=2)
    score = score * scale if bias is None else score * scale + bias
    alpha = score.softmax(dim=-1)
    out = gather_sum(
        _corner_alpha(alpha, weight), key if value is None else value, index.flatten(1)
    )
    return out, alpha, corner_score


def _corner_alpha(alpha: Tensor, weight: Tensor) -> Tensor:
    """The attention that each corner gets, ``[G, N, 2^P K]``."""
    return (alpha.unsqueeze(2) * weight).flatten(2)


@attention.register_fake
def _(query, key, value, index, weight, bias, groups, scale):
    num_nodes, corners, samples = index.shape
    channels = (key if value is None else value).shape[1]
    return (
        query.new_empty(num_nodes, channels),
        query.new_empty(groups, num_nodes, samples),
        query.new_empty(groups, num_nodes, corners * samples),
    )


def _setup(ctx, inputs, output):
    query, key, value, index, weight, _, ctx.groups, ctx.scale = inputs
    _, alpha, corner_score = output
    ctx.save_for_backward(query, key, value, index, weight, alpha, corner_score)


def _backward(ctx, grad_out, grad_alpha, grad_corner_score):
    query, key, value, index, weight, alpha, corner_score = ctx.saved_tensors
    shared = value is None
    value = key if shared else value
    needs_query, needs_key, needs_value, _, needs_weight, needs_bias, _, _ = ctx.needs_input_grad
    edges = index.flatten(1)
    planes = (ctx.groups, *weight.shape)

    # y = Σ_k Σ_c α_k w_ck v_ck
    value_grad = gather_dot(grad_out, value, edges, ctx.groups).view(planes)
    grad_alpha = grad_alpha + (value_grad * weight).sum(dim=2)
    # α = softmax(s)
    grad_score = alpha * (grad_alpha - (alpha * grad_alpha).sum(dim=-1, keepdim=True))
    # s_k = σ Σ_c w_ck d_ck + b_k
    scaled = (grad_score * ctx.scale).unsqueeze(2)
    grad_corner = (scaled * weight).flatten(2) + grad_corner_score

    grad_query = gather_sum(grad_corner, key, edges) if needs_query else None
    grad_weight = None
    if needs_weight:
        score_part = scaled * corner_score.view(planes)
        grad_weight = (alpha.unsqueeze(2) * value_grad + score_part).sum(dim=0)
    grad_key = grad_value = None
    if needs_key or needs_value:
        transposed = transpose_index(edges, len(key))
        if needs_key:
            grad_key = scatter_sum(grad_corner, query, *transposed, len(key))
        if needs_value or (shared and needs_key):
            grad_value = scatter_sum(
                _corner_alpha(alpha, weight), grad_out, *transposed, len(value)
            )
        if shared and grad_key is not None:
            grad_key, grad_value = grad_key + grad_value, None
    grad_bias = grad_score if needs_bias else None
    return grad_query, grad_key, grad_value, None, grad_weight, grad_bias, None, None


attention.register_autograd(_backward, setup_context=_setup)


@register_flop_formula(torch.ops.dyngraph.attention)
def _flops(query, key, value, index, *args, out_shape=None, **kwargs) -> int:
    """By definition, as the papers count: interpolate each table once, then score, then sum."""
    num_nodes, corners, samples = index
    interpolated = key[1] + (0 if value is None else value[1])
    channels = key[1] if value is None else value[1]
    return 2 * num_nodes * samples * (corners * interpolated + key[1] + channels)

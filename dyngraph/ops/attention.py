r"""Sampled attention on given corners as one operator, with a backward pass of its own.

With the corners :math:`i_{n,c,k}` and interpolation weights :math:`w_{n,c,k}` of sample k of node
n, for each group of channels:

.. math::
    d_{n,c,k} &= \mathbf{q}_n \cdot \mathbf{k}_{i_{n,c,k}} \\
    \alpha_{n,k} &= \mathrm{softmax}_k \Big(\sigma \sum_c w_{n,c,k} \, d_{n,c,k} + b_{n,k}\Big) \\
    \mathbf{y}_n &= \sum_{k,c} \alpha_{n,k} \, w_{n,c,k} \, \mathbf{v}_{i_{n,c,k}}

The score of a fractional position is the interpolation of its corners' scores, so keys are never
interpolated, nor are values. Plain PyTorch carries this operator out; Triton's is
:mod:`dyngraph.ops.position_attention`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dyngraph.ops import torch_kernels
from dyngraph.ops.primitives import gather_dot, gather_sum
from dyngraph.ops.torch_kernels import corner_alpha
from dyngraph.ops.transforms import transforms_active


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
    if transforms_active():
        out, alpha = attention_formula(
            query, key, value, index, weight, bias, groups, scale, "torch"
        )
        return out, alpha, weight.new_empty(0)
    return _attention(query, key, value, index, weight, bias, groups, scale, recompute)


@torch.library.custom_op("dyngraph::attention", mutates_args=())
def _attention(
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
    return torch_kernels.attention(query, key, value, index, weight, bias, groups, scale, recompute)


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
    return torch_kernels.attention_backward(
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
    )


@_attention.register_fake
def _(query, key, value, index, weight, bias, groups, scale, recompute):
    num_nodes, _, samples = index.shape
    channels = (key if value is None else value).shape[1]
    saved = (0,) if recompute else (groups, *weight.shape)
    return (
        query.new_empty(num_nodes, channels),
        weight.new_empty(groups, num_nodes, samples),
        weight.new_empty(saved),
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
    if torch.is_grad_enabled() or transforms_active():

        def formula(query, key, value, weight, bias):
            return attention_formula(
                query, key, value, index, weight, bias, ctx.groups, ctx.scale, "torch"
            )

        inputs = (query, key, value, weight, bias)
        grads = differentiable_gradients(formula, inputs, wanted, (grad_out, grad_alpha))
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


def attention_formula(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    index: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The same output and attention, made of operators that can be differentiated twice."""
    edges = index.flatten(1)
    corner_score = gather_dot(query, key, edges, groups, backend).view(groups, *weight.shape)
    score = (corner_score * weight).sum(dim=2)
    score = score * scale if bias is None else score * scale + bias
    alpha = score.softmax(dim=-1)
    table = key if value is None else value
    return gather_sum(corner_alpha(alpha, weight), table, edges, backend), alpha


def differentiable_gradients(
    formula: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor | None, ...],
    wanted: list[bool],
    grad_outputs: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """The gradients of a function of ``inputs``, themselves differentiable."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that an input that depends on another is not followed to it.
        views: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        pairs = zip(formula(*views), grad_outputs, strict=True)
        outputs, grads = zip(*(pair for pair in pairs if pair[1] is not None), strict=True)
        results = torch.autograd.grad(
            outputs,
            [view for view, need in zip(views, wanted, strict=True) if need],
            grads,
            create_graph=create_graph,
            materialize_grads=True,
        )
    remaining = iter(results)
    return [next(remaining) if need else None for need in wanted]


_attention.register_autograd(_backward, setup_context=_setup)


@register_flop_formula(torch.ops.dyngraph.attention)
def _flops(query, key, value, index, *args, out_shape=None, **kwargs) -> int:
    num_nodes, corners, samples = index
    return attention_flops(num_nodes * samples, corners, key, value)


def attention_flops(num_samples: int, corners: int, key: list[int], value: list[int] | None) -> int:
    """By definition, as the papers count: interpolate each table once, then score, then sum."""
    interpolated = key[1] + (0 if value is None else value[1])
    channels = key[1] if value is None else value[1]
    return 2 * num_samples * (corners * interpolated + key[1] + channels)

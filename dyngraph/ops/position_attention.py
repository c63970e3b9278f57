r"""Sampled attention as one operator that computes the corners of its samples itself.

The formula is that of :mod:`dyngraph.ops.attention`. Here positions are an input, so that neither
corners nor the gradients of their weights are ever in memory. Triton carries it out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dyngraph.ops.attention import (
    attention_flops,
    attention_formula,
    differentiable_gradients,
)
from dyngraph.ops.backend import accumulator, kernels
from dyngraph.ops.corners import Run, corners
from dyngraph.ops.transforms import transforms_active


def position_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    bias: Tensor | None,
    groups: int,
    scale: float,
    runs: Sequence[int],
    border: bool,
) -> tuple[Tensor, Tensor]:
    r"""Attention of each node over its K samples.

    Args:
        query: ``[N, C]``.
        key: ``[M, C]``.
        value: ``[M, C']``, or None if the keys are the values.
        pos: The positions of the samples, ``[N, K, P]``.
        bias: ``[N, G, K]``, added to the scores, or None.
        groups: G, the number of channel groups.
        scale: The factor of the scores.
        runs: The maps that the N nodes listen to, by :func:`flatten_runs`.
        border: Whether positions are clamped to the map. Otherwise a corner outside weighs 0.

    Returns:
        The output ``[N, C']`` and the attention ``[N, G, K]``, in at least float32.
    """
    if transforms_active():
        return _formula(query, key, value, pos, bias, groups, scale, runs, border)
    return _position_attention(query, key, value, pos, bias, groups, scale, runs, border)


@torch.library.custom_op("dyngraph::position_attention", mutates_args=())
def _position_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    bias: Tensor | None,
    groups: int,
    scale: float,
    runs: Sequence[int],
    border: bool,
) -> tuple[Tensor, Tensor]:
    return kernels("triton").attention(
        query, key, value, pos, bias, groups, scale, _unflatten_runs(runs, pos), border
    )


@torch.library.custom_op("dyngraph::position_attention_backward", mutates_args=())
def position_attention_backward(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    alpha: Tensor,
    groups: int,
    scale: float,
    runs: Sequence[int],
    border: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    r"""The gradients of query, key, value, positions and bias that ``needs`` asks for, else empty.

    The gradient of shared keys and values is that of the key.
    """
    return kernels("triton").attention_backward(
        grad_out,
        grad_alpha,
        query,
        key,
        value,
        pos,
        alpha,
        groups,
        scale,
        _unflatten_runs(runs, pos),
        border,
        needs,
    )


def flatten_runs(runs: Sequence[Run]) -> list[int]:
    r"""Runs as an operator takes them: the numbers of each, its lengths last."""
    return [number for run in runs for number in (run.num_maps, run.listeners_of_map, *run.shape)]


def _unflatten_runs(numbers: Sequence[int], pos: Tensor) -> list[Run]:
    length = 2 + pos.shape[2]
    parts = (numbers[start : start + length] for start in range(0, len(numbers), length))
    return [Run(num_maps, listeners, tuple(shape)) for num_maps, listeners, *shape in parts]


@_position_attention.register_fake
def _(query, key, value, pos, bias, groups, scale, runs, border):
    num_nodes, samples, _ = pos.shape
    channels = (key if value is None else value).shape[1]
    return (
        query.new_empty(num_nodes, channels),
        query.new_empty(num_nodes, groups, samples, dtype=accumulator(query.dtype)),
    )


@position_attention_backward.register_fake
def _(grad_out, grad_alpha, query, key, value, pos, alpha, groups, scale, runs, border, needs):
    inputs = (query, key, key if value is None else value, pos, alpha)
    return tuple(
        like.new_empty(like.shape if need else (0,))
        for like, need in zip(inputs, needs, strict=True)
    )


def _formula(query, key, value, pos, bias, groups, scale, runs, border) -> tuple[Tensor, Tensor]:
    """The same output and attention, made of operators that can be differentiated twice."""
    index, weight = corners(pos, _unflatten_runs(runs, pos), border)
    weight = weight.to(accumulator(query.dtype))
    bias = None if bias is None else bias.transpose(0, 1)
    out, alpha = attention_formula(query, key, value, index, weight, bias, groups, scale, "triton")
    return out, alpha.transpose(0, 1)


def _setup(ctx, inputs, output):
    query, key, value, pos, bias, ctx.groups, ctx.scale, ctx.runs, ctx.border = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, pos, bias, output[1])


def _backward(ctx, grad_out, grad_alpha):
    query, key, value, pos, bias, alpha = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:5])
    if torch.is_grad_enabled() or transforms_active():

        def formula(query, key, value, pos, bias):
            return _formula(
                query, key, value, pos, bias, ctx.groups, ctx.scale, ctx.runs, ctx.border
            )

        inputs = (query, key, value, pos, bias)
        grads = differentiable_gradients(formula, inputs, wanted, (grad_out, grad_alpha))
    else:
        results = position_attention_backward(
            grad_out,
            grad_alpha,
            query,
            key,
            value,
            pos,
            alpha,
            ctx.groups,
            ctx.scale,
            ctx.runs,
            ctx.border,
            wanted,
        )
        grads = [result if need else None for result, need in zip(results, wanted, strict=True)]
    return *grads, None, None, None, None


_position_attention.register_autograd(_backward, setup_context=_setup)


@register_flop_formula(torch.ops.dyngraph.position_attention)
def _flops(query, key, value, pos, *args, out_shape=None, **kwargs) -> int:
    num_nodes, samples, num_axes = pos
    return attention_flops(num_nodes * samples, 2**num_axes, key, value)

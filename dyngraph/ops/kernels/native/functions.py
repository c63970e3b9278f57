"""What a set of kernels has, in C++."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyngraph.multilinear import Maps, flatten_maps
from dyngraph.ops.kernels.native.library import (
    Call,
    call_of,
    features_of,
    library,
    rows_of,
    samples_of,
)
from dyngraph.ops.kernels.pytorch.corners import corners, corners_backward
from dyngraph.ops.large_pages import new_output
from dyngraph.ops.precision import accumulator

SUMS_HALF_TYPES = True
RECOMPUTES = False

__all__ = [
    "RECOMPUTES",
    "SUMS_HALF_TYPES",
    "attention",
    "attention_backward",
    "corners",
    "corners_backward",
    "gather_dot",
    "gather_sum",
    "sampled_sum",
    "sampled_sum_backward",
    "scatter_sum",
]


def gather_dot(x: Tensor, table: Tensor, index: Tensor, groups: int) -> Tensor:
    out = x.new_zeros(len(x), groups, index.shape[2], dtype=accumulator(x.dtype))
    if len(table):
        x, table, index = _rows(x), _rows(table), index.contiguous()
        call = call_of(rows_of(index, len(table)), groups, x.shape[1], x)
        library().score(call, features_of(x), features_of(table), 1, None, False, _data(out), None)
    return out


def gather_sum(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    weight, table, index = weight.contiguous(), _rows(table), index.contiguous()
    call = call_of(rows_of(index, len(table)), weight.shape[1], table.shape[1], table)
    return _sum(call, weight, table)


def scatter_sum(weight: Tensor, x: Tensor, index: Tensor, num_rows: int) -> Tensor:
    weight, x, index = weight.contiguous(), _rows(x), index.contiguous()
    call = call_of(rows_of(index, num_rows), weight.shape[1], x.shape[1], x)
    return _scatter(call, num_rows, (weight, 1.0, x))[0]


def sampled_sum(
    weight: Tensor, table: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool
) -> Tensor:
    weight, table, pos = weight.contiguous(), _rows(table), pos.contiguous()
    samples = samples_of(pos, flatten_maps(maps), border)
    return _sum(call_of(samples, weight.shape[1], table.shape[1], table), weight, table)


def sampled_sum_backward(
    grad_out: Tensor,
    weight: Tensor,
    table: Tensor,
    pos: Tensor,
    maps: Sequence[Maps],
    border: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    needs_weight, needs_table, needs_pos = needs
    grad_weight = _zeros_if(needs_weight, weight)
    grad_pos = _zeros_if(needs_pos, pos)
    grad_table = table.new_empty(0)
    grad_out, table, weight, pos = (
        _rows(grad_out),
        _rows(table),
        weight.contiguous(),
        pos.contiguous(),
    )
    samples = samples_of(pos, flatten_maps(maps), border)
    call = call_of(samples, weight.shape[1], table.shape[1], table)
    if (needs_weight or needs_pos) and len(table):
        library().gradients(
            call, features_of(grad_out), _data(weight), 1, features_of(table), None,
            _data(grad_weight), _data(grad_pos), None,
        )  # fmt: skip
    if needs_table:
        grad_table, _ = _scatter(call, len(table), (weight, 1.0, grad_out))
    return grad_weight, grad_table, grad_pos


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    bias: Tensor | None,
    maps: Sequence[Maps],
    border: bool,
    groups: int,
    scale: float,
    keep_scores: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, pos = _rows(query), _rows(key), pos.contiguous()
    table = key if value is None else _rows(value)
    bias = None if bias is None else bias.contiguous()
    samples = samples_of(pos, flatten_maps(maps), border)
    shape = len(query), groups, pos.shape[2]
    alpha = new_output(query, shape, accumulator(query.dtype))
    kept = (*shape[:2], 2 ** pos.shape[3], shape[2]) if keep_scores else (0,)
    scores = new_output(query, kept, alpha.dtype)
    if len(key):
        call = call_of(samples, groups, key.shape[1], key)
        library().score(
            call, features_of(query), features_of(key), scale,
            None if bias is None else _data(bias), True, _data(alpha), _data(scores),
        )  # fmt: skip
    else:
        alpha = (torch.zeros_like(alpha) if bias is None else bias).softmax(dim=-1)
        scores.zero_()
    out = _sum(call_of(samples, groups, table.shape[1], table), alpha, table)
    return out, alpha, scores


def attention_backward(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    alpha: Tensor,
    scores: Tensor,
    maps: Sequence[Maps],
    border: bool,
    groups: int,
    scale: float,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    needs_query, needs_key, needs_value, needs_pos, needs_bias = needs
    table = key if value is None else value
    grad_pos = _zeros_if(needs_pos, pos)
    alpha, scores, pos = alpha.contiguous(), scores.contiguous(), pos.contiguous()
    query, key = _rows(query), _rows(key)
    samples = samples_of(pos, flatten_maps(maps), border)
    # y = Σ_k α_k v(p_k)
    grad_score = torch.zeros_like(alpha)
    if grad_out is not None:
        grad_out, table = _rows(grad_out), _rows(table)
        of_values = call_of(samples, groups, table.shape[1], table)
        if len(table):
            library().gradients(
                of_values, features_of(grad_out), _data(alpha), 1, features_of(table), None,
                _data(grad_score), _data(grad_pos), None,
            )  # fmt: skip
    if grad_alpha is not None:
        grad_score += grad_alpha
    # α = softmax(s)
    grad_score = alpha * (grad_score - (alpha * grad_score).sum(dim=-1, keepdim=True))
    # s_k = σ q · k(p_k) + b_k
    of_keys = call_of(samples, groups, key.shape[1], key)
    grad_query = new_output(query, query.shape if needs_query else (0,), alpha.dtype)
    if len(key) == 0:
        grad_query.zero_()
    elif needs_query or needs_pos:
        library().gradients(
            of_keys, features_of(query), _data(grad_score), scale, features_of(key),
            _data(scores), None, _data(grad_pos), _data(grad_query),
        )  # fmt: skip
    grad_key, grad_value = key.new_empty(0), table.new_empty(0)
    to_keys = (grad_score, scale, query)
    if grad_out is None:
        if needs_key:
            grad_key, _ = _scatter(of_keys, len(key), to_keys)
        if needs_value:
            grad_value = torch.zeros_like(table)
    elif needs_key and value is None:
        grad_key, _ = _scatter(of_keys, len(key), to_keys, (alpha, grad_out))
    elif needs_key and needs_value and key.shape == table.shape:
        # The graph is transposed once for both.
        to_values = (alpha, grad_out)
        grad_key, grad_value = _scatter(of_keys, len(key), to_keys, to_values, apart=True)
    else:
        if needs_key:
            grad_key, _ = _scatter(of_keys, len(key), to_keys)
        if needs_value:
            grad_value, _ = _scatter(of_values, len(table), (alpha, 1.0, grad_out))
    grad_bias = grad_score if needs_bias else alpha.new_empty(0)
    return grad_query.to(query.dtype), grad_key, grad_value, grad_pos, grad_bias


def _sum(call: Call, weight: Tensor, table: Tensor) -> Tensor:
    """``[N, G, K], [M, C] -> [N, C]``."""
    shape = len(weight), table.shape[1]
    if len(table) == 0:
        return table.new_zeros(shape)
    out = new_output(weight, shape, weight.dtype)
    library().sum(call, _data(weight), features_of(table), _data(out))
    return out.to(table.dtype)


def _scatter(
    call: Call,
    num_rows: int,
    term: tuple[Tensor, float, Tensor],
    other: tuple[Tensor, Tensor] | None = None,
    *,
    apart: bool = False,
) -> tuple[Tensor, Tensor]:
    """Weights ``[N, G, K]``, a factor and nodes ``[N, C]`` ``-> [M, C]``; or two such terms.

    They are added, or, ``apart``, make a table each.
    """
    weight, scale, x = term
    other_weight, other_x = (None, x) if other is None else other
    table = new_output(x, (num_rows, x.shape[1]), weight.dtype)
    other_table = new_output(x, table.shape, table.dtype) if apart else table
    if num_rows:
        library().scatter(
            call, _data(weight), scale, features_of(x), _data(table),
            None if other_weight is None else _data(other_weight), features_of(other_x),
            _data(other_table),
        )  # fmt: skip
    return table.to(x.dtype), other_table.to(x.dtype)


def _rows(features: Tensor) -> Tensor:
    """Features whose channels are side by side, if need be copied."""
    return features if features.stride(1) == 1 or features.shape[1] <= 1 else features.contiguous()


def _zeros_if(need: bool, like: Tensor) -> Tensor:
    return like.new_zeros(like.shape if need else (0,))


def _data(tensor: Tensor) -> int | None:
    """Where a tensor is; nowhere if it is empty."""
    return tensor.data_ptr() if tensor.numel() else None

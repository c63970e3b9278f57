"""Operators on positions that no kernel has as a whole, made of those for corners and edges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyngraph.multilinear import Maps, index_dtype
from dyngraph.ops.kernels.triton.corners import corners, corners_backward
from dyngraph.ops.kernels.triton.edges import gather_dot, gather_sum, scatter_sum
from dyngraph.ops.precision import accumulator
from dyngraph.ops.softmax import softmax_over_samples


def sampled_sum(
    weight: Tensor,
    table: Tensor,
    pos: Tensor,
    maps: Sequence[Maps],
    border: bool,
) -> Tensor:
    edges, corner = _corners(pos, maps, border, weight.dtype)
    return gather_sum((weight.unsqueeze(2) * corner).flatten(2), table, edges)


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
    grad_weight, grad_table, grad_pos = (like.new_empty(0) for like in (weight, table, pos))
    edges, corner = _corners(pos, maps, border, weight.dtype)
    if needs_weight or needs_pos:
        groups = weight.shape[1]
        dots = gather_dot(grad_out, table, edges, groups)
        by_corner = dots.unflatten(2, corner.shape[2:])
        if needs_weight:
            grad_weight = (by_corner * corner).sum(dim=2)
        if needs_pos:
            grad_corner = weight.unsqueeze(2) * by_corner
            grad_pos = _pos_gradient(grad_corner, pos, maps, border)
    if needs_table:
        by_corner = (weight.unsqueeze(2) * corner).flatten(2)
        grad_table = scatter_sum(by_corner, grad_out, edges, len(table))
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
) -> tuple[Tensor, Tensor]:
    """Output and attention."""
    table = key if value is None else value
    dtype = accumulator(query.dtype)
    edges, corner = _corners(pos, maps, border, dtype)
    dots = gather_dot(query, key, edges, groups).unflatten(2, corner.shape[2:])
    score = scale * (dots * corner).sum(dim=2)
    alpha = softmax_over_samples(score if bias is None else score + bias).contiguous()
    return gather_sum((alpha.unsqueeze(2) * corner).flatten(2), table, edges), alpha


def attention_backward(
    grad_out: Tensor,
    grad_alpha: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    alpha: Tensor,
    maps: Sequence[Maps],
    border: bool,
    groups: int,
    scale: float,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    needs_query, needs_key, needs_value, needs_pos, needs_bias = needs
    table = key if value is None else value
    grad_query, grad_key, grad_value, grad_pos, grad_bias = (
        like.new_empty(0) for like in (query, key, table, pos, alpha)
    )
    edges, corner = _corners(pos, maps, border, alpha.dtype)
    value_dots = gather_dot(grad_out, table, edges, groups).unflatten(2, corner.shape[2:])
    grad_alpha_ = (value_dots * corner).sum(dim=2)
    if grad_alpha is not None:
        grad_alpha_ = grad_alpha_ + grad_alpha
    grad_score = alpha * (grad_alpha_ - (alpha * grad_alpha_).sum(dim=-1, keepdim=True))
    scaled = scale * grad_score.unsqueeze(2)
    key_weight, value_weight = (scaled * corner).flatten(2), alpha.unsqueeze(2) * corner
    if needs_query:
        grad_query = gather_sum(key_weight, key, edges)
    if needs_key:
        grad_key = scatter_sum(key_weight, query, edges, len(key))
    if needs_value or (needs_key and value is None):
        grad_value = scatter_sum(value_weight.flatten(2), grad_out, edges, len(table))
    if value is None and needs_key:
        grad_key, grad_value = grad_key + grad_value, table.new_empty(0)
    if needs_pos:
        key_dots = gather_dot(query, key, edges, groups).unflatten(2, corner.shape[2:])
        grad_corner = alpha.unsqueeze(2) * value_dots + scaled * key_dots
        grad_pos = _pos_gradient(grad_corner, pos, maps, border)
    if needs_bias:
        grad_bias = grad_score
    return grad_query, grad_key, grad_value, grad_pos, grad_bias


def _corners(
    pos: Tensor,
    maps: Sequence[Maps],
    border: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Edges ``[N, H, 2^P K]`` and interpolation weights ``[N, H, 2^P, K]``."""
    index, weight = corners(pos, maps, border, index_dtype(pos, maps))
    return index.flatten(2), weight.to(dtype)


def _pos_gradient(grad_corner: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool) -> Tensor:
    if pos.shape[1] == 1:
        grad_corner = grad_corner.sum(dim=1, keepdim=True)
    return corners_backward(grad_corner.to(pos.dtype), pos, maps, border)

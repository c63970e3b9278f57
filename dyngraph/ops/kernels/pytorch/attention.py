"""The kernels of :mod:`dyngraph.ops.operators.attention`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyngraph.multilinear import Maps, index_dtype
from dyngraph.ops.kernels.pytorch.corners import corners, corners_backward
from dyngraph.ops.kernels.pytorch.rows import dot_rows, reorder, sum_rows, transpose_index
from dyngraph.ops.softmax import softmax_over_samples


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
    """Group by group, each with its corners if it has samples of its own."""
    num_nodes, own, num_samples, num_axes = pos.shape
    table = key if value is None else value
    out = table.new_empty(num_nodes, table.shape[1])
    alpha = query.new_empty(num_nodes, groups, num_samples)
    kept = (num_nodes, groups, 2**num_axes, num_samples) if keep_scores else (0,)
    scores = query.new_empty(kept)
    blocks = zip(*(tensor.chunk(groups, dim=1) for tensor in (query, key, table, out)), strict=True)
    for g, (query_g, key_g, value_g, out_g) in enumerate(blocks):
        if g < own:
            index, weight = _corners_of_group(pos, g, maps, border, query.dtype)
        corner_score = dot_rows(query_g, key_g, index.flatten(1)).view(weight.shape)
        score = (corner_score * weight).sum(dim=1) * scale
        alpha_g = softmax_over_samples(score if bias is None else score + bias[:, g])
        sum_rows(index.flatten(1), [(corner_alpha(alpha_g, weight), value_g)], out=out_g)
        alpha[:, g] = alpha_g
        if keep_scores:
            scores[:, g] = corner_score
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
    """Group by group, with the graph transposed once where groups share their samples."""
    table, own = key if value is None else value, pos.shape[1]
    if grad_out is None:
        grad_out = table.new_zeros(len(query), table.shape[1])
    grads = [
        torch.empty_like(like, memory_format=torch.contiguous_format) if need else like.new_empty(0)
        for like, need in zip((query, key, table, pos, alpha), needs, strict=True)
    ]
    grad_query, grad_key, grad_value, grad_pos, grad_bias = grads
    needs_query, needs_key, needs_value, needs_pos, needs_bias = needs

    def block(tensor: Tensor, g: int) -> Tensor:
        return tensor.chunk(groups, dim=1)[g]

    for g in range(groups):
        if g < own:
            index, weight = _corners_of_group(pos, g, maps, border, query.dtype)
            edges = index.flatten(1)
            grad_weight = None
            if needs_key or needs_value:
                order, ptr = transpose_index(edges, len(key))
                receiver = order // max(edges.shape[1], 1)
        query_g, key_g, value_g = block(query, g), block(key, g), block(table, g)
        grad_out_g, alpha_g = block(grad_out, g), alpha[:, g]

        # y = Σ_k Σ_c α_k w_ck v_ck
        weight_g = corner_alpha(alpha_g, weight)
        grad_corner_alpha = dot_rows(grad_out_g, value_g, edges).view(weight.shape)
        grad_alpha_g = (grad_corner_alpha * weight).sum(dim=1)
        if grad_alpha is not None:
            grad_alpha_g += grad_alpha[:, g]
        # α = softmax(s)
        expected = (alpha_g * grad_alpha_g).sum(dim=-1, keepdim=True)
        grad_score = alpha_g * (grad_alpha_g - expected)
        # s_k = σ Σ_c w_ck d_ck + b_k
        scaled = (grad_score * scale).unsqueeze(1)
        grad_corner_score = (scaled * weight).flatten(1)

        if needs_bias:
            grad_bias[:, g] = grad_score
        if needs_pos:
            corner_score = scores[:, g] if scores.numel() else dot_rows(query_g, key_g, edges)
            part = torch.addcmul(
                alpha_g.unsqueeze(1) * grad_corner_alpha, scaled, corner_score.view(weight.shape)
            )
            grad_weight = part if grad_weight is None else grad_weight.add_(part)
            if own > 1 or g == groups - 1:
                here = slice(g, g + 1) if own > 1 else slice(None)
                grad_pos[:, here] = corners_backward(
                    grad_weight.unsqueeze(1).to(pos.dtype), pos[:, here], maps, border
                )
        if needs_query:
            sum_rows(edges, [(grad_corner_score, key_g)], out=block(grad_query, g))
        if needs_key:
            terms = [(reorder(grad_corner_score, order), query_g)]
            if value is None:
                terms.append((reorder(weight_g, order), grad_out_g))
            sum_rows(receiver, terms, ptr, out=block(grad_key, g))
        if needs_value:
            terms = [(reorder(weight_g, order), grad_out_g)]
            sum_rows(receiver, terms, ptr, out=block(grad_value, g))
    return grad_query, grad_key, grad_value, grad_pos, grad_bias


def corner_alpha(alpha: Tensor, weight: Tensor) -> Tensor:
    r"""The attention that each corner gets, ``[N, K], [N, 2^P, K] -> [N, 2^P K]``."""
    return (alpha.unsqueeze(1) * weight).flatten(1)


def _corners_of_group(
    pos: Tensor, g: int, maps: Sequence[Maps], border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Index and weight of the corners of a group's samples, ``[N, 2^P, K]``."""
    index, weight = corners(pos[:, g : g + 1], maps, border, index_dtype(pos, maps))
    return index.squeeze(1), weight.squeeze(1).to(dtype)

"""The kernels of :mod:`dyngraph.ops.operators.sum`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyngraph.multilinear import Maps, index_dtype
from dyngraph.ops.kernels.pytorch.corners import chunks, planes, put
from dyngraph.ops.kernels.pytorch.edges import gather_dot, gather_sum, scatter_sum


def sampled_sum(
    weight: Tensor, table: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool
) -> Tensor:
    edges, by_corner = _weighted_edges(weight, pos, maps, border)
    return gather_sum(by_corner, table, edges)


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
    grad_weight = weight.new_empty(weight.shape if needs_weight else (0,))
    grad_pos = pos.new_empty(pos.shape if needs_pos else (0,))
    edges, by_corner = _weighted_edges(weight, pos, maps, border)
    if needs_table:
        grad_table = scatter_sum(by_corner, grad_out, edges, len(table))
    else:
        grad_table = table.new_empty(0)
    if not (needs_weight or needs_pos):
        return grad_weight, grad_table, grad_pos
    groups = weight.shape[1]
    dots = gather_dot(grad_out, table, edges, groups)
    dots = dots.view(len(dots), groups, 2 ** pos.shape[3], pos.shape[2])
    for chunk in chunks(pos, maps):
        of_nodes = weight[chunk.nodes]
        rows = _rows(of_nodes, pos)
        dot_planes = [dot.view(rows.shape) for dot in planes(dots, chunk.nodes)]
        if needs_weight:
            _, corner_weights = chunk.corners(border, edges.dtype)
            grad = torch.zeros_like(rows)
            for dot, corner_weight in zip(dot_planes, corner_weights, strict=True):
                grad.addcmul_(dot, corner_weight.unsqueeze(1).to(dot.dtype))
            grad_weight[chunk.nodes] = grad.view(of_nodes.shape)
        if needs_pos:
            # Groups that share their samples add up.
            grads = [(dot * rows).sum(dim=1).to(pos.dtype) for dot in dot_planes]
            grad_pos[chunk.nodes] = chunk.corners_backward(grads, border)
    return grad_weight, grad_table, grad_pos


def _weighted_edges(
    weight: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool
) -> tuple[Tensor, Tensor]:
    r"""The corners as edges ``[N, H, 2^P K]``, and what each weighs ``[N, G, 2^P K]``."""
    num_nodes, own, num_samples, num_axes = pos.shape
    by_corner = weight.new_empty(num_nodes, weight.shape[1], 2**num_axes, num_samples)
    dtype = index_dtype(pos, maps)
    index = pos.new_empty(num_nodes, own, 2**num_axes, num_samples, dtype=dtype)
    for chunk in chunks(pos, maps):
        rows = _rows(weight[chunk.nodes], pos)
        nodes, corner_weights = chunk.corners(border, dtype)
        put(index, chunk.nodes, nodes)
        weights = [rows * corner.unsqueeze(1).to(rows.dtype) for corner in corner_weights]
        put(by_corner, chunk.nodes, weights)
    return index.flatten(2), by_corner.flatten(2)


def _rows(weight: Tensor, pos: Tensor) -> Tensor:
    r"""``[N, G, K] -> [N, G / H, H K]``: next to what is shared by groups, or of the same group."""
    num_nodes, groups, num_samples = weight.shape
    own = pos.shape[1]
    return weight.reshape(num_nodes, groups // own, own * num_samples)

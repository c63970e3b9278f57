"""The kernels of :mod:`dyngraph.ops.operators.corners`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dyngraph import multilinear
from dyngraph.multilinear import Maps

# Samples whose corners are computed at a time: memory that is new costs more than arithmetic.
_SAMPLES = 2**18


def corners(
    pos: Tensor, maps: Sequence[Maps], border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    num_nodes, groups, num_samples, num_axes = pos.shape
    if len(maps) == 1 and num_nodes <= _chunk(pos):
        index, weight = _corners_in_maps(pos, maps[0], border, dtype)
    else:
        weight = pos.new_empty(num_nodes, groups, 2**num_axes, num_samples)
        index = torch.empty_like(weight, dtype=dtype)
        for part, rows in _chunks(pos, maps):
            index[rows], weight[rows] = _corners_in_maps(pos[rows], part, border, dtype)
    for part, rows, sender in multilinear.parts_of(maps):
        if part.num_senders and (part.num_maps > 1 or sender):
            by_map = index[rows].unflatten(0, (part.num_maps, part.receivers_of_map))
            by_map += multilinear.first_nodes(part, sender, index)
    return index, weight


def corners_backward(
    grad_weight: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool
) -> Tensor:
    grad_pos = torch.empty_like(pos, memory_format=torch.contiguous_format)
    for part, rows in _chunks(pos, maps):
        if part.num_senders:
            grad_pos[rows] = multilinear.corners_backward_in_map(
                grad_weight[rows], pos[rows], part.shape, border
            )
        else:
            grad_pos[rows] = 0
    return grad_pos


def _corners_in_maps(
    pos: Tensor, maps: Maps, border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    if maps.num_senders == 0:
        return multilinear.corners_of_nothing(pos, dtype)
    return multilinear.corners_in_map(pos, maps.shape, border, dtype)


def _chunk(pos: Tensor) -> int:
    """How many nodes are worked on at a time."""
    return max(1, _SAMPLES // max(1, pos.shape[1] * pos.shape[2]))


def _chunks(pos: Tensor, maps: Sequence[Maps]) -> Iterator[tuple[Maps, slice]]:
    """Some nodes at a time that listen to maps of one size."""
    end = 0
    for part in maps:
        start, end = end, end + part.num_receivers
        for first in range(start, end, _chunk(pos)):
            yield part, slice(first, min(first + _chunk(pos), end))

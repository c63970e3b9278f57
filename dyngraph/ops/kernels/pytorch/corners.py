"""The kernels of :mod:`dyngraph.ops.operators.corners`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dyngraph import multilinear
from dyngraph.multilinear import Block, Maps

# Samples whose corners are computed at a time: memory that is new costs more than arithmetic.
_SAMPLES = 2**18


def corners(
    pos: Tensor, maps: Sequence[Maps], border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    num_nodes, groups, num_samples, num_axes = pos.shape
    if [len(part.levels) for part in maps] == [1] and num_nodes <= _chunk(pos):
        ((block,),) = multilinear.blocks_of(maps)
        index, weight = _corners_of_block(pos, block, border, dtype)
    else:
        weight = pos.new_empty(num_nodes, groups, 2**num_axes, num_samples)
        index = torch.empty_like(weight, dtype=dtype)
        for block, rows in _chunks(pos, maps):
            at = rows, slice(None), slice(None), block.samples
            found = _corners_of_block(pos[rows, :, block.samples], block, border, dtype)
            index[at], weight[at] = found
    for block in itertools.chain(*multilinear.blocks_of(maps)):
        if not block.is_empty and (block.maps.num_images > 1 or block.first_sender):
            of_block = index[block.receivers, :, :, block.samples]
            by_image = of_block.unflatten(0, (block.maps.num_images, block.maps.receivers_of_image))
            by_image += multilinear.first_nodes(block, index)
    return index, weight


def corners_backward(
    grad_weight: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool
) -> Tensor:
    grad_pos = torch.empty_like(pos, memory_format=torch.contiguous_format)
    for block, rows in _chunks(pos, maps):
        if block.is_empty:
            grad_pos[rows, :, block.samples] = 0
        else:
            grad_pos[rows, :, block.samples] = multilinear.corners_backward_in_map(
                grad_weight[rows, :, :, block.samples],
                pos[rows, :, block.samples],
                block.shape,
                border,
            )
    return grad_pos


def _corners_of_block(
    pos: Tensor, block: Block, border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    if block.is_empty:
        return multilinear.corners_of_nothing(pos, dtype)
    return multilinear.corners_in_map(pos, block.shape, border, dtype)


def _chunk(pos: Tensor) -> int:
    """How many nodes are worked on at a time."""
    return max(1, _SAMPLES // max(1, pos.shape[1] * pos.shape[2]))


def _chunks(pos: Tensor, maps: Sequence[Maps]) -> Iterator[tuple[Block, slice]]:
    """Some nodes at a time, and a block that their samples are in."""
    end = 0
    for part, blocks in zip(maps, multilinear.blocks_of(maps), strict=True):
        start, end = end, end + part.num_receivers
        for first in range(start, end, _chunk(pos)):
            for block in blocks:
                yield block, slice(first, min(first + _chunk(pos), end))

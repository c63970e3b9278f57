"""The kernels of :mod:`dyngraph.ops.operators.corners`.

Some nodes at a time, the samples of all their groups and levels side by side, and corner by corner:
PyTorch's arithmetic takes ten times as long over rows of four or nine numbers as over long ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dyngraph import multilinear
from dyngraph.multilinear import Maps

# Samples that are worked on at a time: memory that is new costs more than arithmetic.
_SAMPLES = 2**17


def corners(
    pos: Tensor, maps: Sequence[Maps], border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    num_nodes, groups, num_samples, num_axes = pos.shape
    weight = pos.new_empty(num_nodes, groups, 2**num_axes, num_samples)
    index = torch.empty_like(weight, dtype=dtype)
    for chunk in chunks(pos, maps):
        nodes, weights = chunk.corners(border, dtype)
        put(index, chunk.nodes, nodes)
        put(weight, chunk.nodes, weights)
    return index, weight


def corners_backward(
    grad_weight: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool
) -> Tensor:
    grad_pos = torch.empty_like(pos, memory_format=torch.contiguous_format)
    for chunk in chunks(pos, maps):
        grad_pos[chunk.nodes] = chunk.corners_backward(planes(grad_weight, chunk.nodes), border)
    return grad_pos


class Chunk(NamedTuple):
    """Some nodes, and the maps that they listen to."""

    nodes: slice
    pos: Tensor
    """``[N, G, K, P]``, of these nodes."""
    lengths: list[int | Tensor]
    """The P lengths of the map, or of each sample's ``[G K]``."""
    first: Tensor | None
    """The first node of maps, of each node and sample ``[N or 1, G K or 1]``, if not 0."""
    absent: Tensor | None
    """Which samples are on maps without nodes ``[G K]``, if any."""

    def corners(self, border: bool, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Index and weight of each corner of the samples, 2^P of ``[N, G K]``."""
        pos = self.pos.flatten(1, 2)
        nodes, weights = multilinear.planes_of_corners(pos, self.lengths, border, dtype)
        if self.first is not None:
            nodes = [node.add_(self.first.to(dtype)) for node in nodes]
        if self.absent is not None:
            nodes = [node.masked_fill_(self.absent, 0) for node in nodes]
            weights = [weight.masked_fill_(self.absent, 0) for weight in weights]
        return nodes, weights

    def corners_backward(self, grad_weights: Sequence[Tensor], border: bool) -> Tensor:
        """The gradient of the positions from those of the weights, 2^P of ``[N, G K]``."""
        pos = self.pos.flatten(1, 2)
        grad_pos = multilinear.planes_backward(grad_weights, pos, self.lengths, border)
        if self.absent is not None:
            grad_pos.masked_fill_(self.absent.unsqueeze(-1), 0)
        return grad_pos.view(self.pos.shape)


def chunks(pos: Tensor, maps: Sequence[Maps]) -> Iterator[Chunk]:
    """All nodes, some at a time."""
    size = max(1, _SAMPLES // max(1, pos.shape[1] * pos.shape[2]))
    end = sender = 0
    for part in maps:
        start, end = end, end + part.num_receivers
        lengths, level_start, absent = _levels(part, pos)
        for first in range(start, end, size):
            nodes = slice(first, min(first + size, end))
            map_start = level_start
            if part.num_images > 1 or sender:
                node = torch.arange(nodes.start - start, nodes.stop - start, device=pos.device)
                image = node.div_(part.receivers_of_image, rounding_mode="floor").unsqueeze(1)
                image_start = image.mul_(part.senders_of_image).add_(sender)
                map_start = image_start if level_start is None else image_start + level_start
            yield Chunk(nodes, pos[nodes], lengths, map_start, absent)
        sender += part.num_senders


def planes(by_corner: Tensor, nodes: slice) -> tuple[Tensor, ...]:
    r"""The values of some nodes for each corner, ``[M, G, 2^P, K]`` -> 2^P of ``[N, G K]``."""
    return by_corner[nodes].movedim(2, 0).flatten(2).unbind()


def put(by_corner: Tensor, nodes: slice, values: Sequence[Tensor]) -> None:
    r"""The inverse of :func:`planes`."""
    of_nodes = by_corner[nodes]
    shape = len(of_nodes), of_nodes.shape[1], of_nodes.shape[3]
    torch.stack([plane.view(shape) for plane in values], dim=2, out=of_nodes)


def _levels(part: Maps, pos: Tensor) -> tuple[list[int | Tensor], Tensor | None, Tensor | None]:
    """Lengths, first nodes and absence of the maps of an image, as in :class:`Chunk`."""
    shapes = [level.shape for level in part.levels]
    sizes = [math.prod(shape) for shape in shapes]
    if len(shapes) == 1 and sizes[0]:
        return list(shapes[0]), None, None

    counts = torch.tensor([level.num_samples for level in part.levels])

    def of_samples(numbers: Sequence[int]) -> Tensor:
        of_levels = torch.tensor(numbers).repeat_interleave(counts)
        return of_levels.repeat(pos.shape[1]).to(pos.device)

    lengths: list[int | Tensor] = [
        of_samples(of_axis).clamp_min_(1).to(pos.dtype) for of_axis in zip(*shapes, strict=True)
    ]
    starts = of_samples([0, *itertools.accumulate(sizes[:-1])])
    absent = None if all(sizes) else of_samples(sizes) == 0
    return lengths, starts.unsqueeze(0), absent

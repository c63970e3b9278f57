r"""Multilinear interpolation, in standard operators that any backend differentiates and exports.

The weight of corner :math:`\mathbf{c}` of a sample at :math:`\mathbf{p}`, and its derivative, are
products over the axes:

.. math::
    w_{\mathbf{c}} = \prod_a w_{c_a}(p_a), \qquad
    \frac{\partial w_{\mathbf{c}}}{\partial p_a} = \pm_{c_a} \prod_{b \ne a} w_{c_b}(p_b), \qquad
    w_{c_a}(p_a) = \max(0, 1 - |p_a - c_a|)
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dyngraph.derivatives import transforms_active


class Level(NamedTuple):
    """One of the maps that an image has, and the samples that are on it."""

    num_samples: int
    shape: tuple[int, ...]
    """The P lengths of the map."""


class Maps(NamedTuple):
    """Neighbouring images whose sender maps are of the same sizes, and the nodes that listen."""

    num_images: int
    receivers_of_image: int
    levels: tuple[Level, ...]
    """The maps of an image, whose nodes follow one another, as do the samples on them."""

    @property
    def senders_of_image(self) -> int:
        """The nodes of all levels of an image."""
        return sum(math.prod(level.shape) for level in self.levels)

    @property
    def num_senders(self) -> int:
        """The nodes of all of these maps."""
        return self.num_images * self.senders_of_image

    @property
    def num_receivers(self) -> int:
        """The nodes that listen to all of these images."""
        return self.num_images * self.receivers_of_image


class Block(NamedTuple):
    """Samples on maps of one size: those of some receivers on one level."""

    maps: Maps
    shape: tuple[int, ...]
    receivers: slice
    samples: slice
    first_sender: int

    @property
    def is_empty(self) -> bool:
        """Whether the maps have no node."""
        return math.prod(self.shape) == 0


class AxisCorner(NamedTuple):
    """The lower or the upper corner of samples along one axis, each tensor ``[..., K]``."""

    node: Tensor
    weight: Tensor
    outside: Tensor
    """1 outside the map, else 0."""


def flatten_maps(maps: Sequence[Maps]) -> list[int]:
    r"""Maps as numbers, which operators take.

    The number of levels, the samples on each; then, for all images with maps of the same sizes,
    their number, the receivers of one, and the lengths of its maps.
    """
    levels = [level.num_samples for level in maps[0].levels] if maps else []
    numbers = [len(levels), *levels]
    for part in maps:
        numbers += [part.num_images, part.receivers_of_image]
        numbers += [length for level in part.levels for length in level.shape]
    return numbers


def unflatten_maps(numbers: Sequence[int], pos: Tensor) -> list[Maps]:
    r"""The inverse of :func:`flatten_maps` for positions on these maps."""
    num_levels, num_axes = int(numbers[0]), pos.shape[-1]
    samples, numbers = numbers[1 : 1 + num_levels], numbers[1 + num_levels :]
    maps = []
    for start in range(0, len(numbers), 2 + num_levels * num_axes):
        num_images, receivers = numbers[start : start + 2]
        ends = range(start + 2 + num_axes, start + 3 + num_levels * num_axes, num_axes)
        shapes = [tuple(numbers[end - num_axes : end]) for end in ends]
        levels = tuple(Level(*level) for level in zip(samples, shapes, strict=True))
        maps.append(Maps(num_images, receivers, levels))
    return maps


def index_dtype(pos: Tensor, maps: Sequence[Maps]) -> torch.dtype:
    r"""The integers that number corners: int32, or int64 where there are too many.

    With room for an index of every corner, and of every sender node with every sample.
    """
    num_receivers, groups, num_samples, num_axes = pos.shape
    rows = max(num_receivers * 2**num_axes, sum(part.num_senders for part in maps))
    return torch.int32 if rows * groups * num_samples < 2**31 else torch.int64


def blocks_of(maps: Sequence[Maps]) -> Iterator[list[Block]]:
    r"""All images with maps of the same sizes at a time, each level of them."""
    receiver = sender = 0
    for part in maps:
        # Not by numbers where there is only one, which an exported program may not know.
        receivers = slice(receiver, receiver + part.num_receivers)
        receivers = slice(None) if len(maps) == 1 else receivers
        blocks = []
        sample, level_start = 0, sender
        for level in part.levels:
            samples = slice(sample, sample + level.num_samples)
            samples = slice(None) if len(part.levels) == 1 else samples
            blocks.append(Block(part, level.shape, receivers, samples, level_start))
            sample, level_start = sample + level.num_samples, level_start + math.prod(level.shape)
        yield blocks
        receiver, sender = receiver + part.num_receivers, sender + part.num_senders


def corners(
    pos: Tensor, maps: Sequence[Maps], border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    r"""Sender node and weight of each corner.

    Args:
        pos: ``[N, G, K, P]``, in units of nodes.
        maps: The maps that the N nodes listen to.
        border: Whether positions are clamped to the map. Otherwise a corner outside weighs 0.
        dtype: The dtype of indices.

    Returns:
        ``[N, G, 2^P, K]`` each.
    """
    found = []
    for blocks in blocks_of(maps):
        levels = [
            _corners_of_block(pos[block.receivers, :, block.samples], block, border, dtype)
            for block in blocks
        ]
        found.append(_cat(levels, dim=-1))
    return _cat(found, dim=0) if found else corners_of_nothing(pos, dtype)


def _cat(parts: list[tuple[Tensor, Tensor]], dim: int) -> tuple[Tensor, Tensor]:
    """Indices and weights, side by side."""
    if len(parts) == 1:
        return parts[0]
    indices, weights = zip(*parts, strict=True)
    return torch.cat(indices, dim), torch.cat(weights, dim)


def _corners_of_block(
    pos: Tensor, block: Block, border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    if block.is_empty:
        return corners_of_nothing(pos, dtype)
    index, weight = corners_in_map(pos, block.shape, border, dtype)
    by_image = index.unflatten(0, (block.maps.num_images, block.maps.receivers_of_image))
    return (by_image + first_nodes(block, index)).flatten(0, 1), weight


def corners_of_nothing(pos: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    r"""The corners of samples without a map: any index of a node will do, and weighs 0."""
    planes = pos[..., 0].unsqueeze(-2).expand(*pos.shape[:-2], 2 ** pos.shape[-1], -1)
    weight = planes.masked_fill(torch.ones((), dtype=torch.bool, device=pos.device), 0)
    return weight.to(dtype), weight


def first_nodes(block: Block, index: Tensor) -> Tensor:
    r"""The first node of each map ``[B, 1, 1, 1, 1]``, for ``index [B, N / B, G, 2^P, K]``."""
    image = torch.arange(block.maps.num_images, dtype=index.dtype, device=index.device)
    return (image * block.maps.senders_of_image + block.first_sender).view(-1, 1, 1, 1, 1)


def corners_in_map(
    pos: Tensor, shape: Sequence[int], border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    r"""Index, in its map, and weight of each corner: ``[..., K, P] -> [..., 2^P, K]`` each."""
    nodes, weights = planes_of_corners(pos, shape, border, dtype)
    return torch.stack(nodes, dim=-2), torch.stack(weights, dim=-2)


def planes_of_corners(
    pos: Tensor, shape: Sequence[int | Tensor], border: bool, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    r"""The same apart, 2^P indices and as many weights ``[..., K]``.

    Samples may be on maps of several shapes: the lengths are then tensors ``[K]`` in the dtype of
    ``pos``.
    """
    nodes: list[Tensor] = []
    weights: list[Tensor] = []
    for length, axis in zip(shape, _axes(pos, shape, border), strict=True):
        indices = [corner.node.to(dtype) for corner in axis]
        factors = [corner.weight for corner in axis]
        if not nodes:
            nodes = indices
        elif isinstance(length, Tensor):
            whole = length.to(dtype)
            nodes = [torch.addcmul(i, row, whole) for row in nodes for i in indices]
        else:
            nodes = [torch.add(i, row, alpha=length) for row in nodes for i in indices]
        weights = [w * factor for w in weights for factor in factors] if weights else factors
    return nodes, weights


def corners_backward(
    grad_weight: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool
) -> Tensor:
    r"""The gradient ``[N, G, K, P]`` of positions from that of the weights ``[N, G, 2^P, K]``."""
    grads = []
    for blocks in blocks_of(maps):
        levels = [_corners_backward_of_block(grad_weight, pos, block, border) for block in blocks]
        grads.append(levels[0] if len(levels) == 1 else torch.cat(levels, dim=2))
    if not grads:
        return torch.zeros_like(pos)
    return grads[0] if len(grads) == 1 else torch.cat(grads)


def _corners_backward_of_block(
    grad_weight: Tensor, pos: Tensor, block: Block, border: bool
) -> Tensor:
    pos = pos[block.receivers, :, block.samples]
    if block.is_empty:
        return torch.zeros_like(pos)
    grad_weight = grad_weight[block.receivers, :, :, block.samples]
    return planes_backward(grad_weight.unbind(-2), pos, block.shape, border)


def planes_backward(
    grad_weights: Sequence[Tensor], pos: Tensor, shape: Sequence[int | Tensor], border: bool
) -> Tensor:
    r"""The gradient of positions ``[..., K, P]`` from those of :func:`planes_of_corners`."""
    axes = _axes(pos, shape, border)
    weights = [(lower.weight, upper.weight) for lower, upper in axes]
    slopes = [(lower.outside - 1, 1 - upper.outside) for lower, upper in axes]
    grads: list[Tensor] = []
    for a, slope in enumerate(slopes):
        factors = [*weights[:a], slope, *weights[a + 1 :]]
        # The last axis first, whose two corners are side by side.
        grad = list(grad_weights)
        for lower, upper in reversed(factors):
            pairs = zip(grad[::2], grad[1::2], strict=True)
            grad = [at_lower * lower + at_upper * upper for at_lower, at_upper in pairs]
        grads += grad
    if border:
        for a, (p, length) in enumerate(zip(pos.unbind(-1), shape, strict=True)):
            grads[a] = torch.where((p > 0) & (p < length - 1), grads[a], 0)
    return torch.stack(grads, dim=-1)


def _axes(
    pos: Tensor, shape: Sequence[int | Tensor], border: bool
) -> list[tuple[AxisCorner, AxisCorner]]:
    return [
        _axis_corners(p.contiguous(), length, border)
        for p, length in zip(pos.unbind(-1), shape, strict=True)
    ]


def _axis_corners(p: Tensor, length: int | Tensor, border: bool) -> tuple[AxisCorner, AxisCorner]:
    """The lower and the upper corner."""
    if border:
        # Clamping an infinite position would hide it.
        p = torch.where(p.isfinite(), p, torch.nan)
        # On the border, the derivative of a clamp is 0 in new PyTorch and 1 in old. Here it is 0.
        inner = (p > 0) & (p < length - 1)
        p = torch.where(inner, p, _clamp(p.detach(), length))
    lower = p.detach().floor()
    # NaN where p is not finite, so that both weights are.
    fraction = p - lower
    lower.nan_to_num_(0, 0, 0)
    return (
        _axis_corner(lower, 1 - fraction, length),
        _axis_corner(lower + 1, fraction, length),
    )


def _axis_corner(corner: Tensor, weight: Tensor, length: int | Tensor) -> AxisCorner:
    # Clamped as a float: the integer cast of a far position is undefined.
    node = _clamp(corner, length)
    # Arithmetic in place, because comparisons and new memory take a CPU several times longer.
    outside = (corner - node).abs_().clamp_max_(1)
    # A product, which keeps NaN.
    if transforms_active():
        # Compiled, the forward-mode derivative of `addcmul` crashes PyTorch 2.14.
        return AxisCorner(node, weight - weight * outside, outside)
    return AxisCorner(node, torch.addcmul(weight, weight, outside, value=-1), outside)


def _clamp(p: Tensor, length: int | Tensor) -> Tensor:
    """Into a map."""
    if isinstance(length, Tensor):
        return p.clamp_min(0).clamp_max_(length - 1)
    return p.clamp(0, length - 1)

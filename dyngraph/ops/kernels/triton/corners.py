"""The kernels of :mod:`dyngraph.ops.operators.corners`."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyngraph.multilinear import Block, Maps, blocks_of, corners_of_nothing
from dyngraph.ops.kernels.triton.tiles import device

# Samples of a program.
_BLOCK = 256


def corners(
    pos: Tensor, maps: Sequence[Maps], border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    num_nodes, groups, num_samples, num_axes = pos.shape
    weight = pos.new_empty(num_nodes, groups, 2**num_axes, num_samples)
    index = torch.empty_like(weight, dtype=dtype)
    pos = pos.contiguous()
    for block in itertools.chain(*blocks_of(maps)):
        at = block.receivers, slice(None), slice(None), block.samples
        if block.is_empty:
            index[at], weight[at] = corners_of_nothing(
                pos[block.receivers, :, block.samples], dtype
            )
        else:
            _launch(_corners_kernel, pos, block, border, index, weight)
    return index, weight


def corners_backward(
    grad_weight: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool
) -> Tensor:
    grad_pos = torch.zeros_like(pos, memory_format=torch.contiguous_format)
    grad_weight, pos = grad_weight.contiguous(), pos.contiguous()
    for block in itertools.chain(*blocks_of(maps)):
        if not block.is_empty:
            _launch(_corners_backward_kernel, pos, block, border, grad_weight, grad_pos)
    return grad_pos


def _launch(kernel: Any, pos: Tensor, block: Block, border: bool, *tensors: Tensor) -> None:
    """Runs a kernel for the samples of a block."""
    _, groups, num_samples, num_axes = pos.shape
    first, end, _ = block.samples.indices(num_samples)
    rows = block.maps.num_receivers * groups
    if not rows * (end - first):
        return
    with device(pos):
        kernel[(triton.cdiv(rows * (end - first), _BLOCK),)](
            pos,
            *tensors,
            rows * (end - first),
            (block.receivers.start or 0) * groups,
            first,
            end - first,
            num_samples,
            block.maps.receivers_of_image * groups,
            block.first_sender,
            block.maps.senders_of_image,
            *lengths(block.shape),
            num_axes,
            border,
            _BLOCK,
        )


def lengths(shape: Sequence[int]) -> tuple[int, int, int]:
    """The lengths of a map as a kernel takes them, whatever the number of axes."""
    first, second, third = (*shape, 1, 1)[:3]
    return first, second, third


@triton.jit
def _corners_kernel(
    pos,
    index,
    weight,
    num_places,
    first_row,
    first_sample,
    samples_of_level,
    num_samples,
    rows_of_image,
    first_sender,
    senders_of_image,
    length_0,
    length_1,
    length_2,
    num_axes: tl.constexpr,
    border: tl.constexpr,
    block: tl.constexpr,
):
    place, live = _places(num_places, block)
    # A row for each node, or for each group of a node.
    row, k = place // samples_of_level, first_sample + place % samples_of_level
    image, row = row // rows_of_image, first_row + row
    shape = (length_0, length_1, length_2)
    axes = load_axes(pos, row * num_samples + k, live, shape, num_axes, border)
    for c in tl.static_range(2**num_axes):
        sender, factor = find_corner(axes, shape, 0, c, num_axes)
        sender += first_sender + image * senders_of_image
        at = (row * 2**num_axes + c) * num_samples + k
        tl.store(index + at, sender.to(index.dtype.element_ty), live)
        tl.store(weight + at, factor, live)


@triton.jit
def _corners_backward_kernel(
    pos,
    grad_weight,
    grad_pos,
    num_places,
    first_row,
    first_sample,
    samples_of_level,
    num_samples,
    rows_of_image,
    first_sender,
    senders_of_image,
    length_0,
    length_1,
    length_2,
    num_axes: tl.constexpr,
    border: tl.constexpr,
    block: tl.constexpr,
):
    place, live = _places(num_places, block)
    row, k = first_row + place // samples_of_level, first_sample + place % samples_of_level
    sample = row * num_samples + k
    shape = (length_0, length_1, length_2)
    axes = load_axes(pos, sample, live, shape, num_axes, border)
    at, there = coordinates(sample, live, num_axes)
    total = tl.zeros(at.shape, pos.dtype.element_ty)
    for c in tl.static_range(2**num_axes):
        upstream = tl.load(grad_weight + (row * 2**num_axes + c) * num_samples + k, live, other=0)
        total += upstream[:, None] * corner_slopes(axes, c, num_axes)
    tl.store(grad_pos + at, free_gradient(total, axes, num_axes, border), there)


@triton.jit
def _places(num_places, block: tl.constexpr):
    """The samples of this program, numbered through all rows, and which of them there are."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    return place, place < num_places


@triton.jit
def load_axes(pos, sample, live, shape, num_axes: tl.constexpr, border: tl.constexpr):
    """The corners of samples along each of three axes; along those that are not, of the first."""
    first = _axis_corners(pos + sample * num_axes, live, shape[0], border)
    second = first
    third = first
    if num_axes > 1:
        second = _axis_corners(pos + sample * num_axes + 1, live, shape[1], border)
    if num_axes > 2:
        third = _axis_corners(pos + sample * num_axes + 2, live, shape[2], border)
    return first, second, third


@triton.jit
def _axis_corners(place, live, length, border: tl.constexpr):
    """The lower and the upper corner along one axis, and whether a border leaves samples free.

    Of each corner: its index, its weight, and the weight's derivative.
    """
    p = tl.load(place, live, other=0)
    free = (p > 0) & (p < length - 1)
    finite = tl.abs(p) < float("inf")
    # Clamping an infinite position would hide it.
    p = tl.where(finite, p, float("nan"))
    if border:
        p = tl.where(finite, tl.minimum(tl.maximum(p, 0), length - 1), p)
    lower = tl.floor(p)
    fraction = p - lower
    lower = tl.where(finite, lower, 0)
    upper = lower + 1
    # Clamped as floats: the integer cast of a far position is undefined.
    lower_index = tl.minimum(tl.maximum(lower, 0), length - 1)
    upper_index = tl.minimum(tl.maximum(upper, 0), length - 1)
    lower_inside = (lower_index == lower).to(p.dtype)
    upper_inside = (upper_index == upper).to(p.dtype)
    # Products, which keep NaN.
    return (
        (lower_index.to(tl.int64), (1 - fraction) * lower_inside, -lower_inside),
        (upper_index.to(tl.int64), fraction * upper_inside, upper_inside),
        free,
    )


@triton.jit
def find_corner(axes, shape, map_of_sample, c: tl.constexpr, num_axes: tl.constexpr):
    """The row and the weight of corner c of samples on maps of one shape."""
    # Corners are numbered by their bits: 0 for the lower one, and the last axis's bit the lowest.
    # Maps are stacked along their first axis.
    row, weight = map_of_sample, 1.0
    for a in tl.static_range(num_axes):
        index, factor, _ = axes[a][(c >> (num_axes - 1 - a)) & 1]
        row = row * shape[a] + index
        weight *= factor
    return row, weight


@triton.jit
def corner_slopes(axes, c: tl.constexpr, num_axes: tl.constexpr):
    """The derivatives ``[samples, axes]`` of the weight of corner c."""
    axis = tl.arange(0, 1 << (num_axes - 1))[None, :]
    slopes = 1.0
    for a in tl.static_range(num_axes):
        _, factor, slope = axes[a][(c >> (num_axes - 1 - a)) & 1]
        slopes *= tl.where(axis == a, slope[:, None], factor[:, None])
    return slopes


@triton.jit
def free_gradient(grad, axes, num_axes: tl.constexpr, border: tl.constexpr):
    """The gradient ``[samples, axes]`` of positions, 0 where the border clamps them."""
    if border:
        axis = tl.arange(0, 1 << (num_axes - 1))[None, :]
        for a in tl.static_range(num_axes):
            grad = tl.where((axis != a) | axes[a][2][:, None], grad, 0)
    return grad


@triton.jit
def coordinates(sample, live, num_axes: tl.constexpr):
    """The places ``[samples, axes]`` of coordinates in memory, and which of them there are."""
    # 1, 2 or 4 columns for 1, 2 or 3 axes.
    axis = tl.arange(0, 1 << (num_axes - 1))[None, :]
    return sample[:, None] * num_axes + axis, live[:, None] & (axis < num_axes)

"""The kernels of :mod:`dyngraph.ops.corners`."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyngraph.ops.triton_kernels.tiles import device

# Samples of a program.
_BLOCK = 256


def corners(
    pos: Tensor, shape: Sequence[int], num_maps: int, border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    num_nodes, num_samples, num_axes = pos.shape
    weight = pos.new_empty(num_nodes, 2**num_axes, num_samples)
    index = torch.empty_like(weight, dtype=dtype)
    if weight.numel():
        with device(pos):
            _corners_kernel[(triton.cdiv(num_nodes * num_samples, _BLOCK),)](
                pos.contiguous(),
                index,
                weight,
                num_nodes * num_samples,
                num_samples,
                num_nodes // num_maps,
                *_three(shape),
                num_axes,
                border,
                _BLOCK,
            )
    return index, weight


def corners_backward(
    grad_weight: Tensor, pos: Tensor, shape: Sequence[int], border: bool
) -> Tensor:
    num_nodes, num_samples, num_axes = pos.shape
    grad_pos = torch.empty_like(pos, memory_format=torch.contiguous_format)
    if grad_pos.numel():
        with device(pos):
            _corners_backward_kernel[(triton.cdiv(num_nodes * num_samples, _BLOCK),)](
                grad_weight.contiguous(),
                pos.contiguous(),
                grad_pos,
                num_nodes * num_samples,
                num_samples,
                *_three(shape),
                num_axes,
                border,
                _BLOCK,
            )
    return grad_pos


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    """The lengths of a map as a kernel takes them, whatever the number of axes."""
    first, second, third = (*shape, 1, 1)[:3]
    return first, second, third


@triton.jit
def _corners_kernel(
    pos,
    index,
    weight,
    num_rows,
    num_samples,
    nodes_of_map,
    length_0,
    length_1,
    length_2,
    num_axes: tl.constexpr,
    border: tl.constexpr,
    block: tl.constexpr,
):
    sample, live = _samples(num_rows, block)
    node, k = sample // num_samples, sample % num_samples
    # Corners are numbered by their bits: 0 for the lower one, and the last axis's bit the lowest.
    for c in tl.static_range(2**num_axes):
        # Maps are stacked along their first axis.
        row = node // nodes_of_map
        product = tl.full([block], 1, weight.dtype.element_ty)
        for a in tl.static_range(num_axes):
            length = _length(a, length_0, length_1, length_2)
            p = tl.load(pos + sample * num_axes + a, live, other=0)
            at, factor, _ = _axis_corner(p, length, (c >> (num_axes - 1 - a)) & 1, border)
            row = row * length + at
            product *= factor
        place = (node * 2**num_axes + c) * num_samples + k
        tl.store(index + place, row.to(index.dtype.element_ty), live)
        tl.store(weight + place, product, live)


@triton.jit
def _corners_backward_kernel(
    grad_weight,
    pos,
    grad_pos,
    num_rows,
    num_samples,
    length_0,
    length_1,
    length_2,
    num_axes: tl.constexpr,
    border: tl.constexpr,
    block: tl.constexpr,
):
    sample, live = _samples(num_rows, block)
    node, k = sample // num_samples, sample % num_samples
    for a in tl.static_range(num_axes):
        total = tl.zeros([block], pos.dtype.element_ty)
        for c in tl.static_range(2**num_axes):
            place = (node * 2**num_axes + c) * num_samples + k
            part = tl.load(grad_weight + place, live, other=0)
            for b in tl.static_range(num_axes):
                length = _length(b, length_0, length_1, length_2)
                p = tl.load(pos + sample * num_axes + b, live, other=0)
                _, factor, slope = _axis_corner(p, length, (c >> (num_axes - 1 - b)) & 1, border)
                if a == b:
                    factor = slope
                part *= factor
            total += part
        if border:
            p = tl.load(pos + sample * num_axes + a, live, other=0)
            last = _length(a, length_0, length_1, length_2) - 1
            total = tl.where((p > 0) & (p < last), total, 0)
        tl.store(grad_pos + sample * num_axes + a, total, live)


@triton.jit
def _samples(num_rows, block: tl.constexpr):
    """The samples of this program, numbered through all nodes, and which of them there are."""
    sample = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    return sample, sample < num_rows


@triton.jit
def _length(axis: tl.constexpr, length_0, length_1, length_2):
    if axis == 0:
        return length_0
    elif axis == 1:
        return length_1
    else:
        return length_2


@triton.jit
def _axis_corner(p, length, upper: tl.constexpr, border: tl.constexpr):
    """The lower or the upper corner along one axis: index, weight and the weight's derivative."""
    finite = tl.abs(p) < float("inf")
    # Clamping an infinite position would hide it.
    place = tl.where(finite, p, float("nan"))
    if border:
        place = tl.where(finite, tl.minimum(tl.maximum(p, 0), length - 1), place)
    lower = tl.floor(place)
    fraction = place - lower
    corner = tl.where(finite, lower, 0)
    if upper:
        corner += 1
    # Clamped as a float: the integer cast of a far position is undefined.
    index = tl.minimum(tl.maximum(corner, 0), length - 1)
    inside = (index == corner).to(place.dtype)
    # Products, which keep NaN.
    if upper:
        return index.to(tl.int64), fraction * inside, inside
    else:
        return index.to(tl.int64), (1 - fraction) * inside, -inside

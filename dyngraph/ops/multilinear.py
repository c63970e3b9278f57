r"""Multilinear interpolation, in standard operators that any backend differentiates and exports.

The weight of corner :math:`\mathbf{c}` of a sample at :math:`\mathbf{p}`, and its derivative, are
products over the axes:

.. math::
    w_{\mathbf{c}} = \prod_a w_{c_a}(p_a), \qquad
    \frac{\partial w_{\mathbf{c}}}{\partial p_a} = \pm_{c_a} \prod_{b \ne a} w_{c_b}(p_b), \qquad
    w_{c_a}(p_a) = \max(0, 1 - |p_a - c_a|)
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dyngraph.ops.transforms import transforms_active


class AxisCorner(NamedTuple):
    """The lower or the upper corner of samples along one axis, each tensor ``[N, K]``."""

    node: Tensor
    weight: Tensor
    outside: Tensor
    """1 outside the map, else 0."""


def corners(
    pos: Tensor, shape: Sequence[int], border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    r"""Index, in its map, and weight of each corner.

    Args:
        pos: ``[N, K, P]``.
        shape: The P lengths of a map.
        border: Whether positions are clamped to the map.
        dtype: The dtype of indices.

    Returns:
        ``[N, 2^P, K]`` each.
    """
    nodes: list[Tensor] = []
    weights: list[Tensor] = []
    for length, axis in zip(shape, _axes(pos, shape, border), strict=True):
        indices = [corner.node.to(dtype) for corner in axis]
        factors = [corner.weight for corner in axis]
        if nodes:
            nodes = [torch.add(i, row, alpha=length) for row in nodes for i in indices]
        else:
            nodes = indices
        weights = [w * factor for w in weights for factor in factors] if weights else factors
    return torch.stack(nodes, dim=1), torch.stack(weights, dim=1)


def first_nodes(shape: Sequence[int], num_maps: int, index: Tensor) -> Tensor:
    r"""The first node of each of several maps, for an addition to ``index [B, N / B, 2^P, K]``."""
    image = torch.arange(num_maps, dtype=index.dtype, device=index.device)
    return (image * math.prod(shape)).view(-1, 1, 1, 1)


def corners_backward(
    grad_weight: Tensor, pos: Tensor, shape: Sequence[int], border: bool
) -> Tensor:
    r"""The gradient ``[N, K, P]`` of positions from that of the weights ``[N, 2^P, K]``."""
    axes = _axes(pos, shape, border)
    weights = [torch.stack([lower.weight, upper.weight]) for lower, upper in axes]
    slopes = [torch.stack([lower.outside - 1, 1 - upper.outside]) for lower, upper in axes]
    # An axis of length 2 for each spatial axis.
    planes = grad_weight.movedim(1, 0).reshape(*[2] * len(axes), *pos.shape[:2])
    grads = []
    for a, slope in enumerate(slopes):
        # The differentiated axis last.
        grad = planes.movedim(a, len(axes) - 1)
        for factor in [*weights[:a], *weights[a + 1 :], slope]:
            following = [1] * (grad.dim() - factor.dim())
            grad = (grad * factor.view(2, *following, *pos.shape[:2])).sum(dim=0)
        grads.append(grad)
    grad_pos = torch.stack(grads, dim=-1)
    if border:
        last = pos.new_tensor(shape) - 1
        grad_pos = torch.where((pos > 0) & (pos < last), grad_pos, 0)
    return grad_pos


def _axes(pos: Tensor, shape: Sequence[int], border: bool) -> list[tuple[AxisCorner, AxisCorner]]:
    return [
        _axis_corners(p.contiguous(), length, border)
        for p, length in zip(pos.unbind(-1), shape, strict=True)
    ]


def _axis_corners(p: Tensor, length: int, border: bool) -> tuple[AxisCorner, AxisCorner]:
    """The lower and the upper corner."""
    if border:
        # Clamping an infinite position would hide it.
        p = torch.where(p.isfinite(), p, torch.nan)
        # On the border, the derivative of a clamp is 0 in new PyTorch and 1 in old. Here it is 0.
        inner = (p > 0) & (p < length - 1)
        p = torch.where(inner, p, p.detach().clamp(0, length - 1))
    lower = p.detach().floor()
    # NaN where p is not finite, so that both weights are.
    fraction = p - lower
    lower.nan_to_num_(0, 0, 0)
    return (
        _axis_corner(lower, 1 - fraction, length),
        _axis_corner(lower + 1, fraction, length),
    )


def _axis_corner(corner: Tensor, weight: Tensor, length: int) -> AxisCorner:
    # Clamped as a float: the integer cast of a far position is undefined.
    node = corner.clamp(0, length - 1)
    # Arithmetic in place, because comparisons and new memory take a CPU several times longer.
    outside = (corner - node).abs_().clamp_max_(1)
    # A product, which keeps NaN.
    if transforms_active():
        # Compiled, the forward-mode derivative of `addcmul` crashes PyTorch 2.14.
        return AxisCorner(node, weight - weight * outside, outside)
    return AxisCorner(node, torch.addcmul(weight, weight, outside, value=-1), outside)

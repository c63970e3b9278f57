"""Deformable convolution on feature maps, with the shapes that its users know."""

from __future__ import annotations

import math

from torch import Tensor

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.ops.precision import accumulator
from dyngraph.ops.sampled import sampled_convolution


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""A convolution whose taps move, and whose samples are weighted if there is a mask.

    .. math::
        \mathbf{y}(\mathbf{p}) = \sum_k m_k \, W_k \,
        \mathbf{x}(\mathbf{p} + \mathbf{tap}_k + \Delta_k)

    `Deformable convolution <https://arxiv.org/abs/1703.06211>`_, with a mask that of `its second
    version <https://arxiv.org/abs/1811.11168>`_. The function of
    :func:`torchvision.ops.deform_conv2d`, computed by
    :func:`~dyngraph.ops.sampled_convolution`.

    Args:
        input: ``[B, C, H, W]``.
        offset: Δ, ``[B, 2 * groups * K, H', W']``: by group of input channels and tap, in row-major
            order, Δy and Δx.
        weight: ``[O, C / weight groups, kernel height, kernel width]``, K taps.
        bias: ``[O]``.
        stride: One number, or those of y and x, as all that follow.
        padding: How far the taps reach beyond the edges, where there are zeros.
        dilation: The distance of the taps.
        mask: m, ``[B, groups * K, H', W']``.
        backend: ``"auto"``, ``"pyg"``, ``"torch"``, ``"native"`` or ``"triton"``.

    Returns:
        ``[B, O, H', W']``.

    Raises:
        TypeError: If ``input`` is not of a floating-point dtype.
        ValueError: If shapes or devices don't fit, or ``backend`` is unknown or can't serve the
            call.

    Example:
        >>> import torch
        >>> from torch.nn.functional import conv2d
        >>> from dyngraph.ops import deform_conv2d
        >>> x, weight = torch.randn(2, 6, 8, 9), torch.randn(4, 6, 3, 3)
        >>> offset = torch.zeros(2, 18, 8, 9)
        >>> out = deform_conv2d(x, offset, weight, padding=1)
        >>> torch.allclose(out, conv2d(x, weight, padding=1), atol=1e-5)
        True
    """
    for name, tensor in (("input", input), ("offset", offset), ("weight", weight)):
        if tensor.dim() != 4:
            raise ValueError(f"{name}: expected four axes, got shape {list(tensor.shape)}")
    kernel = (weight.shape[2], weight.shape[3])
    num_taps = math.prod(kernel)
    pos = tap_positions(input, offset, kernel, stride, padding, dilation)
    own, size = pos.shape[1], offset.shape[2:]
    expected = [len(input), own * num_taps, *size]
    if mask is not None and list(mask.shape) != expected:
        raise ValueError(f"mask: expected shape {expected}, got {list(mask.shape)}")
    if weight.shape[1] == 0 or input.shape[1] % weight.shape[1]:
        raise ValueError(
            f"weight: expected a divisor of {input.shape[1]} channels in its second axis, "
            f"got {weight.shape[1]}"
        )
    groups = input.shape[1] // weight.shape[1]
    # Where neither number of groups divides the other, smaller groups have their own copies.
    copies = 1 if groups % own == 0 or own % groups == 0 else math.lcm(groups, own) // own

    grid, receiver = Grid.of(input), Grid.of(offset)
    by_sample = None if mask is None else receiver.flatten(mask).view(-1, own, num_taps)
    if copies > 1:
        pos = pos.repeat_interleave(copies, dim=1)
        by_sample = None if by_sample is None else by_sample.repeat_interleave(copies, dim=1)
    near = Neighborhood(grid, pos.squeeze(1) if own == 1 else pos, receiver=receiver)
    y = sampled_convolution(
        grid.flatten(input), weight.flatten(2), near, groups, weight=by_sample, backend=backend
    )
    out = receiver.unflatten(y if bias is None else y + bias)
    assert isinstance(out, Tensor)  # all maps have one size
    return out


def tap_positions(
    input: Tensor,
    offset: Tensor,
    kernel: tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
) -> Tensor:
    r"""Where the taps of a deformable convolution are, in nodes of the input.

    Returns:
        ``[N, groups, K, 2]``, N being the nodes of ``offset``.

    Raises:
        ValueError: If ``offset`` does not fit.
    """
    steps, starts, gaps = _pair(stride), _pair(padding), _pair(dilation)
    num_taps = math.prod(kernel)
    size = [
        (length + 2 * start - gap * (taps - 1) - 1) // step + 1
        for length, taps, step, start, gap in zip(
            input.shape[2:], kernel, steps, starts, gaps, strict=True
        )
    ]
    own = offset.shape[1] // (2 * num_taps)
    expected = [len(input), 2 * own * num_taps, *size]
    if list(offset.shape) != expected or own == 0 or input.shape[1] % own:
        raise ValueError(
            f"offset: expected shape [B, 2 groups K, H', W'] = [{len(input)}, "
            f"{2 * num_taps} groups, {size[0]}, {size[1]}], where groups divides "
            f"{input.shape[1]} channels, got {list(offset.shape)}"
        )
    dtype = accumulator(offset.dtype)
    receiver = Grid.of(offset)
    nodes = receiver.pos.to(dtype) * receiver.pos.new_tensor(steps, dtype=dtype)
    corner = nodes - nodes.new_tensor(starts)
    taps = Grid([kernel], device=offset.device).pos.to(dtype) * nodes.new_tensor(gaps)
    walk = receiver.flatten(offset).to(dtype).view(-1, own, num_taps, 2)
    return corner.view(-1, 1, 1, 2) + taps + walk


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])

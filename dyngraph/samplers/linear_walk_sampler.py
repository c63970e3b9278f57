"""Samples at the taps of a kernel, with walks that a linear layer predicts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.samplers.dilated_sampler import DilatedSampler
from dyngraph.samplers.sampler import no_autocast


class LinearWalkSampler(DilatedSampler):
    r"""DGMN2's sampling: the taps of a kernel, each with a walk predicted from the node alone.

    .. math::
        \mathbf{p}_{i,k} = \mathbf{pos}_i + \mathbf{tap}_k + \Delta_k(\mathbf{x}_i)

    From "Dynamic Graph Message Passing Networks for Visual Recognition" (TPAMI 2022,
    `arXiv:2209.09760 <https://arxiv.org/abs/2209.09760>`__). The walk Δ is a linear map, which
    computes in at least float32 under any autocast.

    Args:
        in_channels: The channels of the nodes.
        bias: Whether the linear map has a bias.
        kernel_size: The length of the kernel along each axis, odd.
        num_axes: P, the number of spatial axes.

    Raises:
        ValueError: If ``kernel_size`` is not odd or ``num_axes`` is not 1, 2 or 3.

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.samplers import LinearWalkSampler
        >>> sampler = LinearWalkSampler(8)
        >>> near = sampler(torch.randn(20, 8), Grid([[4, 5]]))
        >>> near.pos.shape
        torch.Size([20, 9, 2])
    """

    bias: nn.Parameter | None

    def __init__(
        self, in_channels: int, *, bias: bool = True, kernel_size: int = 3, num_axes: int = 2
    ) -> None:
        super().__init__((1,), kernel_size=kernel_size, num_axes=num_axes)
        num_outputs = self.num_samples * num_axes
        # Its own parameters, named like the released weights.
        self.weight = nn.Parameter(torch.empty(num_outputs, in_channels))
        self.bias = nn.Parameter(torch.empty(num_outputs)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Draws small weights, and sets the bias to zero, as the released code does."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, grid: Grid) -> Neighborhood:
        taps = super().forward(x, grid)
        dtype = taps.pos.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        with no_autocast(x.device.type):
            walk = F.linear(x.to(dtype), self.weight.to(dtype), bias)
        return Neighborhood(grid, taps.pos + walk.view(taps.pos.shape))

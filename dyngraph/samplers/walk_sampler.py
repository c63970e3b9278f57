"""Samples at dilated taps with learned walks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.samplers.dilated_sampler import DilatedSampler
from dyngraph.samplers.sampler import no_autocast

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV_FUNCTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class WalkSampler(DilatedSampler):
    r"""DGMN's dynamic sampling: dilated taps, each with a learned walk from there.

    .. math::
        \mathbf{p}_{i,k} = \mathbf{pos}_i + \rho \, \mathbf{tap}_k + \Delta_k(\mathbf{x})_i

    From "Dynamic Graph Message Passing Networks" (CVPR 2020,
    `arXiv:1908.06955 <https://arxiv.org/abs/1908.06955>`__), Sect. 3.2 (DS). The walk Δ is
    predicted by a convolution that is dilated by the rate like the taps (Eq. 4). It starts at zero,
    so that the samples start at the taps. It computes in at least float32 under any autocast.

    Args:
        in_channels: The channels of the nodes.
        rate: The sampling rate ρ.
        kernel_size: The length of the kernel along each axis, odd.
        num_axes: P, the number of spatial axes.
        bias: Whether the convolution has the bias of Eq. 4. The released code has none.

    Raises:
        ValueError: If ``rate`` is not positive, ``kernel_size`` is not odd or ``num_axes`` is not
            1, 2 or 3.

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.samplers import WalkSampler
        >>> sampler = WalkSampler(8, rate=2)
        >>> near = sampler(torch.randn(20, 8), Grid([[4, 5]]))
        >>> near.pos.shape
        torch.Size([20, 9, 2])
        >>> near.pos[6, 0].tolist()  # of node 6, at (1, 1), before any training
        [-1.0, -1.0]
    """

    def __init__(
        self,
        in_channels: int,
        rate: int = 1,
        *,
        kernel_size: int = 3,
        num_axes: int = 2,
        bias: bool = False,
    ) -> None:
        if rate < 1:
            raise ValueError(f"rate: expected a positive number, got {rate}")
        super().__init__((rate,), kernel_size=kernel_size, num_axes=num_axes)
        self.walk = _CONV[num_axes](
            in_channels,
            self.num_samples * num_axes,
            kernel_size,
            padding=rate * (kernel_size // 2),
            dilation=rate,
            bias=bias,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Sets the walks to zero."""
        nn.init.zeros_(self.walk.weight)
        if self.walk.bias is not None:
            nn.init.zeros_(self.walk.bias)

    def forward(self, x: Tensor, grid: Grid) -> Neighborhood:
        self.check_nodes(x, grid)
        taps = super().forward(x, grid)
        return Neighborhood(grid, taps.pos + self._walks(x.to(taps.pos.dtype), grid))

    def _walks(self, x: Tensor, grid: Grid) -> Tensor:
        """The walks ``[N, K, P]``."""
        with no_autocast(x.device.type):
            runs = [self._convolve(maps) for maps in grid.unflatten_runs(x)]
        walks = torch.cat([maps.movedim(1, -1).flatten(0, -2) for maps in runs])
        return walks.view(-1, self.num_samples, self.num_axes)

    def _convolve(self, maps: Tensor) -> Tensor:
        # Convolutions refuse maps without nodes, which have no walks either.
        if maps.numel() == 0:
            return maps.new_zeros(len(maps), self.walk.out_channels, *maps.shape[2:])
        weight = self.walk.weight.to(maps.dtype)
        bias = None if self.walk.bias is None else self.walk.bias.to(maps.dtype)
        conv = _CONV_FUNCTION[self.num_axes]
        return conv(maps, weight, bias, padding=self.walk.padding, dilation=self.walk.dilation)

"""Samples at the taps of dilated kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.samplers.sampler import Sampler


class DilatedSampler(Sampler):
    r"""DGMN's uniform sampling: the taps of a kernel, dilated by one or more rates.

    .. math::
        \mathbf{p}_{i,k} = \mathbf{pos}_i + \rho \, \mathbf{tap}_k

    From "Dynamic Graph Message Passing Networks" (CVPR 2020,
    `arXiv:1908.06955 <https://arxiv.org/abs/1908.06955>`__), Sect. 3.2. Taps are row-major: for a
    3x3 kernel, tap 3i + j is at (i - 1, j - 1). With several rates, a node listens to the taps of
    the first, then of the second, and so on.

    Args:
        rates: The sampling rates ρ.
        kernel_size: The length of the kernel along each axis, odd.
        num_axes: P, the number of spatial axes.

    Raises:
        ValueError: If there is no rate, a rate is not positive, ``kernel_size`` is not odd or
            ``num_axes`` is not 1, 2 or 3.

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.samplers import DilatedSampler
        >>> sampler = DilatedSampler(rates=(1, 2))
        >>> near = sampler(torch.randn(20, 8), Grid([[4, 5]]))
        >>> near.pos.shape
        torch.Size([20, 18, 2])
        >>> near.pos[6, 0].tolist(), near.pos[6, 9].tolist()  # of node 6, at (1, 1)
        ([0.0, 0.0], [-1.0, -1.0])
    """

    def __init__(
        self, rates: Sequence[int] = (1,), *, kernel_size: int = 3, num_axes: int = 2
    ) -> None:
        if not rates or min(rates) < 1:
            raise ValueError(f"rates: expected at least one, each positive, got {tuple(rates)}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, got {kernel_size}")
        super().__init__(len(rates) * kernel_size**num_axes, num_axes)
        self.rates = tuple(rates)
        self.kernel_size = kernel_size

    def taps(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        r"""The positions of the taps around the node, ``[K, P]``."""
        reach = self.kernel_size // 2
        axis = torch.arange(-reach, reach + 1, device=device, dtype=dtype)
        taps = torch.cartesian_prod(*[axis] * self.num_axes).view(-1, self.num_axes)
        return torch.cat([rate * taps for rate in self.rates])

    def forward(self, x: Tensor, grid: Grid) -> Neighborhood:
        self.check_nodes(x, grid, takes_groups=True)
        dtype = torch.promote_types(x.dtype, torch.float32)
        pos = grid.pos.to(dtype).unsqueeze(1) + self.taps(x.device, dtype)
        if x.dim() == 3:
            pos = pos.unsqueeze(1).expand(-1, x.shape[1], -1, -1)
        return Neighborhood(grid, pos)

    def extra_repr(self) -> str:
        return f"rates={self.rates}, kernel_size={self.kernel_size}, num_axes={self.num_axes}"

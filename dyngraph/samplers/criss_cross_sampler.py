"""Samples at all nodes of a node's row and column."""

from __future__ import annotations

import torch
from torch import Tensor

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.samplers.sampler import Sampler


class CrissCrossSampler(Sampler):
    r"""CCNet's sampling: all nodes of the lines through the node, one along each axis.

    From "CCNet: Criss-Cross Attention for Semantic Segmentation" (ICCV 2019,
    `arXiv:1811.11721 <https://arxiv.org/abs/1811.11721>`__), Sect. 3.2. A node listens to itself
    once, then to the other nodes of its line along each axis, starting at the next one and wrapping
    around at the end of the map: :math:`K = 1 + \sum_a (L_a - 1)` on a map of lengths L, so the
    maps of a grid must have one size.

    Args:
        num_axes: P, the number of spatial axes.

    Raises:
        ValueError: If ``num_axes`` is not 1, 2 or 3.

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.samplers import CrissCrossSampler
        >>> sampler = CrissCrossSampler()
        >>> near = sampler(torch.randn(20, 8), Grid([[4, 5]]))
        >>> near.pos.shape
        torch.Size([20, 8, 2])
        >>> near.pos[0, 1:5].tolist()  # after itself the column, then the row
        [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, num_axes: int = 2) -> None:
        super().__init__(0, num_axes)

    def forward(self, x: Tensor, grid: Grid) -> Neighborhood:
        self.check_nodes(x, grid)
        if len(grid.runs) > 1:
            raise ValueError(f"grid: expected maps of one size, got {grid}")
        node = grid.pos.to(torch.promote_types(x.dtype, torch.float32)).unsqueeze(1)
        lines = [node]
        for axis, length in enumerate(grid.runs[0].shape):
            steps = torch.arange(1, length, device=node.device, dtype=node.dtype)
            line = node.repeat(1, length - 1, 1)
            line[..., axis] = (line[..., axis] + steps) % length
            lines.append(line)
        return Neighborhood(grid, torch.cat(lines, dim=1))

    def extra_repr(self) -> str:
        return f"num_axes={self.num_axes}"

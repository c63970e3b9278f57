"""Scores of relative positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyngraph.grid import Grid


class RelativePosition(nn.Module):
    r"""DGMN2's scores of relative positions, ``[N, d] -> [N, K]``.

    .. math::
        b_{(y,x),s} = \mathbf{q}_{(y,x)} \cdot \mathbf{w}_{W-1-x+s} + t_{(x,y),s}, \qquad
        t_{(y,x),s} = \mathbf{q}_{(y,x)} \cdot \mathbf{h}_{H-1-y+s}

    From the released code of "Dynamic Graph Message Passing Networks for Visual Recognition"
    (TPAMI 2022). It adds the term of the height transposed, at (x, y) instead of (y, x), and
    published weights rely on it. As the released detection code does, the tables
    :math:`\mathbf{w}` and :math:`\mathbf{h}` are resized to maps of another size, and the
    transposed term ``[W, H]`` to ``[H, W]``, both by linear interpolation.

    Args:
        channels: d, the channels of the queries.
        map_size: The size ``(height, width)`` of maps for which no table is resized.
        num_samples: K.

    Raises:
        ValueError: If a length of ``map_size`` is not positive, or there are not two.
    """

    def __init__(self, channels: int, map_size: tuple[int, int], num_samples: int = 9) -> None:
        super().__init__()
        if len(map_size) != 2 or min(map_size) < 1:
            raise ValueError(f"map_size: expected two positive lengths, got {tuple(map_size)}")
        height, width = map_size
        self.num_samples = num_samples
        self.rel_height = nn.Parameter(torch.empty(height + num_samples - 1, channels))
        self.rel_width = nn.Parameter(torch.empty(width + num_samples - 1, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Draws both tables."""
        std = self.rel_height.shape[1] ** -0.5
        nn.init.normal_(self.rel_height, std=std)
        nn.init.normal_(self.rel_width, std=std)

    def forward(self, query: Tensor, grid: Grid) -> Tensor:
        r"""The scores of queries ``[N, d]`` on a grid with two axes, ``[N, K]``."""
        runs = [self._scores(maps) for maps in grid.unflatten_runs(query)]
        if not runs:
            return query.new_zeros(0, self.num_samples)
        return runs[0] if len(runs) == 1 else torch.cat(runs)

    def _scores(self, query: Tensor) -> Tensor:
        """Scores ``[B H W, K]`` of queries ``[B, d, H, W]``."""
        # Interpolation refuses maps without nodes; they have no scores either.
        if query.numel() == 0:
            return query.new_zeros(0, self.num_samples)
        batch, channels, height, width = query.shape
        # Rows of maps, as views of nodes: an exported program merges no axes of any length.
        rows = query.movedim(1, -1).flatten(0, 2).view(batch * height, width, channels)
        y = torch.arange(batch * height, device=query.device) % height
        x = torch.arange(width, device=query.device)
        along_width = rows.transpose(0, 1) @ self._tables(self.rel_width, width, x)
        along_height = rows @ self._tables(self.rel_height, height, y)
        transposed = along_height.unflatten(0, (batch, height)).transpose(1, 3)
        # Not only where sizes differ: an exported program has no such choice.
        resized = F.interpolate(transposed, (height, width), mode="bilinear").movedim(1, -1)
        along_width = along_width.transpose(0, 1).unflatten(0, (batch, height))
        return (along_width + resized).flatten(0, 2)

    def _tables(self, table: Tensor, length: int, place: Tensor) -> Tensor:
        """The rows ``length - 1 - place + s`` of a resized table, ``[places, d, K]``."""
        size = length + self.num_samples - 1
        table = F.interpolate(table.t().unsqueeze(0), size, mode="linear")[0].t()
        sample = torch.arange(self.num_samples, device=table.device)
        return table[length - 1 - place.unsqueeze(1) + sample].transpose(1, 2)

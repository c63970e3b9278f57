"""Scores of relative positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyngraph.grid import Grid, Shape


class RelativePosition(nn.Module):
    r"""DGMN2's scores of relative positions, ``[N, G, d] -> [N, G, K]``.

    .. math::
        b_{(y,x),s} = \mathbf{q}_{(y,x)} \cdot \mathbf{w}_{W-1-x+s} + t_{(x,y),s}, \qquad
        t_{(y,x),s} = \mathbf{q}_{(y,x)} \cdot \mathbf{h}_{H-1-y+s}

    From the released code of "Dynamic Graph Message Passing Networks for Visual Recognition" (TPAMI
    2022, `arXiv:2209.09760 <https://arxiv.org/abs/2209.09760>`__). It adds the term of the height
    transposed, at (x, y) instead of (y, x), and published weights rely on it. As in the released
    detection code, for maps of another size the tables :math:`\mathbf{w}` and :math:`\mathbf{h}`
    are resized, and so is the transposed term, from ``[W, H]`` to ``[H, W]``, both by linear
    interpolation.

    Args:
        channels: d, the channels of the queries.
        map_size: The size ``(height, width)`` of maps for which the tables are not resized.
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
        r"""The scores of queries on a grid with two axes.

        Args:
            query: ``[N, G, d]``, of G heads.
            grid: The layout of the nodes.

        Returns:
            ``[N, G, K]``.
        """
        lengths = [run.num_nodes for run in grid.runs]
        parts = [query] if len(lengths) == 1 else query.split(lengths)
        scores = [self._scores(part, *run) for part, run in zip(parts, grid.runs, strict=True)]
        return scores[0] if len(scores) == 1 else torch.cat(scores)

    def _scores(self, query: Tensor, batch: int, shape: Shape) -> Tensor:
        """Scores ``[B H W, G, K]`` of queries ``[B H W, G, d]``."""
        # Interpolation refuses maps without nodes, which have no scores either.
        if query.numel() == 0:
            return query.new_zeros(*query.shape[:2], self.num_samples)
        height, width = shape
        y = torch.arange(batch * height, device=query.device) % height
        rel_width = self._tables(self.rel_width, width)
        rel_height = self._tables(self.rel_height, height)[y]
        # Head by head, as views of nodes: an exported program merges no axes of any length.
        rows_of_heads = (q.view(batch * height, width, q.shape[1]) for q in query.unbind(1))
        scores = [
            self._scores_of_head(rows, rel_width, rel_height, batch) for rows in rows_of_heads
        ]
        return torch.stack(scores, dim=1)

    def _scores_of_head(
        self, rows: Tensor, rel_width: Tensor, rel_height: Tensor, batch: int
    ) -> Tensor:
        """Scores ``[B H W, K]`` of rows of maps ``[B H, W, d]``."""
        # By the table from the left: products with few columns take a CPU four times as long.
        along_width = rel_width @ rows.permute(1, 2, 0)
        along_height = (rel_height @ rows.transpose(1, 2)).unflatten(0, (batch, -1))
        # Even if sizes agree: an exported program cannot choose.
        size = along_height.shape[1], along_height.shape[3]
        resized: Tensor = F.interpolate(along_height.permute(0, 2, 3, 1), size, mode="bilinear")
        by_node = along_width.permute(2, 0, 1).unflatten(0, (batch, -1))
        scores: Tensor = by_node + resized.movedim(1, -1)
        return scores.flatten(0, 2)

    def _tables(self, table: Tensor, length: int) -> Tensor:
        """The rows ``length - 1 - place + s`` of a resized table for each place, ``[L, K, d]``."""
        size = length + self.num_samples - 1
        table = F.interpolate(table.t().unsqueeze(0), size, mode="linear")[0].t()
        windows = [table.narrow(0, s, length) for s in range(self.num_samples)]
        return torch.stack(windows, dim=1).flip(0)

"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyngraph.grid import Grid


class DropPath(nn.Module):
    r"""Drops a branch for random maps of a batch, in training.

    From "Deep Networks with Stochastic Depth" (ECCV 2016). Kept values are divided by the
    probability of being kept, which preserves the mean.

    Args:
        probability: The probability that a map loses the branch.

    Raises:
        ValueError: If ``probability`` is not in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"drop_path: expected a probability in [0, 1), got {probability}")
        self.probability = probability

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        r"""Nodes ``[N, C]`` of a grid, with those of dropped maps set to zero."""
        if not self.training or self.probability == 0:
            return x
        kept = torch.rand(grid.batch_size, 1, device=x.device) >= self.probability
        factor = kept.to(x.dtype) / (1 - self.probability)
        return x * factor[grid.batch]

    def extra_repr(self) -> str:
        return f"{self.probability}"

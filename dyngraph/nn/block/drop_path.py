"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyngraph.grid import Grid


class DropPath(nn.Module):
    r"""Leaves a branch out for random maps of a batch, in training.

    From "Deep Networks with Stochastic Depth" (ECCV 2016). What is kept is divided by the
    probability of being kept, so that its mean stays.

    Args:
        probability: That of a map to lose the branch.

    Raises:
        ValueError: If ``probability`` is not in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"drop_path: expected a probability below 1, got {probability}")
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

"""The base class of samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood


def no_autocast(device_type: str) -> AbstractContextManager[object]:
    r"""Keeps positions out of the half types, whatever autocast the caller runs under."""
    # PyTorch 2.8 can't compile the question, which the meta device alone answers with no.
    if device_type != "meta":
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


class Sampler(nn.Module, ABC):
    r"""A module that chooses the samples of all nodes of a grid.

    Args:
        num_samples: K, the number of samples of a node; 0 if it depends on the size of the map.
        num_axes: P, the number of spatial axes.

    Raises:
        ValueError: If ``num_axes`` is not 1, 2 or 3.

    Example:
        >>> import torch
        >>> from dyngraph import Grid, Neighborhood
        >>> from dyngraph.samplers import Sampler
        >>> class Left(Sampler):
        ...     def forward(self, x, grid):
        ...         self.check_nodes(x, grid)
        ...         return Neighborhood(grid, (grid.pos - torch.tensor([0.0, 1.0])).unsqueeze(1))
        >>> Left(num_samples=1, num_axes=2)(torch.randn(20, 8), Grid([[4, 5]])).pos[6].tolist()
        [[1.0, 0.0]]
    """

    def __init__(self, num_samples: int, num_axes: int) -> None:
        super().__init__()
        if num_axes not in (1, 2, 3):
            raise ValueError(f"num_axes: expected 1, 2 or 3, got {num_axes}")
        self.num_samples = num_samples
        self.num_axes = num_axes

    @abstractmethod
    def forward(self, x: Tensor, grid: Grid) -> Neighborhood:
        r"""The samples of all nodes.

        Args:
            x: Node features ``[N, C]``. Samplers that look only at the node itself also take groups
                of channels ``[N, G, C / G]``, each of which then has its own samples.
            grid: Their layout.

        Raises:
            ValueError: If ``grid`` does not have ``num_axes`` axes, or ``x`` one row per node.
        """

    def check_nodes(self, x: Tensor, grid: Grid, *, takes_groups: bool = False) -> None:
        r"""Raises a :class:`ValueError` unless ``x`` ``[N, C]`` are the nodes of a suitable grid.

        Or ``[N, G, C / G]``, if the sampler ``takes_groups``.
        """
        if grid.num_axes != self.num_axes:
            raise ValueError(
                f"grid: expected {self.num_axes} spatial axes, got {grid.num_axes} ({grid})"
            )
        if x.dim() not in ((2, 3) if takes_groups else (2,)) or x.shape[0] != grid.num_nodes:
            raise ValueError(
                f"x: expected node features [{grid.num_nodes}, C], got shape {list(x.shape)}"
            )

"""Applying functions of batches to maps of different sizes."""

from collections.abc import Callable

import torch
from torch import Tensor

from dyngraph.grid import Grid


def each_run(function: Callable[[Tensor], Tensor], x: Tensor, grid: Grid) -> Tensor:
    r"""Applies a function of batches to each run of maps of one size.

    Args:
        function: From ``[B, C, *spatial]`` to ``[B, C', *spatial]``, treating each map separately.
        x: Node features ``[N, C]``.
        grid: Their layout.

    Returns:
        ``[N, C']``.
    """
    runs = [function(maps) for maps in grid.unflatten_runs(x)]
    out = [Grid.of(maps).flatten(maps) for maps in runs]
    return out[0] if len(out) == 1 else torch.cat(out)

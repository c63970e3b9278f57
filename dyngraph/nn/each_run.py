"""Functions of batches, on maps of different sizes."""

from collections.abc import Callable

import torch
from torch import Tensor

from dyngraph.grid import Grid


def each_run(function: Callable[[Tensor], Tensor], x: Tensor, grid: Grid) -> Tensor:
    r"""A function of batches of maps of one size, on each run of equal maps.

    Args:
        function: From ``[B, C, *spatial]`` to ``[B, C', *spatial]``, one that treats each map
            alone.
        x: Node features ``[N, C]``.
        grid: Their layout.

    Returns:
        ``[N, C']``.
    """
    runs = [function(maps) for maps in grid.unflatten_runs(x)]
    out = [Grid.of(maps).flatten(maps) for maps in runs]
    return out[0] if len(out) == 1 else torch.cat(out)

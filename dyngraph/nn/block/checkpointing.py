"""Memory for time: blocks that keep nothing but their input for the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dyngraph.grid import Grid

# Nodes that are computed at a time. A CPU keeps what it has just computed of few in its caches; a
# GPU needs many to have enough to do.
_NODES_ON_CPU = 2**12
_NODES = 2**16


def checkpoint_maps(function: Callable[[Tensor, Grid], Tensor], x: Tensor, grid: Grid) -> Tensor:
    r"""A function of nodes ``[N, C]`` and their grid, a few maps at a time.

    All that a part keeps is its input: the backward pass computes the rest again. Without gradients
    and in a program that is traced, the function is called once, on all maps.

    Args:
        function: One that treats each map alone.
        x: ``[N, C]``.
        grid: The layout of the nodes.

    Returns:
        What ``function(x, grid)`` returns.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or not grid.num_nodes:
        return function(x, grid)
    parts = grid.split(_NODES_ON_CPU if x.device.type == "cpu" else _NODES)
    nodes = x.split([part.num_nodes for part in parts])
    return torch.cat(
        [
            checkpoint(function, some, part, use_reentrant=False)
            for some, part in zip(nodes, parts, strict=True)
        ]
    )

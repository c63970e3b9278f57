"""Trading time for memory: blocks that keep only their input for the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dyngraph.grid import Grid

# Nodes that are computed at a time: few on a CPU, so that intermediate results stay in its caches;
# many on a GPU, to keep it busy.
_NODES_ON_CPU = 2**12
_NODES = 2**16


def checkpoint_maps(function: Callable[[Tensor, Grid], Tensor], x: Tensor, grid: Grid) -> Tensor:
    r"""Calls a function of nodes ``[N, C]`` and their grid for a few maps at a time.

    Each part keeps only its input: the backward pass recomputes the rest. Without gradients and in
    a program that is traced, the function is called once, on all maps.

    Args:
        function: Must treat each map separately.
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

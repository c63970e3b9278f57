"""What the samplers share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from dyngraph.grid import Grid


def no_autocast(device_type: str) -> AbstractContextManager:
    r"""Keeps positions out of the half types, whatever autocast the caller runs under."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def check_num_axes(num_axes: int) -> None:
    r"""Raises a :class:`ValueError` unless ``num_axes`` is 1, 2 or 3."""
    if num_axes not in (1, 2, 3):
        raise ValueError(f"num_axes: expected 1, 2 or 3, got {num_axes}")


def check_nodes(x: Tensor, grid: Grid, num_axes: int) -> None:
    r"""Raises a :class:`ValueError` unless ``x`` ``[N, C]`` are the nodes of such a grid."""
    if grid.num_axes != num_axes:
        raise ValueError(f"grid: expected {num_axes} spatial axes, got {grid.num_axes} ({grid})")
    if x.dim() != 2 or x.shape[0] != grid.num_nodes:
        raise ValueError(
            f"x: expected node features [{grid.num_nodes}, C], got shape {list(x.shape)}"
        )

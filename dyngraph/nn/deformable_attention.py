"""What the layers of deformable attention share: how their linear maps start."""

import math

import torch
from torch import nn


def reset_projections(*layers: nn.Module) -> None:
    r"""Glorot's weights, and biases of zero."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.get_parameter("weight"))
        nn.init.zeros_(layer.get_parameter("bias"))


def reset_samples(
    offsets: nn.Module, weights: nn.Module, heads: int, num_levels: int, num_points: int
) -> None:
    r"""The same samples for all queries at first, which all weigh the same.

    Each head looks in a direction of its own, from the middle to the edge of a square; its k-th
    point of each level is k nodes away.
    """
    for layer in (offsets, weights):
        nn.init.zeros_(layer.get_parameter("weight"))
        nn.init.zeros_(layer.get_parameter("bias"))
    angle = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=1)
    direction = direction / direction.abs().max(dim=1, keepdim=True).values
    steps = torch.arange(1, num_points + 1).view(-1, 1)
    start = (direction.view(heads, 1, 1, 2) * steps).expand(-1, num_levels, -1, -1)
    with torch.no_grad():
        offsets.get_parameter("bias").copy_(start.flatten())

"""A residual connection with a learned scale."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from dyngraph.grid import Grid
from dyngraph.nn.block.feature_map_block import FeatureMapBlock


class ScaledBlock(FeatureMapBlock):
    r"""Adds what a subclass computes to the nodes, with a learned scale.

    .. math::
        \mathbf{y}_i = \mathbf{x}_i + \gamma \, \tilde{\mathbf{x}}_i

    The scale starts at zero, so that the block starts as the identity.

    Args:
        in_channels: The channels of the feature maps, and of the result.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, in_channels)
        self.scale = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the block."""
        nn.init.zeros_(self.scale)

    @abstractmethod
    def refine(self, x: Tensor, grid: Grid) -> Tensor:
        r"""What is added to the nodes: :math:`\tilde{\mathbf{x}}`, ``[N, C] -> [N, C]``."""

    def forward_nodes(self, x: Tensor, grid: Grid) -> Tensor:
        return x + self.scale * self.refine(x, grid)

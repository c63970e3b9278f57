"""The first of DANet's two blocks."""

from __future__ import annotations

from torch import Tensor

from dyngraph.grid import Grid
from dyngraph.nn.block.scaled_block import ScaledBlock
from dyngraph.nn.conv.position_attention_conv import PositionAttentionConv


class PositionAttentionBlock(ScaledBlock):
    r"""DANet's position attention on feature maps: every node attends to all nodes of its map.

    .. math::
        \mathbf{y}_i = \mathbf{x}_i + \gamma \, \tilde{\mathbf{x}}_i

    From "Dual Attention Network for Scene Segmentation" (CVPR 2019,
    `arXiv:1809.02983 <https://arxiv.org/abs/1809.02983>`__), Eq. 1-2. See
    :class:`~dyngraph.nn.PositionAttentionConv` for :math:`\tilde{\mathbf{x}}`. The scale γ starts
    at zero, so that the block starts as the identity.

    Args:
        in_channels: C, the channels of the feature maps, and of the result.
        hidden_channels: The channels of queries and keys. Defaults to an eighth of C.

    Shapes:
        - **input:** ``[B, C, *spatial]`` or a list of maps ``[C, *spatial]``
        - **output:** the same

    Example:
        >>> import torch
        >>> from dyngraph.nn import PositionAttentionBlock
        >>> block, maps = PositionAttentionBlock(8), torch.randn(2, 8, 4, 5)
        >>> torch.equal(block(maps), maps)  # it starts as the identity
        True
    """

    def __init__(self, in_channels: int, hidden_channels: int | None = None) -> None:
        super().__init__(in_channels)
        self.conv = PositionAttentionConv(in_channels, hidden_channels)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.conv.reset_parameters()

    def refine(self, x: Tensor, grid: Grid) -> Tensor:
        out: Tensor = self.conv(x, grid)
        return out

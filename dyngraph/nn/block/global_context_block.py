"""The block of GCNet."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dyngraph.grid import Grid
from dyngraph.nn.block.feature_map_block import FeatureMapBlock
from dyngraph.nn.each_run import each_run


class GlobalContextBlock(FeatureMapBlock):
    r"""The global context block on feature maps: all nodes of a map get the same context.

    .. math::
        \mathbf{y}_i = \mathbf{x}_i + W_2 \, \mathrm{ReLU} \Big( \mathrm{LN} \Big( W_1 \sum_j
        \mathrm{softmax}_j \big( \mathbf{w} \cdot \mathbf{x}_j \big) \, \mathbf{x}_j \Big) \Big)

    From "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond" (ICCV 2019
    Workshops, `arXiv:1904.11492 <https://arxiv.org/abs/1904.11492>`__), Eq. 5. :math:`W_2` starts
    at zero as in the released code, so that the block starts as the identity.

    Args:
        in_channels: C, the channels of the feature maps, and of the result.
        hidden_channels: The channels between :math:`W_1` and :math:`W_2`. Defaults to a 16th of C,
            the paper's ratio.

    Shapes:
        - **input:** ``[B, C, *spatial]`` or a list of maps ``[C, *spatial]``
        - **output:** the same

    Example:
        >>> import torch
        >>> from dyngraph.nn import GlobalContextBlock
        >>> block, maps = GlobalContextBlock(8), torch.randn(2, 8, 4, 5)
        >>> torch.equal(block(maps), maps)  # it starts as the identity
        True
    """

    def __init__(self, in_channels: int, hidden_channels: int | None = None) -> None:
        super().__init__(in_channels, in_channels)
        hidden_channels = hidden_channels or max(in_channels // 16, 1)
        # Softmax is blind to a bias.
        self.lin_score = nn.Linear(in_channels, 1, bias=False)
        self.lin_reduce = nn.Linear(in_channels, hidden_channels)
        self.norm = nn.LayerNorm(hidden_channels)
        self.lin_expand = nn.Linear(hidden_channels, in_channels)
        self._init_expand()

    def _init_expand(self) -> None:
        nn.init.zeros_(self.lin_expand.weight)
        nn.init.zeros_(self.lin_expand.bias)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the block."""
        for module in (self.lin_score, self.lin_reduce, self.norm):
            module.reset_parameters()
        self._init_expand()

    def forward_nodes(self, x: Tensor, grid: Grid) -> Tensor:
        return each_run(self._add_context, x, grid)

    def forward_contiguous(self, maps: Tensor, grid: Grid) -> Tensor:
        return self._add_context(maps)

    def _add_context(self, maps: Tensor) -> Tensor:
        nodes = maps.flatten(2)
        alpha = self.lin_score(nodes.mT).softmax(dim=1)
        context = (nodes @ alpha).mT
        y: Tensor = self.lin_expand(F.relu(self.norm(self.lin_reduce(context))))
        return (nodes + y.mT).view_as(maps)

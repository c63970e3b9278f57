"""The second of DANet's two blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from dyngraph.grid import Grid
from dyngraph.nn.block.scaled_block import ScaledBlock
from dyngraph.nn.each_run import each_run
from dyngraph.samplers.sampler import no_autocast


class ChannelAttentionBlock(ScaledBlock):
    r"""DANet's channel attention on feature maps: every channel attends to all channels.

    .. math::
        \mathbf{y}_d = \mathbf{x}_d + \gamma \sum_c \mathrm{softmax}_c \big( \mathbf{x}_c \cdot
        \mathbf{x}_d \big) \, \mathbf{x}_c

    From "Dual Attention Network for Scene Segmentation" (CVPR 2019,
    `arXiv:1809.02983 <https://arxiv.org/abs/1809.02983>`__), Eq. 3-4, where :math:`\mathbf{x}_c`
    is channel c of all nodes of a map. The released code attends to the *least* similar channels
    instead: it flips the sign of the scores. The scale γ starts at zero, so that the block starts
    as the identity. Scores, sums over a whole map, are computed in at least float32 under any
    autocast.

    Args:
        in_channels: C, the channels of the feature maps, and of the result.

    Shapes:
        - **input:** ``[B, C, *spatial]`` or a list of maps ``[C, *spatial]``
        - **output:** the same

    Example:
        >>> import torch
        >>> from dyngraph.nn import ChannelAttentionBlock
        >>> block, maps = ChannelAttentionBlock(8), torch.randn(2, 8, 4, 5)
        >>> torch.equal(block(maps), maps)  # it starts as the identity
        True
    """

    def refine(self, x: Tensor, grid: Grid) -> Tensor:
        return each_run(_attend, x, grid)


def _attend(maps: Tensor) -> Tensor:
    channels = maps.flatten(2)
    with no_autocast(maps.device.type):
        wide = channels.to(torch.promote_types(maps.dtype, torch.float32))
        alpha = (wide @ wide.mT).softmax(dim=2)
    # As a product of nodes, [B, n, C], whose result needs no copy.
    return (channels.mT @ alpha.to(maps.dtype).mT).mT.view_as(maps)

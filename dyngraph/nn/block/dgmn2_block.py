"""The block of DGMN2."""

from __future__ import annotations

from torch import Tensor, nn

from dyngraph.grid import Grid
from dyngraph.nn.block.checkpointing import checkpoint_maps
from dyngraph.nn.block.drop_path import DropPath
from dyngraph.nn.block.feature_map_block import FeatureMapBlock
from dyngraph.nn.conv.dgmn2_conv import DGMN2Conv
from dyngraph.nn.mlp import MLP


class DGMN2Block(FeatureMapBlock):
    r"""The transformer block of DGMN2 on feature maps, with attention to nine samples per head.

    .. math::
        \mathbf{h} &= \mathbf{x} + \mathrm{Attention}(\mathrm{LN}(\mathbf{x})) \\
        \mathbf{y} &= \mathbf{h} + \mathrm{MLP}(\mathrm{LN}(\mathbf{h}))

    From "Dynamic Graph Message Passing Networks for Visual Recognition" (TPAMI 2022,
    `arXiv:2209.09760 <https://arxiv.org/abs/2209.09760>`__). See :class:`~dyngraph.nn.DGMN2Conv`
    for the attention. Weights are named like the released ones.

    Args:
        in_channels: C, the channels of the feature maps, and of the result.
        heads: The number of heads.
        map_size: The size ``(height, width)`` of maps that the tables of relative positions are
            made for. For maps of other sizes they are resized.
        mlp_ratio: The hidden channels of the MLP per channel.
        bias: Whether queries, keys, values and walks have biases.
        drop_path: The probability that a map loses a branch in training.
        checkpointing: Whether to keep only the block's input for the backward pass, which then
            recomputes the rest, a few maps at a time: less memory, more time.
        backend: The backend of :func:`~dyngraph.ops.sampled_attention`.

    Raises:
        ValueError: If ``heads`` does not divide the channels, ``map_size`` is not two positive
            lengths, ``mlp_ratio`` is not positive, or ``drop_path`` is not in [0, 1).

    Shapes:
        - **input:** ``[B, C, H, W]`` or a list of maps ``[C, H, W]``
        - **output:** the same

    Example:
        >>> import torch
        >>> from dyngraph.nn import DGMN2Block
        >>> block = DGMN2Block(8, heads=2, map_size=(4, 5))
        >>> block(torch.randn(2, 8, 4, 5)).shape
        torch.Size([2, 8, 4, 5])
        >>> first, second = block([torch.randn(8, 4, 5), torch.randn(8, 3, 3)])
        >>> second.shape
        torch.Size([8, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        heads: int = 1,
        map_size: tuple[int, int] = (56, 56),
        *,
        mlp_ratio: int = 4,
        bias: bool = True,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(in_channels, in_channels)
        if mlp_ratio < 1:
            raise ValueError(f"mlp_ratio: expected at least 1, got {mlp_ratio}")
        self.norm1 = nn.LayerNorm(in_channels, eps=1e-6)
        self.attn = DGMN2Conv(in_channels, heads, map_size, bias=bias, backend=backend)
        self.norm2 = nn.LayerNorm(in_channels, eps=1e-6)
        self.mlp = MLP(in_channels, mlp_ratio * in_channels)
        self.drop_path = DropPath(drop_path)
        self.checkpointing = checkpointing

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the block."""
        for module in (self.norm1, self.attn, self.norm2, self.mlp):
            module.reset_parameters()

    def forward_nodes(self, x: Tensor, grid: Grid) -> Tensor:
        if self.checkpointing:
            return checkpoint_maps(self._branches, x, grid)
        return self._branches(x, grid)

    def _branches(self, x: Tensor, grid: Grid) -> Tensor:
        h: Tensor = x + self.drop_path(self.attn(self.norm1(x), grid), grid)
        y: Tensor = h + self.drop_path(self.mlp(self.norm2(h)), grid)
        return y

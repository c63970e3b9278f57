"""The block of CCNet."""

from __future__ import annotations

from torch import Tensor

from dyngraph.grid import Grid
from dyngraph.nn.block.scaled_block import ScaledBlock
from dyngraph.nn.conv.criss_cross_conv import CrissCrossConv
from dyngraph.nn.each_run import each_run


class CrissCrossBlock(ScaledBlock):
    r"""Recurrent criss-cross attention on feature maps: twice over a node's row and column.

    .. math::
        \mathbf{x}^{(t+1)}_i = \mathbf{x}^{(t)}_i + \gamma \, \tilde{\mathbf{x}}^{(t)}_i

    From "CCNet: Criss-Cross Attention for Semantic Segmentation" (ICCV 2019,
    `arXiv:1811.11721 <https://arxiv.org/abs/1811.11721>`__), Sect. 3.2-3.3. See
    :class:`~dyngraph.nn.CrissCrossConv` for :math:`\tilde{\mathbf{x}}`. All steps share their
    weights; after two, each node of an image has heard from all others. The scale γ comes from the
    released code. It starts at zero, so that the block starts as the identity.

    Args:
        in_channels: C, the channels of the feature maps, and of the result.
        hidden_channels: The channels of queries and keys. Defaults to an eighth of C.
        num_steps: The number of steps, R.
        num_axes: The number of spatial axes of the feature maps.
        backend: The backend of :func:`~dyngraph.ops.sampled_attention`.

    Raises:
        ValueError: If ``num_steps`` is not positive or ``num_axes`` is not 1, 2 or 3.

    Shapes:
        - **input:** ``[B, C, *spatial]`` or a list of maps ``[C, *spatial]``
        - **output:** the same

    Example:
        >>> import torch
        >>> from dyngraph.nn import CrissCrossBlock
        >>> block, maps = CrissCrossBlock(8), torch.randn(2, 8, 4, 5)
        >>> torch.equal(block(maps), maps)  # it starts as the identity
        True
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        *,
        num_steps: int = 2,
        num_axes: int = 2,
        backend: str = "auto",
    ) -> None:
        super().__init__(in_channels)
        if num_steps < 1:
            raise ValueError(f"num_steps: expected at least 1, got {num_steps}")
        self.num_steps = num_steps
        self.conv = CrissCrossConv(in_channels, hidden_channels, num_axes=num_axes, backend=backend)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.conv.reset_parameters()

    def forward_nodes(self, x: Tensor, grid: Grid) -> Tensor:
        for _ in range(self.num_steps):
            x = super().forward_nodes(x, grid)
        return x

    def refine(self, x: Tensor, grid: Grid) -> Tensor:
        return each_run(self._attend, x, grid)

    def _attend(self, maps: Tensor) -> Tensor:
        grid = Grid.of(maps)
        (out,) = grid.unflatten_runs(self.conv(grid.flatten(maps), grid))
        return out

"""Attention over nodes with a residual connection."""

from torch import Tensor, nn

from dyngraph.grid import Grid
from dyngraph.nn.block.feature_map_block import FeatureMapBlock
from dyngraph.nn.block.fusion import Fusion
from dyngraph.nn.conv.attention_conv import AttentionConv
from dyngraph.nn.node_linear import NodeLinear
from dyngraph.ops.project import project_maps


class AttentionBlock(FeatureMapBlock):
    r"""An attention layer :math:`\tilde{\mathbf{x}}` on feature maps with a residual connection.

    .. math::
        \mathbf{y}_i = W_y \tilde{\mathbf{x}}_i + \mathbf{x}_i \quad \text{(sum)}, \qquad
        \mathbf{y}_i = [\mathbf{x}_i, W_y \tilde{\mathbf{x}}_i] \quad \text{(concat)}

    Args:
        in_channels: The channels of the feature maps.
        conv: The attention layer.
        fusion: ``"sum"`` or ``"concat"``.
        zero_init: Whether :math:`W_y` starts at zero. With ``"sum"`` the block is then exactly the
            identity, so it can go into a pretrained network.

    Raises:
        ValueError: If ``fusion`` is unknown.
    """

    def __init__(
        self, in_channels: int, conv: AttentionConv, *, fusion: str, zero_init: bool
    ) -> None:
        join = Fusion(fusion)
        super().__init__(in_channels, join.out_channels(in_channels))
        self.conv = conv
        self.lin_out = NodeLinear(conv.out_channels, in_channels)
        self.fusion = join
        self.zero_init = zero_init
        self._init_out()

    def _init_out(self) -> None:
        if self.zero_init:
            nn.init.zeros_(self.lin_out.weight)
            nn.init.zeros_(self.lin_out.bias)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the block."""
        self.conv.reset_parameters()
        self.lin_out.reset_parameters()
        self._init_out()

    def forward_nodes(self, x: Tensor, grid: Grid) -> Tensor:
        out: Tensor = self.fusion(x, self.lin_out(self.conv(x, grid)))
        return out

    def forward_contiguous(self, maps: Tensor, grid: Grid) -> Tensor:
        attended = grid.unflatten_runs(self.conv(grid.flatten(maps), grid))[0]
        y = project_maps(attended.flatten(2), self.lin_out.weight, self.lin_out.bias)
        out: Tensor = self.fusion(maps.flatten(2), y).unflatten(2, maps.shape[2:])
        return out

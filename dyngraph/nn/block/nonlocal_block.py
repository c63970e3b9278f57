"""The Non-local block."""

from dyngraph.nn.block.attention_block import AttentionBlock
from dyngraph.nn.conv.nonlocal_conv import NonLocalConv


class NonLocalBlock(AttentionBlock):
    r"""The Non-local block on feature maps: every node attends to all nodes of its map.

    From "Non-local Neural Networks" (CVPR 2018,
    `arXiv:1711.07971 <https://arxiv.org/abs/1711.07971>`__); the baseline of both papers. See
    :class:`~dyngraph.nn.NonLocalConv` for the formula.

    Args:
        in_channels: C, the channels of the feature maps.
        hidden_channels: The channels of queries, keys and values. Defaults to a quarter of C.
        groups: The number of contiguous channel groups, each with its own attention.
        fusion: ``"sum"``: :math:`W_y \tilde{\mathbf{x}} + \mathbf{x}`, C channels. ``"concat"``:
            :math:`[\mathbf{x}, W_y \tilde{\mathbf{x}}]`, 2 C channels.
        zero_init: Whether :math:`W_y` starts at zero, so that a ``"sum"`` block starts as the
            identity.

    Raises:
        ValueError: If ``groups`` does not divide ``hidden_channels`` or ``fusion`` is unknown.

    Shapes:
        - **input:** ``[B, C, *spatial]`` or a list of maps ``[C, *spatial]``
        - **output:** ``[B, out_channels, *spatial]``, or a list where sizes differ

    Example:
        >>> import torch
        >>> from dyngraph.nn import NonLocalBlock
        >>> block, maps = NonLocalBlock(8, zero_init=True), torch.randn(2, 8, 4, 5)
        >>> torch.equal(block(maps), maps)  # it starts as the identity
        True
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        *,
        groups: int = 1,
        fusion: str = "sum",
        zero_init: bool = False,
    ) -> None:
        conv = NonLocalConv(in_channels, hidden_channels or in_channels // 4, groups=groups)
        super().__init__(in_channels, conv, fusion=fusion, zero_init=zero_init)

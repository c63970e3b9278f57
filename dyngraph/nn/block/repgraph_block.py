"""The simple representative graph block."""

from collections.abc import Sequence

from dyngraph.nn.block.attention_block import AttentionBlock
from dyngraph.nn.conv.repgraph_conv import RepGraphConv


class RepGraphBlock(AttentionBlock):
    r"""The simple RepGraph block (SRG) on feature maps: attention over a few learned nodes.

    From "Representative Graph Neural Network" (ECCV 2020), Sect. 3.3. See
    :class:`~dyngraph.nn.RepGraphConv` for the formula.

    Args:
        in_channels: C, the channels of the feature maps.
        hidden_channels: The channels of queries, keys and values. Defaults to a quarter of C.
        num_samples: S, the number of representative nodes per node.
        groups: The number of contiguous channel groups, each with its own attention.
        cell_size: The length of the cells of nodes that share their samples.
        num_axes: The number of spatial axes of the feature maps.
        fusion: ``"sum"``: :math:`W_y \tilde{\mathbf{x}} + \mathbf{x}`, C channels. ``"concat"``:
            :math:`[\mathbf{x}, W_y \tilde{\mathbf{x}}]`, 2 C channels.
        zero_init: Whether :math:`W_y` starts at zero, so that a ``"sum"`` block starts as the
            identity.
        spread: The largest initial offset of a sample, in nodes, along all axes or along each of
            them. A sample only learns from its surroundings: choose about the distance to what it
            should find, and no more than the size of the maps.
        backend: The backend of :func:`~dyngraph.ops.sampled_attention`.

    Raises:
        ValueError: If ``groups`` does not divide ``hidden_channels``, a number is not positive or
            ``fusion`` is unknown.

    Shapes:
        - **input:** ``[B, C, *spatial]`` or a list of maps ``[C, *spatial]``
        - **output:** ``[B, out_channels, *spatial]``, or a list where sizes differ

    Example:
        >>> import torch
        >>> from dyngraph.nn import RepGraphBlock
        >>> block = RepGraphBlock(8, num_samples=4)
        >>> block(torch.randn(2, 8, 4, 5)).shape
        torch.Size([2, 8, 4, 5])
        >>> first, second = block([torch.randn(8, 4, 5), torch.randn(8, 3, 3)])
        >>> second.shape
        torch.Size([8, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        num_samples: int = 9,
        *,
        groups: int = 1,
        cell_size: int = 1,
        num_axes: int = 2,
        fusion: str = "sum",
        zero_init: bool = False,
        spread: float | Sequence[float] = 16.0,
        backend: str = "auto",
    ) -> None:
        conv = RepGraphConv(
            in_channels,
            hidden_channels or in_channels // 4,
            num_samples,
            groups=groups,
            cell_size=cell_size,
            num_axes=num_axes,
            spread=spread,
            backend=backend,
        )
        super().__init__(in_channels, conv, fusion=fusion, zero_init=zero_init)

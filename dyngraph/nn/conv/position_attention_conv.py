from typing import Any, Optional

from dyngraph.nn.conv.nonlocal_conv import NonLocalConv
from dyngraph.nn.node_linear import NodeLinear


class PositionAttentionConv(NonLocalConv):
    r"""DANet's position attention: Non-local whose values are not reduced.

    From "Dual Attention Network for Scene Segmentation" (CVPR 2019,
    `arXiv:1809.02983 <https://arxiv.org/abs/1809.02983>`__), Eq. 1-2. See
    :class:`~dyngraph.nn.NonLocalConv` for the formula.

    Args:
        in_channels: C, the channels of the nodes, and of the result.
        hidden_channels: The channels of queries and keys. Defaults to an eighth of C, as in the
            released code.
        **kwargs: Arguments of :class:`torch_geometric.nn.MessagePassing`.

    Raises:
        ValueError: If ``groups`` does not divide ``hidden_channels``, or ``aggr`` is not the sum.

    Shapes:
        - **input:** ``x [N, C]``, and a grid or ``edge_index [2, E]``
        - **output:** ``[N, C]``

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.nn import PositionAttentionConv
        >>> x, grid = torch.randn(20, 8), Grid([[4, 5]])
        >>> conv = PositionAttentionConv(8)
        >>> conv(x, grid).shape
        torch.Size([20, 8])
        >>> conv(x, torch.tensor([[0, 1, 2], [3, 3, 4]])).shape  # along given edges
        torch.Size([20, 8])
    """

    def __init__(
        self, in_channels: int, hidden_channels: Optional[int] = None, **kwargs: Any
    ) -> None:
        super().__init__(in_channels, hidden_channels or max(in_channels // 8, 1), **kwargs)
        self.lin_value = NodeLinear(in_channels, in_channels)
        self.out_channels = in_channels

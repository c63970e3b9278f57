from typing import Optional

from dyngraph.nn.conv.nonlocal_conv import NonLocalConv
from dyngraph.nn.node_linear import NodeLinear


class PositionAttentionConv(NonLocalConv):
    r"""DANet's position attention: Non-local whose values are not reduced.

    From "Dual Attention Network for Scene Segmentation" (CVPR 2019), Eq. 1-2. See
    :class:`~dyngraph.nn.NonLocalConv` for the formula.

    Args:
        in_channels: C, the channels of the nodes, and of the result.
        hidden_channels: The channels of queries and keys. Defaults to an eighth of C, as in the
            released code.
        **kwargs: Arguments of :class:`torch_geometric.nn.MessagePassing`.

    Shapes:
        - **input:** ``x [N, C]``, and a grid or ``edge_index [2, E]``
        - **output:** ``[N, C]``
    """

    def __init__(self, in_channels: int, hidden_channels: Optional[int] = None, **kwargs):
        super().__init__(in_channels, hidden_channels or max(in_channels // 8, 1), **kwargs)
        self.lin_value = NodeLinear(in_channels, in_channels)
        self.out_channels = in_channels

from typing import Any, Optional

from dyngraph.nn.conv.repgraph_conv import RepGraphConv
from dyngraph.nn.node_linear import NodeLinear
from dyngraph.samplers import CrissCrossSampler


class CrissCrossConv(RepGraphConv):
    r"""The criss-cross operator: attention over a node's row and column.

    .. math::
        \tilde{\mathbf{x}}_i = \sum_{j \in \mathrm{lines}(i)} \mathrm{softmax}_j \big(
        \theta(\mathbf{x}_i) \cdot \phi(\mathbf{x}_j) \big) \, g(\mathbf{x}_j)

    From "CCNet: Criss-Cross Attention for Semantic Segmentation" (ICCV 2019,
    `arXiv:1811.11721 <https://arxiv.org/abs/1811.11721>`__), Eq. 1-2: the attention of
    :class:`~dyngraph.nn.RepGraphConv` over the samples of
    :class:`~dyngraph.samplers.CrissCrossSampler`. Values are not reduced. The maps of a grid must
    have one size. All samples are at nodes but cost as much as any: on images, interpolation from
    four corners takes five times the multiply-adds of the formula.

    Args:
        in_channels: C, the channels of the nodes, and of the result.
        hidden_channels: The channels of queries and keys. Defaults to an eighth of C.
        num_axes: The number of spatial axes.
        backend: The backend of :func:`~dyngraph.ops.sampled_attention`.
        **kwargs: Arguments of :class:`torch_geometric.nn.MessagePassing`.

    Raises:
        ValueError: If ``num_axes`` is not 1, 2 or 3, or ``aggr`` is not the sum.

    Shapes:
        - **input:** ``x [N, C]``, and a grid or ``edge_index [2, E]``
        - **output:** ``[N, C]``

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.nn import CrissCrossConv
        >>> x, grid = torch.randn(20, 8), Grid([[4, 5]])
        >>> conv = CrissCrossConv(8)
        >>> conv(x, grid).shape
        torch.Size([20, 8])
        >>> conv(x, torch.tensor([[0, 1, 2], [3, 3, 4]])).shape  # along given edges
        torch.Size([20, 8])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Optional[int] = None,
        *,
        num_axes: int = 2,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels,
            hidden_channels or max(in_channels // 8, 1),
            num_axes=num_axes,
            sampler=CrissCrossSampler(num_axes),
            backend=backend,
            **kwargs,
        )
        self.lin_value = NodeLinear(in_channels, in_channels)
        self.out_channels = in_channels

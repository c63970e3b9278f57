from abc import abstractmethod
from typing import Optional, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.typing import Adj, PairTensor, SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, softmax
from torch_geometric.utils.sparse import set_sparse_value

from dyngraph.grid import Grid
from dyngraph.nn.node_linear import NodeLinear


class AttentionConv(MessagePassing):
    r"""Dot-product attention over a neighborhood :math:`\mathcal{N}(i)` that a subclass chooses.

    .. math::
        \tilde{\mathbf{x}}_i = \sum_{j \in \mathcal{N}(i)} \mathrm{softmax}_j \big(
        \theta(\mathbf{x}_i) \cdot \phi(\mathbf{x}_j) \big) \, g(\mathbf{x}_j)

    On a :class:`~dyngraph.Grid` the subclass chooses the nodes; on an explicit :obj:`edge_index`
    the same weights attend over the given edges. Scores are not divided by
    :math:`\sqrt{\mathrm{channels}}`.

    Args:
        in_channels: The channels of the nodes, or -1 to take them from the first input. A tuple
            holds the channels of source and target nodes.
        hidden_channels: The output channels of :math:`\theta`, :math:`\phi` and :math:`g`, and so
            of the layer. None leaves out the projections: the nodes themselves are queries, keys
            and values, as in the bottleneck RepGraph layer.
        groups: The number of contiguous channel groups, each with its own attention.
        bias: Whether :math:`\theta`, :math:`\phi` and :math:`g` have biases.
        **kwargs: Arguments of :class:`torch_geometric.nn.MessagePassing`.

    Raises:
        ValueError: If ``groups`` does not divide the channels.
    """

    def __init__(
        self,
        in_channels: Union[int, Tuple[int, int]],
        hidden_channels: Optional[int],
        groups: int = 1,
        bias: bool = True,
        **kwargs,
    ):
        kwargs.setdefault("aggr", "add")
        super().__init__(node_dim=0, **kwargs)
        if isinstance(in_channels, int):
            in_channels = (in_channels, in_channels)
        source_channels, target_channels = in_channels
        if hidden_channels is None and source_channels != target_channels:
            raise ValueError(
                f"in_channels: without projections, expected as many source as target channels, "
                f"got {in_channels}"
            )
        self.in_channels = source_channels if source_channels == target_channels else in_channels
        self.out_channels = source_channels if hidden_channels is None else hidden_channels
        self.groups = groups
        self.project = hidden_channels is not None
        if groups < 1 or (self.out_channels > 0 and self.out_channels % groups):
            raise ValueError(
                f"groups: expected a divisor of {self.out_channels} channels, got {groups}"
            )
        if self.project:
            self.lin_query = NodeLinear(target_channels, hidden_channels, bias=bias)
            self.lin_key = NodeLinear(source_channels, hidden_channels, bias=bias)
            self.lin_value = NodeLinear(source_channels, hidden_channels, bias=bias)

    def reset_parameters(self):
        r"""Resets all learnable parameters of the layer."""
        super().reset_parameters()
        if self.project:
            self.lin_query.reset_parameters()
            self.lin_key.reset_parameters()
            self.lin_value.reset_parameters()

    @abstractmethod
    def attend(
        self, x: PairTensor, grid: Grid, return_edges: bool
    ) -> Tuple[Tensor, Optional[Tuple[Tensor, Tensor]]]:
        r"""Attention on a grid, and its edges with their attention if ``return_edges``."""

    def queries_keys_values(self, x: PairTensor) -> Tuple[Tensor, Tensor, Tensor]:
        r""":math:`\theta`, :math:`\phi` and :math:`g` of ``(x_src, x_dst)``."""
        if not self.project:
            return x[1], x[0], x[0]
        return self.lin_query(x[1]), self.lin_key(x[0]), self.lin_value(x[0])

    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Union[Adj, Grid],
        return_attention_weights: Optional[bool] = None,
    ):
        r"""Runs the layer.

        Args:
            x: Node features ``[N, C]``, or ``(x_src, x_dst)``.
            edge_index: The grid of the nodes, or any graph: ``[2, E]``,
                :class:`~torch_geometric.EdgeIndex`, :obj:`SparseTensor` or a sparse tensor.
            return_attention_weights: Whether to return ``(edge_index, alpha [E, G])`` too. On a
                grid, a sample's attention is spread over its corners.

        Returns:
            ``[N, hidden_channels]``.

        Raises:
            TypeError: If ``x`` holds no tensors, or ``edge_index`` is neither a grid nor a graph.
            ValueError: If ``x`` does not fit the layer or the grid, or an edge no node.
        """
        x = (x, x) if isinstance(x, Tensor) else x
        self._check_channels(x)
        if isinstance(edge_index, Grid):
            _check_rows(x, edge_index)
            out, edges = self.attend(x, edge_index, bool(return_attention_weights))
            return (out, edges) if return_attention_weights else out

        _check_edge_index(edge_index, x)
        query, key, value = (
            part.unflatten(1, (self.groups, -1)) for part in self.queries_keys_values(x)
        )
        # edge_updater_type: (query: Tensor, key: Tensor)
        alpha = self.edge_updater(edge_index, query=query, key=key)
        # propagate_type: (value: Tensor, alpha: Tensor)
        out = self.propagate(
            edge_index, value=value, alpha=alpha, size=(x[0].size(0), x[1].size(0))
        )
        out = out.flatten(1)
        if not return_attention_weights:
            return out
        if isinstance(edge_index, SparseTensor):
            return out, edge_index.set_value(alpha, layout="coo")
        if is_torch_sparse_tensor(edge_index):
            return out, (set_sparse_value(edge_index, alpha), alpha)
        return out, (edge_index, alpha)

    def edge_update(
        self,
        query_i: Tensor,
        key_j: Tensor,
        index: Tensor,
        ptr: Optional[Tensor],
        dim_size: Optional[int],
    ) -> Tensor:
        return softmax((query_i * key_j).sum(dim=-1), index, ptr, dim_size)

    def message(self, value_j: Tensor, alpha: Tensor) -> Tensor:
        return alpha.unsqueeze(-1) * value_j

    def _check_channels(self, x: PairTensor) -> None:
        expected = self.in_channels
        if isinstance(expected, int):
            expected = (expected, expected)
        if self.project:
            # A lazy layer knows its channels once it has run.
            expected = (self.lin_key.in_channels, self.lin_query.in_channels)
        for part, channels in zip(x, expected):
            if not isinstance(part, Tensor):
                raise TypeError(f"x: expected tensors, got {type(part).__name__}")
            if part.dim() != 2 or (channels != -1 and part.size(1) != channels):
                raise ValueError(
                    f"x: expected node features [N, {channels if channels != -1 else 'C'}], "
                    f"got shape {list(part.shape)}"
                )
            if channels == -1 and not self.project and part.size(1) % self.groups:
                raise ValueError(
                    f"groups: expected a divisor of {part.size(1)} channels, got {self.groups}"
                )

    def __repr__(self) -> str:
        groups = f", groups={self.groups}" if self.groups > 1 else ""
        return f"{self.__class__.__name__}({self.in_channels}, {self.out_channels}{groups})"


def _check_rows(x: PairTensor, grid: Grid) -> None:
    for part in x:
        if part.size(0) != grid.num_nodes:
            raise ValueError(
                f"x: expected a row for each of the {grid.num_nodes} nodes of {grid}, "
                f"got shape {list(part.shape)}"
            )


def _check_edge_index(edge_index: Adj, x: PairTensor) -> None:
    if not isinstance(edge_index, (Tensor, SparseTensor)):
        raise TypeError(
            f"edge_index: expected a Grid, edges [2, E] or a sparse tensor, "
            f"got {type(edge_index).__name__}"
        )
    if isinstance(edge_index, SparseTensor) or is_torch_sparse_tensor(edge_index):
        return
    # On an accelerator the check would wait for the device, and its kernels check by themselves.
    if torch.compiler.is_compiling() or edge_index.device.type != "cpu" or edge_index.numel() == 0:
        return
    if edge_index.dim() != 2:
        return
    for name, row, part in zip(("source", "target"), edge_index, x):
        low, high = row.min().item(), row.max().item()
        if low < 0 or high >= part.size(0):
            raise ValueError(
                f"edge_index: expected {name} nodes in [0, {part.size(0)}), "
                f"got nodes from {low} to {high}"
            )

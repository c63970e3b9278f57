from abc import ABC, abstractmethod
from typing import Any, Literal, Optional, Tuple, Union, overload

from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.typing import Adj, OptTensor, PairTensor
from torch_geometric.utils import scatter, softmax

from dyngraph.grid import Grid
from dyngraph.nn.conv.given_edges import (
    WeightedGraph,
    check_edges,
    check_rows,
    check_samples,
    sum_messages,
    with_attention,
)
from dyngraph.nn.node_linear import NodeLinear
from dyngraph.ops.precision import accumulator


class AttentionConv(MessagePassing, ABC):
    r"""Dot-product attention of each node over K samples that a subclass chooses.

    .. math::
        \tilde{\mathbf{x}}_i = \sum_k \mathrm{softmax}_k \big( \theta(\mathbf{x}_i) \cdot
        \phi(\mathbf{x})(\mathbf{p}_{i,k}) \big) \, g(\mathbf{x})(\mathbf{p}_{i,k}), \qquad
        \mathbf{f}(\mathbf{p}_{i,k}) = \sum_{(j,i) \in k} \omega_{j,i} \, \mathbf{f}_j

    On a :class:`~dyngraph.Grid` the subclass chooses positions :math:`\mathbf{p}`. On an explicit
    :obj:`edge_index` the same weights attend along the given edges: edges of the same target and
    :obj:`edge_sample` are one sample, interpolated with :obj:`edge_weight` :math:`\omega`. Scores
    are not divided by :math:`\sqrt{\mathrm{channels}}`.

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
        ValueError: If ``groups`` does not divide the channels, or ``aggr`` is not the sum.

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.nn import RepGraphConv
        >>> conv, x, grid = RepGraphConv(8, 16, groups=2), torch.randn(20, 8), Grid([[4, 5]])
        >>> out, (edge_index, alpha) = conv(x, grid, return_attention_weights=True)
        >>> edge_index.shape, alpha.shape  # nine samples per node, four corners per sample
        (torch.Size([2, 720]), torch.Size([720, 2]))
    """

    scale = 1.0
    """The factor of the scores."""

    def __init__(
        self,
        in_channels: Union[int, Tuple[int, int]],
        hidden_channels: Optional[int],
        *,
        groups: int = 1,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(node_dim=0, **sum_messages(kwargs))
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

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the layer."""
        super().reset_parameters()
        if self.project:
            self.lin_query.reset_parameters()
            self.lin_key.reset_parameters()
            self.lin_value.reset_parameters()

    @abstractmethod
    def attend(
        self, x: PairTensor, grid: Grid, return_edges: bool
    ) -> Tuple[Tensor, Optional[WeightedGraph]]:
        r"""Attention on a grid, with its edges and their attention if ``return_edges``."""

    def num_edge_samples(self, edge_sample: Tensor) -> int:
        r"""How many samples ``edge_sample`` numbers."""
        return int(edge_sample.max()) + 1 if edge_sample.numel() else 0

    def queries_keys_values(self, x: PairTensor) -> Tuple[Tensor, Tensor, Tensor]:
        r""":math:`\theta`, :math:`\phi` and :math:`g` of ``(x_src, x_dst)``."""
        if not self.project:
            return x[1], x[0], x[0]
        return self.lin_query(x[1]), self.lin_key(x[0]), self.lin_value(x[0])

    def position_scores(self, query: Tensor, grid: Grid) -> OptTensor:
        r"""What positions on a grid add to the scores, ``[N, G, K]``; here nothing."""
        return None

    @overload
    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Union[Adj, Grid],
        edge_weight: OptTensor = None,
        edge_sample: OptTensor = None,
        *,
        return_attention_weights: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Union[Adj, Grid],
        edge_weight: OptTensor = None,
        edge_sample: OptTensor = None,
        *,
        return_attention_weights: Literal[True],
    ) -> Tuple[Tensor, WeightedGraph]: ...

    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Union[Adj, Grid],
        edge_weight: OptTensor = None,
        edge_sample: OptTensor = None,
        *,
        return_attention_weights: bool = False,
    ) -> Union[Tensor, Tuple[Tensor, WeightedGraph]]:
        r"""Runs the layer.

        Args:
            x: Node features ``[N, C]``, or ``(x_src, x_dst)``.
            edge_index: The grid of the nodes, or any graph: ``[2, E]``,
                :class:`~torch_geometric.EdgeIndex`, :obj:`SparseTensor` or a sparse tensor.
            edge_weight: The interpolation weight of each edge ``[E]``. Defaults to the values of a
                sparse matrix, else to 1.
            edge_sample: Which of its target's samples each edge belongs to, ``[E]``, as in
                :class:`~dyngraph.Edges`. A sample without edges reads 0, like one outside the map.
                By default each edge is a sample.
            return_attention_weights: Whether to return ``(edge_index, alpha [E, G])`` too, where a
                sample's attention is spread over its edges by their weights.

        Returns:
            ``[N, hidden_channels]``.

        Raises:
            TypeError: If ``x`` holds no tensors, or ``edge_index`` is neither a grid nor a graph.
            ValueError: If ``x`` does not fit the layer or the grid, an edge ends at no node, or
                there is not one weight and one sample per edge.
        """
        x = (x, x) if isinstance(x, Tensor) else x
        self.check_channels(x)
        if isinstance(edge_index, Grid):
            check_rows(x, edge_index, edge_weight, edge_sample)
            out, edges = self.attend(x, edge_index, return_attention_weights)
        else:
            out, alpha = self.attend_along(x, edge_index, edge_weight, edge_sample)
            edges = with_attention(edge_index, alpha)
        return (out, edges) if return_attention_weights else out

    def attend_along(
        self,
        x: PairTensor,
        edge_index: Adj,
        edge_weight: OptTensor,
        edge_sample: OptTensor,
        grid: Optional[Grid] = None,
    ) -> Tuple[Tensor, Tensor]:
        r"""Attention along the edges of a given graph.

        Args:
            x: ``(x_src, x_dst)``.
            edge_index: The graph.
            edge_weight: ``[E]`` or None.
            edge_sample: ``[E]`` or None.
            grid: The layout of the nodes, if :meth:`position_scores` are to be added.

        Returns:
            The output, and each edge's share of its sample's attention ``[E, G]``.
        """
        edge_weight = check_edges(edge_index, x, edge_weight, edge_sample)
        num_samples = 0
        if edge_sample is not None:
            num_samples = self.num_edge_samples(edge_sample)
            check_samples(edge_sample, num_samples)
        parts = self.queries_keys_values(x)
        bias = None if grid is None else self.position_scores(parts[0], grid)
        out, alpha = self.pass_messages(
            parts, edge_index, edge_weight, edge_sample, num_samples, bias
        )
        return out, alpha if edge_weight is None else edge_weight.unsqueeze(-1) * alpha

    def pass_messages(
        self,
        queries_keys_values: Tuple[Tensor, Tensor, Tensor],
        edge_index: Adj,
        edge_weight: OptTensor,
        edge_sample: OptTensor,
        num_samples: int,
        bias: OptTensor = None,
    ) -> Tuple[Tensor, Tensor]:
        r"""Attention along edges.

        Args:
            queries_keys_values: ``[N, C]``, ``[M, C]`` and ``[M, C']``.
            edge_index: The graph.
            edge_weight: ``[E]`` or None.
            edge_sample: ``[E]`` or None.
            num_samples: K, how many samples ``edge_sample`` numbers; 0 without it.
            bias: ``[N, G, K]``, added to the scores, or None.

        Returns:
            ``[N, C']``, and for each edge the attention of its sample ``[E, G]``.
        """
        query, key, value = (
            part.to(accumulator(part.dtype)).unflatten(1, (self.groups, -1))
            for part in queries_keys_values
        )
        size = (key.size(0), query.size(0))
        # edge_updater_type: (query: Tensor, key: Tensor, bias: OptTensor, edge_weight: OptTensor, edge_sample: OptTensor, num_samples: int)  # noqa: E501
        alpha = self.edge_updater(
            edge_index,
            query=query,
            key=key,
            bias=bias,
            edge_weight=edge_weight,
            edge_sample=edge_sample,
            num_samples=num_samples,
            size=size,
        )
        # propagate_type: (value: Tensor, alpha: Tensor, edge_weight: OptTensor)
        out = self.propagate(
            edge_index, value=value, alpha=alpha, edge_weight=edge_weight, size=size
        )
        return out.flatten(1).to(queries_keys_values[2].dtype), alpha

    def edge_update(
        self,
        query_i: Tensor,
        key_j: Tensor,
        bias: OptTensor,
        edge_weight: OptTensor,
        edge_sample: OptTensor,
        num_samples: int,
        index: Tensor,
        ptr: OptTensor,
        dim_size: int,
    ) -> Tensor:
        score = self.scale * (query_i * key_j).sum(dim=-1)
        if edge_weight is not None:
            score = edge_weight.unsqueeze(-1) * score
        if edge_sample is None:
            alpha: Tensor = softmax(score, index, ptr, dim_size)
            return alpha
        # The score of a sample is the interpolation of its corners' scores.
        sample = index * num_samples + edge_sample
        score = scatter(score, sample, dim=0, dim_size=dim_size * num_samples, reduce="sum")
        score = score.view(dim_size, num_samples, self.groups)
        if bias is not None:
            score = score + bias.transpose(1, 2)
        alpha = score.softmax(dim=1).flatten(0, 1).index_select(0, sample)
        return alpha

    def message(self, value_j: Tensor, alpha: Tensor, edge_weight: OptTensor) -> Tensor:
        alpha = alpha if edge_weight is None else edge_weight.unsqueeze(-1) * alpha
        return alpha.unsqueeze(-1) * value_j

    def check_channels(self, x: PairTensor) -> None:
        r"""Raises an error unless ``x`` are node features with the layer's channels."""
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

from typing import Any, Literal, Optional, Tuple, Union, overload

import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn.inits import reset
from torch_geometric.typing import Adj, OptTensor, PairTensor
from torch_geometric.utils import scatter

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.nn.conv.attention_conv import AttentionConv
from dyngraph.nn.conv.given_edges import WeightedGraph, check_rows, with_attention
from dyngraph.nn.node_linear import TransformerLinear
from dyngraph.nn.relative_position import RelativePosition
from dyngraph.ops import sampled_attention
from dyngraph.ops.backend import resolve_backend
from dyngraph.ops.project import project
from dyngraph.samplers import LinearWalkSampler, Sampler


class DGMN2Conv(AttentionConv):
    r"""The attention of DGMN2: each head attends to nine samples at its own positions.

    .. math::
        \mathbf{y}_{i,g} = \sum_{k=1}^K \mathrm{softmax}_k \Big( \tfrac{1}{\sqrt{d}} \,
        \mathbf{q}_{i,g} \cdot \mathbf{k}_g(\mathbf{p}_{i,g,k}) + b_k(\mathbf{q}_{i,g}) \Big) \,
        \mathbf{v}_g(\mathbf{p}_{i,g,k}), \quad
        \mathbf{p}_{i,g,k} = \mathbf{pos}_i + \mathbf{tap}_k + \Delta_k(\mathbf{x}_{i,g})

    From "Dynamic Graph Message Passing Networks for Visual Recognition" (TPAMI 2022,
    `arXiv:2209.09760 <https://arxiv.org/abs/2209.09760>`__), as in its released code. Heads g are
    contiguous groups of d channels. Walks Δ are predicted from the layer's input by a linear map
    that the heads share, and b are the scores of
    :class:`~dyngraph.nn.relative_position.RelativePosition`. A last linear map projects the heads'
    results. Weights are named like the released ones.

    On an explicit :obj:`edge_index` the same heads attend along the given edges. Sample k of head g
    is the :obj:`edge_sample` number ``g K + k``; without samples, all heads attend over all edges.
    Scores of relative positions need the grid of the nodes, and are added if it is given.

    Args:
        in_channels: C, the channels of the nodes, and of the result.
        heads: The number of heads.
        map_size: The size ``(height, width)`` of maps that the tables of relative positions are
            made for. For maps of other sizes they are resized.
        bias: Whether queries, keys, values and walks have biases.
        sampler: A sampler of nodes with d channels, instead of
            :class:`~dyngraph.samplers.LinearWalkSampler`.
        backend: The backend of :func:`~dyngraph.ops.sampled_attention`. ``"pyg"``: the layer makes
            the edges of its samples and passes messages along them.
        **kwargs: Arguments of :class:`torch_geometric.nn.MessagePassing`.

    Raises:
        ValueError: If ``in_channels`` is not positive (it can't be taken from the first input, as
            walks and relative positions depend on it), ``heads`` does not divide it, ``map_size``
            is not two positive lengths, or ``aggr`` is not the sum.

    Shapes:
        - **input:** ``x [N, C]`` or ``(x_src, x_dst)``, and a grid or ``edge_index [2, E]``
        - **output:** ``[N, C]``

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.nn import DGMN2Conv
        >>> x, grid = torch.randn(20, 8), Grid([[4, 5]])
        >>> conv = DGMN2Conv(8, heads=2, map_size=(4, 5))
        >>> conv(x, grid).shape
        torch.Size([20, 8])
        >>> conv(x, torch.tensor([[0, 1, 2], [3, 3, 4]])).shape  # along given edges
        torch.Size([20, 8])
    """

    def __init__(
        self,
        in_channels: int,
        heads: int = 1,
        map_size: Tuple[int, int] = (56, 56),
        *,
        bias: bool = True,
        sampler: Optional[Sampler] = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        if in_channels < 1:
            # Walks, relative positions and heads depend on it.
            raise ValueError(f"in_channels: expected a positive number, got {in_channels}")
        if heads < 1 or in_channels % heads:
            raise ValueError(f"heads: expected a divisor of {in_channels} channels, got {heads}")
        super().__init__(in_channels, None, groups=heads, **kwargs)
        channels = in_channels // heads
        self.heads = heads
        self.scale = channels**-0.5
        self.backend = backend
        self.qkv = TransformerLinear(in_channels, 3 * in_channels, bias=bias)
        self.proj = TransformerLinear(in_channels, in_channels)
        self.conv_offset = LinearWalkSampler(channels, bias=bias) if sampler is None else sampler
        self.pos_emb = RelativePosition(channels, map_size, self.conv_offset.num_samples)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        reset(self.qkv)
        reset(self.proj)
        reset(self.conv_offset)
        reset(self.pos_emb)

    @overload
    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Union[Adj, Grid],
        edge_weight: OptTensor = None,
        edge_sample: OptTensor = None,
        *,
        return_attention_weights: Literal[False] = False,
        grid: Optional[Grid] = None,
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
        grid: Optional[Grid] = None,
    ) -> Tuple[Tensor, WeightedGraph]: ...

    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Union[Adj, Grid],
        edge_weight: OptTensor = None,
        edge_sample: OptTensor = None,
        *,
        return_attention_weights: bool = False,
        grid: Optional[Grid] = None,
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
            return_attention_weights: Whether to return ``(edge_index, alpha [E, heads])`` too. A
                sample's attention is spread over its edges by their weights, and is 0 in other
                heads.
            grid: The grid of the nodes of an explicit graph with ``edge_sample``. Without it, no
                scores of relative positions are added.

        Returns:
            ``[N, C]``.

        Raises:
            TypeError: If ``x`` holds no tensors, or ``edge_index`` is neither a grid nor a graph.
            ValueError: If ``x`` does not fit the layer or the grid, an edge ends at no node, there
                is not one weight and one sample per edge, or ``grid`` is given without
                ``edge_sample``.
        """
        if grid is not None and edge_sample is None:
            raise ValueError("grid: expected None without edge_sample, got a grid")
        x = (x, x) if isinstance(x, Tensor) else x
        if grid is not None:
            self.check_channels(x)
            check_rows(x, grid, None, None)
            out, alpha = self.attend_along(x, edge_index, edge_weight, edge_sample, grid)
            out = self.proj(out)
            return (out, with_attention(edge_index, alpha)) if return_attention_weights else out
        if not return_attention_weights:
            y: Tensor = self.proj(super().forward(x, edge_index, edge_weight, edge_sample))
            return y
        out, edges = super().forward(
            x, edge_index, edge_weight, edge_sample, return_attention_weights=True
        )
        return self.proj(out), edges

    def attend(
        self, x: PairTensor, grid: Grid, return_edges: bool
    ) -> Tuple[Tensor, Optional[WeightedGraph]]:
        out, near, alpha = self.sample(x, grid)
        return out, (near.edges().index, near.corner_alpha(alpha)) if return_edges else None

    def num_edge_samples(self, edge_sample: Tensor) -> int:
        return self.heads * self.conv_offset.num_samples

    def queries_keys_values(self, x: PairTensor) -> Tuple[Tensor, Tensor, Tensor]:
        r"""Queries, keys and values, ``[N, C]`` each."""
        # Part by part: the gradient of one product would first be put together from three.
        rows = self.qkv.weight.chunk(3)
        biases = (None, None, None) if self.qkv.bias is None else self.qkv.bias.chunk(3)
        query, key, value = (
            project(nodes, weight, bias)
            for nodes, weight, bias in zip((x[1], x[0], x[0]), rows, biases)
        )
        return query, key, value

    def sample(
        self, x: Union[Tensor, PairTensor], grid: Grid
    ) -> Tuple[Tensor, Neighborhood, Tensor]:
        r"""The heads' results before the last projection, their samples and their attention.

        Returns:
            ``[N, C]``, the samples of every head ``[N, heads, K, 2]``, and the attention
            ``[N, heads, K]``.
        """
        x = (x, x) if isinstance(x, Tensor) else x
        near = self.conv_offset(self._by_head(x[1]), grid)
        query, key, value = self.queries_keys_values(x)
        bias = self.position_scores(query, grid)
        if resolve_backend(self.backend, x[0].device) == "pyg":
            edges, num_samples = near.edges(), self.heads * near.num_samples
            out, alpha = self.pass_messages(
                (query, key, value), edges.index, edges.weight, edges.sample, num_samples, bias
            )
            # All corners of a sample have its attention; in other heads it is 0.
            alpha = alpha.view(len(near.pos), num_samples, 4, self.heads)[:, :, 0].sum(dim=-1)
            return out, near, alpha.unflatten(1, (self.heads, near.num_samples))
        out, alpha = sampled_attention(
            query,
            key,
            value,
            near,
            self.heads,
            scale=self.scale,
            bias=bias,
            return_weights=True,
            backend=self.backend,
        )
        return out, near, alpha

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
        if edge_sample is None:
            return super().edge_update(
                query_i, key_j, bias, edge_weight, None, num_samples, index, ptr, dim_size
            )
        # Sample g K + k belongs to head g alone.
        head = F.one_hot(edge_sample // (num_samples // self.heads), self.heads)
        score = self.scale * (head * (query_i * key_j).sum(dim=-1)).sum(dim=-1)
        if edge_weight is not None:
            score = edge_weight * score
        sample = index * num_samples + edge_sample
        score = scatter(score, sample, dim=0, dim_size=dim_size * num_samples, reduce="sum")
        score = score.view(dim_size, self.heads, num_samples // self.heads)
        alpha: Tensor = (score if bias is None else score + bias).softmax(dim=-1)
        return head * alpha.flatten().index_select(0, sample).unsqueeze(-1)

    def _by_head(self, x: Tensor) -> Tensor:
        """``[N, C] -> [N, heads, d]``."""
        heads: Tensor = x.unflatten(1, (self.heads, -1))
        return heads

    def position_scores(self, query: Tensor, grid: Grid) -> Tensor:
        r"""The scores of relative positions of the samples, ``[N, heads, K]``."""
        scores: Tensor = self.pos_emb(self._by_head(query), grid)
        return scores

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.in_channels}, heads={self.heads})"

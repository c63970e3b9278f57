from typing import Optional, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.nn.inits import reset
from torch_geometric.typing import Adj, PairTensor

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.nn.conv.attention_conv import AttentionConv
from dyngraph.nn.node_linear import TransformerLinear
from dyngraph.nn.relative_position import RelativePosition
from dyngraph.ops import sampled_attention
from dyngraph.samplers import LinearWalkSampler, Sampler


class DGMN2Conv(AttentionConv):
    r"""The attention of DGMN2: each head attends to nine samples at positions of its own.

    .. math::
        \mathbf{y}_{i,g} = \sum_{k=1}^K \mathrm{softmax}_k \Big( \tfrac{1}{\sqrt{d}} \,
        \mathbf{q}_{i,g} \cdot \mathbf{k}_g(\mathbf{p}_{i,g,k}) + b_k(\mathbf{q}_{i,g}) \Big) \,
        \mathbf{v}_g(\mathbf{p}_{i,g,k}), \quad
        \mathbf{p}_{i,g,k} = \mathbf{pos}_i + \mathbf{tap}_k + \Delta_k(\mathbf{x}_{i,g})

    From "Dynamic Graph Message Passing Networks for Visual Recognition" (TPAMI 2022), as in its
    released code. Heads g are contiguous groups of d channels. Walks Δ are predicted from the
    layer's input by a linear map that the heads share, and b are the scores of
    :class:`~dyngraph.nn.relative_position.RelativePosition`. The heads' results are projected once
    more. Weights have the names of the released ones.

    On an explicit :obj:`edge_index` the same heads attend over the given edges, by their scaled dot
    products alone: walks and relative positions belong to grids.

    Args:
        in_channels: C, the channels of the nodes, and of the result.
        heads: The number of heads.
        map_size: The size ``(height, width)`` of maps that the tables of relative positions are
            made for. For maps of other sizes they are resized.
        bias: Whether queries, keys, values and walks have biases.
        sampler: Another sampler of nodes with d channels, in the place of
            :class:`~dyngraph.samplers.LinearWalkSampler`.
        backend: The backend of :func:`~dyngraph.ops.sampled_attention`.
        **kwargs: Arguments of :class:`torch_geometric.nn.MessagePassing`.

    Raises:
        ValueError: If ``heads`` does not divide the channels, or ``map_size`` is not two positive
            lengths.

    Shapes:
        - **input:** ``x [N, C]`` or ``(x_src, x_dst)``, and a grid or ``edge_index [2, E]``
        - **output:** ``[N, C]``
    """

    def __init__(
        self,
        in_channels: int,
        heads: int = 1,
        map_size: Tuple[int, int] = (56, 56),
        bias: bool = True,
        sampler: Optional[Sampler] = None,
        backend: str = "auto",
        **kwargs,
    ):
        if in_channels < 1 or heads < 1 or in_channels % heads:
            raise ValueError(f"heads: expected a divisor of {in_channels} channels, got {heads}")
        super().__init__(in_channels, None, groups=heads, **kwargs)
        channels = in_channels // heads
        self.heads = heads
        self.scale = channels**-0.5
        self.backend = backend
        self.qkv = TransformerLinear(in_channels, 3 * in_channels, bias=bias)
        self.proj = TransformerLinear(in_channels, in_channels)
        self.conv_offset = LinearWalkSampler(channels, bias) if sampler is None else sampler
        self.pos_emb = RelativePosition(channels, map_size, self.conv_offset.num_samples)

    def reset_parameters(self):
        super().reset_parameters()
        reset(self.qkv)
        reset(self.proj)
        reset(self.conv_offset)
        reset(self.pos_emb)

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
            return_attention_weights: Whether to return ``(edge_index, alpha [E, heads])`` too. On a
                grid these are the edges of one head after the other, each with attention in its own
                head only; a sample's attention is spread over its corners.

        Returns:
            ``[N, C]``.

        Raises:
            TypeError: If ``x`` holds no tensors, or ``edge_index`` is neither a grid nor a graph.
            ValueError: If ``x`` does not fit the layer or the grid, or an edge no node.
        """
        result = super().forward(x, edge_index, return_attention_weights)
        if not return_attention_weights:
            return self.proj(result)
        return self.proj(result[0]), *result[1:]

    def attend(
        self, x: PairTensor, grid: Grid, return_edges: bool
    ) -> Tuple[Tensor, Optional[Tuple[Tensor, Tensor]]]:
        out, near, alpha = self.sample(x, grid)
        return out, self._edges(near, alpha) if return_edges else None

    def queries_keys_values(self, x: PairTensor) -> Tuple[Tensor, Tensor, Tensor]:
        r"""Scaled queries, keys and values, ``[N, C]`` each."""
        source = self.qkv(x[0]).chunk(3, dim=1)
        target = source if x[1] is x[0] else self.qkv(x[1]).chunk(3, dim=1)
        return self.scale * target[0], source[1], source[2]

    def sample(
        self, x: Union[Tensor, PairTensor], grid: Grid
    ) -> Tuple[Tensor, Neighborhood, Tensor]:
        r"""The heads' results before the last projection, their samples and their attention.

        Heads have samples of their own, so that each is a batch of maps of its own: the grid of the
        samples has the maps of all heads, one head after the other.

        Returns:
            ``[N, C]``, the samples of ``heads * N`` nodes, and the attention ``[heads * N, 1, K]``.
        """
        x = (x, x) if isinstance(x, Tensor) else x
        all_heads = grid.repeat(self.heads)
        near = self.conv_offset(self._split(x[1]), all_heads)
        query, key, value = self._split(self.qkv(x[0])).chunk(3)
        if x[1] is not x[0]:
            query = self._split(self.qkv(x[1])).chunk(3)[0]
        out, alpha = sampled_attention(
            query,
            key,
            value,
            near,
            scale=self.scale,
            bias=self.pos_emb(query, all_heads).unsqueeze(1),
            return_weights=True,
            backend=self.backend,
        )
        return out.unflatten(0, (self.heads, -1)).transpose(0, 1).flatten(1), near, alpha

    def _split(self, x: Tensor) -> Tensor:
        """One slice of d channels after the other, ``[N, n d] -> [n N, d]``."""
        channels = self.out_channels // self.heads
        slices = x.view(x.size(0), x.size(1) // channels, channels)
        return slices.transpose(0, 1).reshape(-1, channels)

    def _edges(self, near: Neighborhood, alpha: Tensor) -> Tuple[Tensor, Tensor]:
        edge_index, _ = near.edge_index()
        alpha = near.corner_alpha(alpha).view(self.heads, -1, 1)
        head = torch.eye(self.heads, dtype=alpha.dtype, device=alpha.device).unsqueeze(1)
        num_nodes = near.grid.num_nodes // self.heads
        return edge_index % num_nodes, (alpha * head).flatten(0, 1)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.in_channels}, heads={self.heads})"

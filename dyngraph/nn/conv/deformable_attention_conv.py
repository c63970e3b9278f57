import math
from typing import Any, Literal, Optional, Tuple, Union, overload

import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.typing import Adj, OptTensor, PairTensor

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.nn.conv.given_edges import (
    WeightedGraph,
    check_edges,
    check_rows,
    check_samples,
    sum_messages,
    with_attention,
)
from dyngraph.nn.deformable_attention import reset_projections, reset_samples
from dyngraph.nn.node_linear import NodeLinear
from dyngraph.ops import sampled_sum
from dyngraph.ops.backend import resolve_backend
from dyngraph.ops.precision import accumulator


class DeformableAttentionConv(MessagePassing):
    r"""Attention over samples on several maps, which a node weighs without looking at them.

    .. math::
        \mathbf{y}_i = W \Big[ \sum_k A_{i,m,k} \, (V \mathbf{x})_m(\mathbf{p}_{i,m,k})
        \Big]_{m = 1, 2, \dots}, \qquad \mathbf{f}(\mathbf{p}_{i,m,k}) =
        \sum_{(j,i) \in (m,k)} \omega_{j,i} \, \mathbf{f}_j

    From "Deformable DETR: Deformable Transformers for End-to-End Object Detection" (ICLR 2021,
    `arXiv:2010.04159 <https://arxiv.org/abs/2010.04159>`__), Eq. 2 and 3. Each head m has its own
    samples: some on each of the maps of an image, around the place of the node. Their offsets and
    the logits of A are linear in the node. The parameters are those of
    :class:`~dyngraph.nn.MultiScaleDeformableAttention`, with the same names and meaning.

    On an explicit :obj:`edge_index`, edges of the same target and :obj:`edge_sample` are one
    sample, interpolated with :obj:`edge_weight` :math:`\omega`. Sample k of head m is number
    ``m K + k``.

    Args:
        in_channels: C, the channels of the nodes, and of the result.
        heads: The number of heads.
        num_levels: L, how many maps of a grid belong to an image. They follow one another.
        num_points: The number of samples of a head on a map; K is ``num_levels * num_points``.
        backend: The backend of :func:`~dyngraph.ops.sampled_sum`. ``"pyg"``: the layer makes the
            edges of its samples and passes messages along them.
        **kwargs: Arguments of :class:`torch_geometric.nn.MessagePassing`.

    Raises:
        ValueError: If ``heads`` does not divide ``in_channels``, a number is not positive (the
            layer can't be lazy), or ``aggr`` is not the sum.

    Shapes:
        - **input:** ``x [N, C]`` or ``(x_src, x_dst)``, and a grid of images or ``edge_index``
        - **output:** ``[N, C]``

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.nn import DeformableAttentionConv
        >>> conv = DeformableAttentionConv(16, heads=2, num_levels=2)
        >>> pyramid = Grid([[4, 6], [2, 3]])  # two maps of one image
        >>> x = torch.randn(30, 16)
        >>> conv(x, pyramid).shape
        torch.Size([30, 16])

        Seven queries, with a place each:

        >>> queries, place = torch.randn(7, 16), torch.rand(7, 2)
        >>> conv((x, queries), pyramid, receiver=Grid([[7]]), reference=place).shape
        torch.Size([7, 16])
    """

    def __init__(
        self,
        in_channels: int,
        heads: int = 8,
        *,
        num_levels: int = 1,
        num_points: int = 4,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(node_dim=0, **sum_messages(kwargs))
        for name, number in (
            ("in_channels", in_channels),
            ("heads", heads),
            ("num_levels", num_levels),
            ("num_points", num_points),
        ):
            if number < 1:
                raise ValueError(f"{name}: expected a positive number, got {number}")
        if in_channels % heads:
            raise ValueError(f"heads: expected a divisor of {in_channels} channels, got {heads}")
        self.in_channels = self.out_channels = in_channels
        self.heads = heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.backend = backend
        num_samples = heads * num_levels * num_points
        self.sampling_offsets = NodeLinear(in_channels, 2 * num_samples)
        self.attention_weights = NodeLinear(in_channels, num_samples)
        self.value_proj = NodeLinear(in_channels, in_channels)
        self.output_proj = NodeLinear(in_channels, in_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Samples start where each head looks in a direction of its own, with equal weights."""
        super().reset_parameters()
        samples = (self.heads, self.num_levels, self.num_points)
        reset_samples(self.sampling_offsets, self.attention_weights, *samples)
        reset_projections(self.value_proj, self.output_proj)

    @overload
    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Union[Adj, Grid],
        edge_weight: OptTensor = None,
        edge_sample: OptTensor = None,
        *,
        receiver: Optional[Grid] = None,
        reference: OptTensor = None,
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
        receiver: Optional[Grid] = None,
        reference: OptTensor = None,
        return_attention_weights: Literal[True],
    ) -> Tuple[Tensor, WeightedGraph]: ...

    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Union[Adj, Grid],
        edge_weight: OptTensor = None,
        edge_sample: OptTensor = None,
        *,
        receiver: Optional[Grid] = None,
        reference: OptTensor = None,
        return_attention_weights: bool = False,
    ) -> Union[Tensor, Tuple[Tensor, WeightedGraph]]:
        r"""The results ``[N, C]``.

        Args:
            x: Node features ``[N, C]``, or ``(x_src, x_dst)``.
            edge_index: The grid of the nodes that are sampled, with L maps for each image, or any
                graph.
            edge_weight: The interpolation weight of each edge ``[E]``. Defaults to 1.
            edge_sample: Which of its target's samples each edge belongs to, ``[E]``. Needed on a
                graph.
            receiver: The grid of the nodes that listen, a map for each image, if these are not the
                nodes that are sampled.
            reference: Their places on the maps, ``[N, 2]``, (y, x) from 0 to 1. A node of the grid
                is at its own place, on all maps of its image.
            return_attention_weights: Whether to return ``(edge_index, alpha [E, heads])`` too. A
                sample's attention is spread over its edges by their weights, and is 0 in other
                heads.

        Raises:
            TypeError: If ``x`` holds no tensors, or ``edge_index`` is neither a grid nor a graph.
            ValueError: If ``x``, the edges, or receivers and their places do not fit.
        """
        x = (x, x) if isinstance(x, Tensor) else x
        self._check_channels(x)
        if isinstance(edge_index, Grid):
            out, near, attention = self.sample(x, edge_index, receiver, reference)
            y: Tensor = self.output_proj(out)
            if not return_attention_weights:
                return y
            return y, (near.edges().index, near.corner_alpha(attention))
        if receiver is not None or reference is not None:
            raise ValueError("receiver: expected None on a graph, as its edges say who listens")
        if edge_sample is None:
            raise ValueError("edge_sample: expected one per edge on a graph, got None")
        edge_weight = check_edges(edge_index, x, edge_weight, edge_sample)
        check_samples(edge_sample, self.attention_weights.out_channels)
        out, alpha = self._pass_messages(
            self.value_proj(x[0]), self.attention(x[1]), edge_index, edge_weight, edge_sample
        )
        y = self.output_proj(out)
        return (y, with_attention(edge_index, alpha)) if return_attention_weights else y

    def attention(self, x: Tensor) -> Tensor:
        r"""The weights of the samples of nodes, ``[N, heads, K]``."""
        logits = self.attention_weights(x).unflatten(1, (self.heads, -1))
        alpha: Tensor = logits.to(accumulator(logits.dtype)).softmax(dim=2)
        return alpha

    def sample(
        self,
        x: Union[Tensor, PairTensor],
        grid: Grid,
        receiver: Optional[Grid] = None,
        reference: OptTensor = None,
    ) -> Tuple[Tensor, Neighborhood, Tensor]:
        r"""The heads' results before the last projection, their samples and their attention.

        Returns:
            ``[N, C]``, the samples of every head ``[N, heads, K, 2]``, and the attention
            ``[N, heads, K]``.
        """
        x = (x, x) if isinstance(x, Tensor) else x
        near = self.neighborhood(x[1], grid, receiver, reference)
        check_rows((x[0], x[0]), grid, None, None)
        value, alpha = self.value_proj(x[0]), self.attention(x[1])
        if resolve_backend(self.backend, value.device) == "pyg":
            edges = near.edges()
            out, _ = self._pass_messages(value, alpha, edges.index, edges.weight, edges.sample)
        else:
            out = sampled_sum(alpha, value, near, backend=self.backend)
        return out, near, alpha

    def neighborhood(
        self, x: Tensor, grid: Grid, receiver: Optional[Grid], reference: OptTensor
    ) -> Neighborhood:
        r"""The samples of the nodes that listen."""
        num_levels = self.num_levels
        if grid.num_axes != 2 or grid.batch_size % num_levels:
            raise ValueError(
                f"edge_index: expected a grid of images with {num_levels} maps each, got {grid}"
            )
        if (receiver is None) != (reference is None):
            raise ValueError("reference: expected together with receiver")
        sizes = grid.sizes.unflatten(0, (-1, num_levels))
        if receiver is None or reference is None:
            reference = (grid.pos + 0.5) / grid.sizes[grid.batch]
            receiver = grid if num_levels == 1 else self._nodes_of_images(grid)
        expected = [receiver.num_nodes, 2]
        if list(reference.shape) != expected or x.size(0) != receiver.num_nodes:
            raise ValueError(
                f"reference: expected shape {expected}, and as many listeners, "
                f"got {list(reference.shape)} and {x.size(0)}"
            )
        offset = self.sampling_offsets(x)
        offset = offset.to(accumulator(offset.dtype))
        offset = offset.view(x.size(0), self.heads, num_levels, self.num_points, 2).flip(-1)
        # In nodes of each level: [N, 1, L, 1, 2].
        places = reference.to(offset).unsqueeze(1) * sizes[receiver.batch] - 0.5
        pos = (places.unsqueeze(2).unsqueeze(1) + offset).flatten(2, 3)
        levels = [self.num_points] * num_levels
        return Neighborhood(grid, pos, receiver=receiver, levels=levels)

    def _nodes_of_images(self, grid: Grid) -> Grid:
        """All nodes of an image as one row, whatever its maps."""
        lengths = [math.prod(shape) for shape in grid.shapes]
        step = self.num_levels
        rows = [[sum(lengths[i : i + step])] for i in range(0, len(lengths), step)]
        return Grid(rows, device=grid.device)

    def _pass_messages(
        self,
        value: Tensor,
        attention: Tensor,
        edge_index: Adj,
        edge_weight: OptTensor,
        edge_sample: Tensor,
    ) -> Tuple[Tensor, Tensor]:
        """``[M, C], [N, heads, K] -> [N, C]``, and what each edge weighs in a head."""
        size = (value.size(0), attention.size(0))
        by_head = value.to(accumulator(value.dtype)).unflatten(1, (self.heads, -1))
        # edge_updater_type: (attention: Tensor, edge_weight: OptTensor, edge_sample: Tensor)
        alpha = self.edge_updater(
            edge_index,
            attention=attention.flatten(1),
            edge_weight=edge_weight,
            edge_sample=edge_sample,
            size=size,
        )
        # propagate_type: (value: Tensor, alpha: Tensor)
        out = self.propagate(edge_index, value=by_head, alpha=alpha, size=size)
        return out.flatten(1).to(value.dtype), alpha

    def edge_update(
        self, attention_i: Tensor, edge_weight: OptTensor, edge_sample: Tensor
    ) -> Tensor:
        # Sample m K + k belongs to head m alone.
        num_samples = self.num_levels * self.num_points
        head = F.one_hot(edge_sample.long() // num_samples, self.heads)
        alpha = attention_i.gather(1, edge_sample.long().unsqueeze(1)) * head
        return alpha if edge_weight is None else edge_weight.unsqueeze(-1) * alpha

    def message(self, value_j: Tensor, alpha: Tensor) -> Tensor:
        return alpha.unsqueeze(-1) * value_j

    def _check_channels(self, x: PairTensor) -> None:
        for part in x:
            if not isinstance(part, Tensor):
                raise TypeError(f"x: expected tensors, got {type(part).__name__}")
            if part.dim() != 2 or part.size(1) != self.in_channels:
                raise ValueError(
                    f"x: expected node features [N, {self.in_channels}], "
                    f"got shape {list(part.shape)}"
                )

    def __repr__(self) -> str:
        levels = f", num_levels={self.num_levels}" if self.num_levels > 1 else ""
        return f"{self.__class__.__name__}({self.in_channels}, heads={self.heads}{levels})"

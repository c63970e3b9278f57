from typing import Any, Optional, Sequence, Tuple, Union

from torch import Tensor
from torch_geometric.nn.inits import reset
from torch_geometric.typing import PairTensor

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.nn.conv.attention_conv import AttentionConv
from dyngraph.nn.conv.given_edges import WeightedGraph
from dyngraph.ops import sampled_attention
from dyngraph.ops.backend import resolve_backend
from dyngraph.samplers import OffsetSampler, Sampler


class RepGraphConv(AttentionConv):
    r"""The representative graph operator: attention over a few nodes at learned offsets.

    .. math::
        \tilde{\mathbf{x}}_i = \sum_{n=1}^S \mathrm{softmax}_n \big( \theta(\mathbf{x}_i) \cdot
        \phi(\mathbf{x})(\mathbf{p}_{i,n}) \big) \, g(\mathbf{x})(\mathbf{p}_{i,n}), \quad
        \mathbf{p}_{i,n} = \mathbf{pos}_i + \Delta_n(\mathbf{x}_i)

    From "Representative Graph Neural Network" (ECCV 2020), Eq. 5-9, where
    :math:`\mathbf{f}(\mathbf{p})` is multilinear interpolation.

    On a grid its samples come from ``sampler``. The graph that they make,
    ``edges = conv.sample(x, grid)[1].edges()``, gives the same result: ``conv(x, edges.index,
    edge_weight=edges.weight, edge_sample=edges.sample)``.

    Args:
        in_channels: The channels of the nodes, or -1 to take them from the first input. A tuple
            holds the channels of source and target nodes.
        hidden_channels: The channels of queries, keys, values and output. None: no projections,
            as in the bottleneck layer.
        num_samples: S, the number of representative nodes.
        groups: The number of contiguous channel groups, each with its own attention (the paper's
            Group RepGraph).
        cell_size: The length of the cells that share their samples (the paper's Grid RepGraph).
        num_axes: The number of spatial axes.
        sampler: A sampler, instead of :class:`~dyngraph.samplers.OffsetSampler`.
        spread: The largest initial offset of a sample, in nodes, along all axes or along
            each of them.
        bias: Whether the projections have biases.
        backend: The backend of :func:`~dyngraph.ops.sampled_attention`. ``"pyg"``: the layer makes
            the edges of its samples and passes messages along them.
        **kwargs: Arguments of :class:`torch_geometric.nn.MessagePassing`.

    Raises:
        ValueError: If ``groups`` does not divide the channels, a number is not positive,
            ``num_axes`` is not 1, 2 or 3, or ``aggr`` is not the sum.

    Shapes:
        - **input:** ``x [N, C]`` or ``(x_src, x_dst)``, and a grid or ``edge_index [2, E]``
        - **output:** ``[N, hidden_channels]``

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.nn import RepGraphConv
        >>> x, grid = torch.randn(20, 8), Grid([[4, 5]])
        >>> conv = RepGraphConv(8, 16)
        >>> conv(x, grid).shape
        torch.Size([20, 16])
        >>> edges = conv.sample(x, grid)[1].edges()
        >>> same = conv(x, edges.index, edge_weight=edges.weight, edge_sample=edges.sample)
        >>> torch.allclose(same, conv(x, grid), atol=1e-5)
        True
    """

    def __init__(
        self,
        in_channels: Union[int, Tuple[int, int]],
        hidden_channels: Optional[int],
        num_samples: int = 9,
        *,
        groups: int = 1,
        cell_size: int = 1,
        num_axes: int = 2,
        sampler: Optional[Sampler] = None,
        spread: Union[float, Sequence[float]] = 16.0,
        bias: bool = True,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, hidden_channels, groups=groups, bias=bias, **kwargs)
        if sampler is None:
            target_channels = in_channels if isinstance(in_channels, int) else in_channels[1]
            sampler = OffsetSampler(
                target_channels, num_samples, num_axes=num_axes, cell_size=cell_size, spread=spread
            )
        self.sampler = sampler
        self.backend = backend

    def reset_parameters(self) -> None:
        super().reset_parameters()
        reset(self.sampler)

    def attend(
        self, x: PairTensor, grid: Grid, return_edges: bool
    ) -> Tuple[Tensor, Optional[WeightedGraph]]:
        out, near, alpha = self.sample(x, grid)
        edges = (near.edges().index, near.corner_alpha(alpha)) if return_edges else None
        return out, edges

    def num_edge_samples(self, edge_sample: Tensor) -> int:
        # Any module may be a sampler; one of another class, or for maps of any size, does not say
        # how many samples it has.
        return getattr(self.sampler, "num_samples", 0) or super().num_edge_samples(edge_sample)

    def sample(
        self, x: Union[Tensor, PairTensor], grid: Grid
    ) -> Tuple[Tensor, Neighborhood, Tensor]:
        r"""The output, the samples of all nodes, and their attention ``[N, G, K]``."""
        x = (x, x) if isinstance(x, Tensor) else x
        near = self.sampler(x[1], grid)
        query, key, value = self.queries_keys_values(x)
        if resolve_backend(self.backend, query.device) == "pyg":
            parts, edges = (query, key, value), near.edges()
            out, alpha = self.pass_messages(
                parts, edges.index, edges.weight, edges.sample, near.num_samples
            )
            # All corners of a sample have its attention.
            alpha = alpha.view(len(near.pos), near.num_samples, 2**grid.num_axes, self.groups)
            alpha = alpha[:, :, 0].transpose(1, 2)
            return out, near, alpha
        out, alpha = sampled_attention(
            query, key, value, near, self.groups, return_weights=True, backend=self.backend
        )
        return out, near, alpha

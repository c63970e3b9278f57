from typing import Any, Callable, List, Literal, Optional, Sequence, Tuple, Union, overload

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.inits import reset
from torch_geometric.typing import Adj, OptTensor, PairTensor
from torch_geometric.utils import scatter

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.nn.conv.dynamic_message import DynamicMessage
from dyngraph.nn.conv.given_edges import (
    WeightedGraph,
    check_edges,
    check_rows,
    check_samples,
    samples_in_order,
    sum_messages,
    targets,
    with_attention,
)
from dyngraph.nn.node_linear import NodeLinear
from dyngraph.ops.backend import resolve_backend
from dyngraph.ops.precision import accumulator
from dyngraph.samplers import Sampler


class DGMNConv(MessagePassing):
    r"""The dynamic graph message passing operator.

    .. math::
        \mathbf{m}^q_i(\mathbf{h}) &= \sum_k \alpha^q_{i,k} \, \mathbf{w}^q_{i,k} \odot
        \mathbf{h}(\mathbf{p}^q_{i,k}), \qquad \mathbf{h}(\mathbf{p}^q_{i,k}) =
        \sum_{(j,i) \in k} \omega_{j,i} \, \mathbf{h}_j \\
        \mathbf{h}^{(t+1)}_i &= \sigma \Big( \mathbf{x}_i + \sum_q \beta_q \,
        \mathbf{m}^q_i(\mathbf{h}^{(t)}) \Big) \quad \text{(sum)}, \qquad
        \mathbf{h}^{(t+1)}_i = \sigma \big( W [\mathbf{x}_i, \mathbf{m}^1_i(\mathbf{h}^{(t)}),
        \dots] \big) \quad \text{(concat)}, \qquad \mathbf{h}^{(0)} = \mathbf{x}

    From "Dynamic Graph Message Passing Networks" (CVPR 2020,
    `arXiv:1908.06955 <https://arxiv.org/abs/1908.06955>`__), Eq. 2-7. Every sampling rate q has its
    own samples, filters and affinities: see :class:`~dyngraph.nn.conv.DynamicMessage`.

    On a grid the layer chooses the samples. On an explicit :obj:`edge_index` edges of the same
    target and :obj:`edge_sample` are one sample, interpolated with :obj:`edge_weight`
    :math:`\omega`; filters and affinities are predicted from these. The graph that the layer makes
    from a grid, ``edges = conv.sample(x, grid)[1].edges()``, gives the same result.

    Args:
        in_channels: C, the channels of the nodes, and of the result.
        rates: The sampling rates ρ.
        groups: G, the number of channel groups, each with its own filter. 0: affinities alone.
        affinity: Whether affinities α are predicted (DA).
        filters: Whether filters w are predicted (DW). Without filters and affinities, filters are
            learned but are the same for all nodes: deformable message passing.
        walk: Whether the samples walk away from the dilated taps (DS).
        fusion: ``"sum"``, with a learned :math:`\beta_q` that starts at zero, so that the layer
            starts as the identity; or ``"concat"``.
        num_steps: T, how many times the nodes are updated, with the same weights.
        kernel_size: The length of the kernels along each axis, odd.
        num_axes: P, the number of spatial axes.
        activation: σ, a function on node features. Defaults to the identity, as in the released
            code.
        samplers: Samplers, one per rate, instead of :class:`~dyngraph.samplers.DilatedSampler` and
            :class:`~dyngraph.samplers.WalkSampler`.
        legacy_affinity: Whether the fourth rate takes its affinities from the last filter group,
            as the released code does by mistake.
        bias: Whether walks and predictions have the biases of Eq. 4 and 6, which start at zero. The
            released code has none.
        backend: The backend of the operators. ``"pyg"``: the layer makes the edges of its samples
            and passes messages along them.
        **kwargs: Arguments of :class:`torch_geometric.nn.MessagePassing`.

    Raises:
        ValueError: If ``in_channels`` is not positive (it can't be taken from the first input, as
            walks and filters depend on it), ``groups`` does not divide it, there is no rate, a
            rate, ``num_steps`` or ``kernel_size`` is not positive, ``kernel_size`` is even,
            ``num_axes`` is not 1, 2 or 3, ``fusion`` is unknown, ``samplers`` are not one per rate,
            ``legacy_affinity`` has no fourth rate or no filters to take affinities from, or
            ``aggr`` is not the sum.

    Shapes:
        - **input:** ``x [N, C]`` or ``(x_src, x_dst)``, and a grid or ``edge_index [2, E]``
        - **output:** ``[N, C]``

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.nn import DGMNConv
        >>> x, grid = torch.randn(20, 8), Grid([[4, 5]])
        >>> conv = DGMNConv(8, rates=(1, 2))
        >>> conv(x, grid).shape
        torch.Size([20, 8])
        >>> edges = conv.sample(x, grid)[1].edges()
        >>> same = conv(x, edges.index, edge_weight=edges.weight, edge_sample=edges.sample)
        >>> torch.allclose(same, conv(x, grid), atol=1e-5)
        True
    """

    messages: List[DynamicMessage]

    def __init__(
        self,
        in_channels: int,
        rates: Sequence[int] = (1, 6, 12, 24, 36),
        groups: int = 4,
        *,
        affinity: bool = True,
        filters: bool = True,
        walk: bool = True,
        fusion: str = "concat",
        num_steps: int = 1,
        kernel_size: int = 3,
        num_axes: int = 2,
        activation: Optional[Callable[[Tensor], Tensor]] = None,
        samplers: Optional[Sequence[Sampler]] = None,
        legacy_affinity: bool = False,
        bias: bool = False,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(node_dim=0, **sum_messages(kwargs))
        if in_channels < 1:
            raise ValueError(f"in_channels: expected a positive number, got {in_channels}")
        if fusion not in ("sum", "concat"):
            raise ValueError(f"fusion: expected one of ('sum', 'concat'), got {fusion!r}")
        if num_steps < 1:
            raise ValueError(f"num_steps: expected at least 1, got {num_steps}")
        if len(rates) == 0 or min(rates) < 1:
            raise ValueError(f"rates: expected at least one, each positive, got {tuple(rates)}")
        if legacy_affinity and len(rates) < 4:
            raise ValueError(f"legacy_affinity: expected at least four rates, got {tuple(rates)}")
        if samplers is not None and len(samplers) != len(rates):
            raise ValueError(f"samplers: expected one for each of {rates}, got {len(samplers)}")
        self.in_channels = self.out_channels = in_channels
        self.rates = tuple(rates)
        self.fusion = fusion
        self.num_steps = num_steps
        self.activation = activation
        self.backend = backend
        self.messages = nn.ModuleList(  # type: ignore[assignment]
            DynamicMessage(
                in_channels,
                rate,
                groups,
                affinity=affinity,
                filters=filters,
                walk=walk,
                kernel_size=kernel_size,
                num_axes=num_axes,
                sampler=None if samplers is None else samplers[q],
                legacy_affinity=legacy_affinity and q == 3,
                bias=bias,
                backend=backend,
            )
            for q, rate in enumerate(self.rates)
        )
        if fusion == "sum":
            self.beta = nn.Parameter(torch.empty(len(self.rates)))
        else:
            self.lin = NodeLinear((len(self.rates) + 1) * in_channels, in_channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the layer."""
        super().reset_parameters()
        reset(self.messages)
        if self.fusion == "sum":
            nn.init.zeros_(self.beta)
        else:
            self.lin.reset_parameters()

    @property
    def num_samples(self) -> int:
        r"""The samples of a node at all rates, S K."""
        return sum(self._samples_of_rates())

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
                :class:`~dyngraph.Edges`: tap k of rate q is number ``q K + k``, or ``t S K + q K +
                k`` for step t if each step has its own edges. A sample without edges reads 0, like
                one outside the map. Not needed if every node has S K edges, in this order.
            return_attention_weights: Whether to return ``(edge_index, alpha [E, G])`` of the first
                step too, the weights of the edges in the messages. On a grid, edges are ordered by
                rate, node, sample and corner.

        Returns:
            ``[N, C]``.

        Raises:
            TypeError: If ``x`` holds no tensors, or ``edge_index`` is neither a grid nor a graph.
            ValueError: If ``x`` does not fit the layer or the grid, an edge ends at no node, there
                is not one weight and one sample per edge, samples are needed but missing, or
                sources and targets differ and there are several steps.
        """
        x = (x, x) if isinstance(x, Tensor) else x
        self._check_nodes(x)
        if isinstance(edge_index, Grid):
            check_rows(x, edge_index, edge_weight, edge_sample)
            out = self._steps(x, lambda h, _: self._grid_messages(h, edge_index))
            return (out, self._edges(x, edge_index)) if return_attention_weights else out

        edge_weight = check_edges(edge_index, x, edge_weight, edge_sample)
        edge_sample = self._edge_samples(edge_index, x, edge_sample)
        if edge_weight is None:
            edge_weight = x[0].new_ones(edge_sample.size(0), dtype=accumulator(x[0].dtype))
        step_of_edge = edge_sample // self.num_samples
        each_step = self.num_steps > 1 and bool(step_of_edge.any())
        edge_sample = edge_sample % self.num_samples
        alphas = []

        def messages(h: PairTensor, step: int) -> Sequence[Tensor]:
            weight = edge_weight.where(step_of_edge == step, 0) if each_step else edge_weight
            out, alpha = self._edge_messages(h, edge_index, weight, edge_sample)
            alphas.append(alpha)
            return out

        out = self._steps(x, messages)
        return (out, with_attention(edge_index, alphas[0])) if return_attention_weights else out

    def update_nodes(self, x: Tensor, messages: Sequence[Tensor]) -> Tensor:
        r"""The update :math:`\mathbf{h}` of observed nodes ``[N, C]`` by messages of all rates."""
        if self.fusion == "sum":
            for beta, message in zip(self.beta, messages):
                x = x + beta * message
        else:
            x = self.lin(torch.cat([x, *messages], dim=1))
        return x if self.activation is None else self.activation(x)

    def sample(
        self, x: Union[Tensor, PairTensor], grid: Grid
    ) -> Tuple[Tensor, Neighborhood, Tensor]:
        r"""The output, the samples of all nodes, and their weights in the messages.

        Returns:
            ``[N, C]``, and for all T steps and S rates, in this order, the samples ``[N, T S K,
            P]`` and their weights ``[N, max(G, 1), T S K]``.
        """
        x = (x, x) if isinstance(x, Tensor) else x
        self._check_nodes(x)
        check_rows(x, grid, None, None)
        samples: List[Tuple[Neighborhood, Tensor]] = []

        def messages(h: PairTensor, step: int) -> Sequence[Tensor]:
            sent, nears, weights = zip(*(m.send(h[0], grid, h[1]) for m in self.messages))
            samples.extend(zip(nears, weights))
            return sent

        out = self._steps(x, messages)
        nears, weights = zip(*samples)
        return out, Neighborhood.cat(nears), torch.cat(weights, dim=-1)

    def edge_update(
        self, x_j: Tensor, edge_weight: Tensor, edge_sample: Tensor, index: Tensor, dim_size: int
    ) -> Tuple[Tensor, Tensor]:
        # Filters and affinities are predicted from the sampled nodes, Σ ω x_j.
        sample = index * self.num_samples + edge_sample
        nodes = scatter(
            edge_weight.unsqueeze(-1) * x_j.flatten(1),
            sample,
            dim=0,
            dim_size=dim_size * self.num_samples,
            reduce="sum",
        )
        nodes = nodes.view(dim_size, self.num_samples, nodes.size(1))
        rates = nodes.split(self._samples_of_rates(), dim=1)
        parts = [message.predict_from(rate) for message, rate in zip(self.messages, rates)]
        filters = torch.cat([filters for filters, _ in parts], dim=-1)
        affinity = torch.cat(
            [torch.ones_like(w[:, :1]) if alpha is None else alpha for w, alpha in parts], dim=-1
        )
        filters, affinity = (part.transpose(1, 2).flatten(0, 1) for part in (filters, affinity))
        return filters.index_select(0, sample), affinity.index_select(0, sample)

    def message(
        self, x_j: Tensor, edge_filter: Tensor, edge_affinity: Tensor, edge_weight: Tensor
    ) -> Tensor:
        weight = edge_filter * edge_affinity * edge_weight.unsqueeze(-1)
        return weight.unsqueeze(-1) * x_j

    def aggregate(
        self, inputs: Tensor, index: Tensor, edge_sample: Tensor, dim_size: int
    ) -> Tensor:
        # One sum per rate.
        num_rates, lengths = len(self.rates), self._samples_of_rates()
        rates = torch.arange(num_rates, device=index.device)
        rate = torch.cat([q.expand(length) for q, length in zip(rates, lengths)])[edge_sample]
        size = dim_size * num_rates
        out: Tensor = scatter(inputs, index * num_rates + rate, dim=0, dim_size=size, reduce="sum")
        return out.view(dim_size, num_rates, *inputs.shape[1:])

    def _steps(
        self, x: PairTensor, messages: Callable[[PairTensor, int], Sequence[Tensor]]
    ) -> Tensor:
        """All updates of the nodes (Eq. 2), with messages from a function."""
        h = x
        for step in range(self.num_steps):
            out = self.update_nodes(x[1], messages(h, step))
            h = (out, out)
        return out

    def _grid_messages(self, h: PairTensor, grid: Grid) -> Sequence[Tensor]:
        if resolve_backend(self.backend, h[0].device) != "pyg":
            return [message(h[0], grid, h[1]) for message in self.messages]
        near = Neighborhood.cat([message.sampler(h[1], grid) for message in self.messages])
        index, weight, sample = near.edges()
        return self._edge_messages(h, index, weight, sample)[0]

    def _edge_messages(
        self, h: PairTensor, edge_index: Adj, edge_weight: Tensor, edge_sample: Tensor
    ) -> Tuple[Sequence[Tensor], Tensor]:
        """The messages ``[N, C]`` of each rate, and the weights ``[E, G]`` of edges in them."""
        groups = self.messages[0].num_filters
        x = h[0].to(accumulator(h[0].dtype)).unflatten(1, (groups, -1))
        size = (h[0].size(0), h[1].size(0))
        # edge_updater_type: (x: Tensor, edge_weight: Tensor, edge_sample: Tensor)
        edge_filter, edge_affinity = self.edge_updater(
            edge_index, x=x, edge_weight=edge_weight, edge_sample=edge_sample, size=size
        )
        # propagate_type: (x: Tensor, edge_filter: Tensor, edge_affinity: Tensor, edge_weight: Tensor, edge_sample: Tensor)  # noqa: E501
        out = self.propagate(
            edge_index,
            x=x,
            edge_filter=edge_filter,
            edge_affinity=edge_affinity,
            edge_weight=edge_weight,
            edge_sample=edge_sample,
            size=size,
        )
        alpha = edge_filter * edge_affinity * edge_weight.unsqueeze(-1)
        return out.flatten(2).to(h[0].dtype).unbind(1), alpha

    def _edge_samples(self, edge_index: Adj, x: PairTensor, edge_sample: OptTensor) -> Tensor:
        if isinstance(edge_sample, Tensor):
            check_samples(edge_sample, self.num_steps * self.num_samples)
            return edge_sample
        index = targets(edge_index, self.flow)
        found = samples_in_order(index, x[1].size(0), self.num_samples)
        if found is None:
            raise ValueError(
                f"edge_sample: expected the sample of each edge, because not every node has "
                f"{self.num_samples} edges, one per sample, got None"
            )
        return found

    def _samples_of_rates(self) -> List[int]:
        return [message.num_samples for message in self.messages]

    def _edges(self, x: PairTensor, grid: Grid) -> Tuple[Tensor, Tensor]:
        _, nears, weights = zip(*(message.send(x[0], grid, x[1]) for message in self.messages))
        edges = torch.cat([near.edges().index for near in nears], dim=1)
        return edges, torch.cat([near.corner_alpha(w) for near, w in zip(nears, weights)])

    def _check_nodes(self, x: PairTensor) -> None:
        for part in x:
            if not isinstance(part, Tensor):
                raise TypeError(f"x: expected tensors, got {type(part).__name__}")
            if part.dim() != 2 or part.size(1) != self.in_channels:
                raise ValueError(
                    f"x: expected node features [N, {self.in_channels}], "
                    f"got shape {list(part.shape)}"
                )
        if self.num_steps > 1 and x[0] is not x[1]:
            raise ValueError(
                f"x: expected the same nodes as sources and targets in a layer of "
                f"{self.num_steps} steps, got a pair"
            )

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.in_channels}, rates={self.rates})"

from typing import Callable, List, Optional, Sequence, Tuple, cast

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.inits import reset

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.nn.conv.dynamic_message import DynamicMessage
from dyngraph.nn.node_linear import NodeLinear
from dyngraph.samplers import Sampler


class DGMNConv(MessagePassing):
    r"""The dynamic graph message passing operator.

    .. math::
        \mathbf{m}^q_i &= \sum_k \alpha^q_{i,k} \, \mathbf{w}^q_{i,k} \odot
        \mathbf{x}(\mathbf{p}^q_{i,k}) \\
        \mathbf{h}_i &= \sigma \Big( \mathbf{x}_i + \sum_q \beta_q \, \mathbf{m}^q_i \Big)
        \quad \text{(sum)}, \qquad
        \mathbf{h}_i = \sigma \big( W [\mathbf{x}_i, \mathbf{m}^1_i, \dots] \big)
        \quad \text{(concat)}

    From "Dynamic Graph Message Passing Networks" (CVPR 2020), Eq. 2-7. Every sampling rate q has
    its own samples, filters and affinities: see :class:`~dyngraph.nn.conv.DynamicMessage`.

    Args:
        in_channels: C, the channels of the nodes, and of the result.
        rates: The sampling rates ρ.
        groups: G, the number of channel groups with a filter of their own. 0: affinities alone.
        affinity: Whether affinities α are predicted (DA).
        filters: Whether filters w are predicted (DW). Without filters and affinities, filters are
            learned but the same for all nodes: deformable message passing.
        walk: Whether the samples walk away from the dilated taps (DS).
        fusion: ``"sum"``, with a learned :math:`\beta_q` that starts at zero, so that the layer
            starts as the identity; or ``"concat"``.
        num_steps: T, how often the nodes are updated, with the same weights.
        kernel_size: The length of the kernels along each axis, odd.
        num_axes: P, the number of spatial axes.
        activation: σ, a function on node features. Defaults to the identity, as in the released
            code.
        samplers: Other samplers, one a rate, in the place of
            :class:`~dyngraph.samplers.DilatedSampler` and :class:`~dyngraph.samplers.WalkSampler`.
        legacy_affinity: Whether the fourth rate takes its affinities from the last filter group,
            as the released code does by mistake.
        backend: The backend of the operators.
        **kwargs: Arguments of :class:`torch_geometric.nn.MessagePassing`.

    Raises:
        ValueError: If ``groups`` does not divide the channels, there is no rate, or ``fusion`` is
            unknown.

    Shapes:
        - **input:** ``x [N, C]`` and a grid
        - **output:** ``[N, C]``
    """

    def __init__(
        self,
        in_channels: int,
        rates: Sequence[int] = (1, 6, 12, 24, 36),
        groups: int = 4,
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
        backend: str = "auto",
        **kwargs,
    ):
        kwargs.setdefault("aggr", "add")
        super().__init__(node_dim=0, **kwargs)
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
        self.messages = nn.ModuleList(
            DynamicMessage(
                in_channels,
                rate,
                groups,
                affinity,
                filters,
                walk,
                kernel_size,
                num_axes,
                sampler=None if samplers is None else samplers[q],
                legacy_affinity=legacy_affinity and q == 3,
                backend=backend,
            )
            for q, rate in enumerate(self.rates)
        )
        if fusion == "sum":
            self.beta = nn.Parameter(torch.empty(len(self.rates)))
        else:
            self.lin = NodeLinear((len(self.rates) + 1) * in_channels, in_channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self):
        r"""Resets all learnable parameters of the layer."""
        super().reset_parameters()
        reset(self.messages)
        if self.fusion == "sum":
            nn.init.zeros_(self.beta)
        else:
            self.lin.reset_parameters()

    def forward(self, x: Tensor, grid: Grid, return_attention_weights: Optional[bool] = None):
        r"""Runs the layer.

        Args:
            x: Node features ``[N, C]``.
            grid: Their layout.
            return_attention_weights: Whether to return ``(edge_index, alpha [E, G])`` of the first
                step too: the edges from the corners of all samples of all rates, in that order.

        Raises:
            ValueError: If ``x`` does not fit the layer or the grid.
        """
        if x.dim() != 2 or x.size(1) != self.in_channels:
            raise ValueError(
                f"x: expected node features [N, {self.in_channels}], got shape {list(x.shape)}"
            )
        h = x
        for _ in range(self.num_steps):
            h = self.update_nodes(h, [message(h, grid) for message in self.messages])
        return (h, self._edges(x, grid)) if return_attention_weights else h

    def update_nodes(self, x: Tensor, messages: List[Tensor]) -> Tensor:
        r"""The update :math:`\mathbf{h}` of nodes ``[N, C]`` by the messages of all rates."""
        if self.fusion == "sum":
            for beta, message in zip(self.beta, messages):
                x = x + beta * message
        else:
            x = self.lin(torch.cat([x, *messages], dim=1))
        return x if self.activation is None else self.activation(x)

    def sample(self, x: Tensor, grid: Grid) -> List[Tuple[Neighborhood, Tensor]]:
        r"""For each rate, the samples of all nodes and their weights ``[N, G, K]``."""
        return [cast(DynamicMessage, message).sample(x, grid) for message in self.messages]

    def _edges(self, x: Tensor, grid: Grid) -> Tuple[Tensor, Tensor]:
        edges, alphas = [], []
        for near, weight in self.sample(x, grid):
            edges.append(near.edge_index()[0])
            alphas.append(near.corner_alpha(weight))
        return torch.cat(edges, dim=1), torch.cat(alphas)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.in_channels}, rates={self.rates})"

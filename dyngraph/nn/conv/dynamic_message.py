import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from dyngraph.grid import Grid
from dyngraph.neighborhood import Corners, Neighborhood
from dyngraph.ops import find_corners, sampled_convolution, sampled_sum
from dyngraph.ops.softmax import softmax_over_samples
from dyngraph.samplers import DilatedSampler, Sampler, WalkSampler


class DynamicMessage(nn.Module):
    r"""The message that a node gets from the samples of one rate.

    .. math::
        \mathbf{z}_i &= \sum_k W_k \, \mathbf{x}(\mathbf{p}_{i,k}) \\
        \mathbf{m}_{i,g} &= \sum_k \alpha_{i,k} \, w_{i,g,k} \, \mathbf{x}_g(\mathbf{p}_{i,k}),
        \quad w_{i,g,k} = z_{i,\, K g + k}, \quad
        \alpha_{i,k} = \mathrm{softmax}_k \, z_{i,\, K G + k}

    From "Dynamic Graph Message Passing Networks" (CVPR 2020,
    `arXiv:1908.06955 <https://arxiv.org/abs/1908.06955>`__), Eq. 4-7: filters w (DW) and
    affinities α (DA) are predicted from the sampled nodes themselves. Filters without affinities
    are normalised by a softmax over k, as in the released code.

    Args:
        in_channels: C, the channels of the nodes, and of the message.
        rate: The sampling rate ρ.
        groups: G, the number of channel groups, each with its own filter. 0: affinities alone.
        affinity: Whether affinities are predicted (DA).
        filters: Whether filters are predicted (DW). Without filters and affinities, filters are
            learned but are the same for all nodes.
        walk: Whether the samples walk away from the taps (DS).
        kernel_size: The length of the kernel along each axis, odd.
        num_axes: P, the number of spatial axes.
        sampler: A sampler, instead of :class:`~dyngraph.samplers.DilatedSampler` or
            :class:`~dyngraph.samplers.WalkSampler`.
        legacy_affinity: Whether affinities are the softmax of the last filter group, as in the
            fourth branch of the released code.
        bias: Whether walks and predictions have the biases of Eq. 4 and 6, which start at zero. The
            released code has none.
        backend: The backend of the operators.

    Raises:
        ValueError: If ``groups`` does not divide the channels, or ``legacy_affinity`` has no
            filters to take affinities from.

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.nn.conv import DynamicMessage
        >>> message = DynamicMessage(8, rate=2)
        >>> out, near, weight = message.send(torch.randn(20, 8), Grid([[4, 5]]))
        >>> out.shape, near.pos.shape, weight.shape
        (torch.Size([20, 8]), torch.Size([20, 9, 2]), torch.Size([20, 4, 9]))
    """

    def __init__(
        self,
        in_channels: int,
        rate: int,
        groups: int = 4,
        *,
        affinity: bool = True,
        filters: bool = True,
        walk: bool = True,
        kernel_size: int = 3,
        num_axes: int = 2,
        sampler: Sampler | None = None,
        legacy_affinity: bool = False,
        bias: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if groups < 0 or (groups > 0 and in_channels % groups):
            raise ValueError(
                f"groups: expected 0 or a divisor of {in_channels} channels, got {groups}"
            )
        if groups == 0 and not affinity:
            raise ValueError("groups: expected at least 1 without affinities, got 0")
        if legacy_affinity and not (affinity and filters and groups):
            raise ValueError("legacy_affinity: expected both affinities and filters")
        if sampler is None and walk:
            sampler = WalkSampler(
                in_channels, rate, kernel_size=kernel_size, num_axes=num_axes, bias=bias
            )
        elif sampler is None:
            sampler = DilatedSampler((rate,), kernel_size=kernel_size, num_axes=num_axes)
        self.sampler = sampler
        self.affinity = affinity
        self.filters = filters and groups > 0
        self.groups = groups
        self.legacy_affinity = legacy_affinity
        self.backend = backend
        self.num_samples = num_samples = sampler.num_samples
        self.bias: nn.Parameter | None = None
        if affinity or self.filters:
            num_outputs = (groups if self.filters else 0) + (1 if affinity else 0)
            shape = (num_outputs * num_samples, in_channels, num_samples)
            #: The matrices W_k, ``[K (G + 1), C, K]``.
            self.prediction = nn.Parameter(torch.empty(shape))
            if bias:
                self.bias = nn.Parameter(torch.empty(shape[0]))
        else:
            self.static_filter = nn.Parameter(torch.empty(groups, num_samples))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the message."""
        reset(self.sampler)
        if self.predicts:
            nn.init.kaiming_uniform_(self.prediction, a=math.sqrt(5))
            if self.bias is not None:
                nn.init.zeros_(self.bias)
        else:
            nn.init.constant_(self.static_filter, 1 / self.static_filter.shape[1])

    def forward(self, x: Tensor, grid: Grid, target: Tensor | None = None) -> Tensor:
        r"""The messages ``[N, C]`` of nodes ``x [N, C]`` to themselves, or to other targets."""
        return self.send(x, grid, target)[0]

    def send(
        self, x: Tensor, grid: Grid, target: Tensor | None = None
    ) -> tuple[Tensor, Neighborhood, Tensor]:
        r"""The messages, the samples, and their weights :math:`\alpha w` ``[N, max(G, 1), K]``.

        Args:
            x: The nodes that are sampled, ``[N, C]``.
            grid: Their layout.
            target: The nodes that listen, ``[N, C]``, if they are not ``x``. Walks are predicted
                from them.
        """
        near = self.sampler(x if target is None else target, grid)
        # Predictions and messages read the same samples.
        corners = find_corners(near, backend=self.backend)
        filters, affinity = self.predict(x, near, corners)
        weight = filters if affinity is None else filters * affinity
        out = sampled_sum(weight, x, near, corners=corners, backend=self.backend)
        return out, near, weight

    def predict(
        self, x: Tensor, near: Neighborhood, corners: Corners | None = None
    ) -> tuple[Tensor, Tensor | None]:
        r"""The filters and the affinities of samples.

        Args:
            x: The nodes that are sampled, ``[N, C]``.
            near: The samples.
            corners: Their corners, if they are known.

        Returns:
            w ``[N, max(G, 1), K]``, and α ``[N, 1, K]`` or None.
        """
        if not self.predicts:
            return self.split(x.new_empty(len(near.pos), 0))
        z = sampled_convolution(x, self.prediction, near, corners=corners, backend=self.backend)
        return self.split(z if self.bias is None else z + self.bias)

    def predict_from(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        r"""Filters and affinities, as from :meth:`predict`, given samples ``[N, K, C]``."""
        if not self.predicts:
            return self.split(samples.new_empty(len(samples), 0))
        bias = None if self.bias is None else self.bias.to(samples.dtype)
        matrix = self.prediction.to(samples.dtype).flatten(1)
        return self.split(F.linear(samples.transpose(1, 2).flatten(1), matrix, bias))

    def split(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        r"""Filters ``[N, max(G, 1), K]`` and affinities ``[N, 1, K]`` or None, from predictions."""
        if not self.predicts:
            return self.static_filter.expand(len(z), -1, -1), None
        z = z.unflatten(1, (-1, self.num_samples))
        if not self.affinity:
            return softmax_over_samples(z), None
        if not self.filters:
            affinity = softmax_over_samples(z)
            return torch.ones_like(affinity), affinity
        logits = z[:, -2:-1] if self.legacy_affinity else z[:, -1:]
        return z[:, :-1], softmax_over_samples(logits)

    @property
    def predicts(self) -> bool:
        r"""Whether filters or affinities depend on the nodes."""
        return self.affinity or self.filters

    @property
    def num_filters(self) -> int:
        r"""The number of channel groups with their own filter, at least 1."""
        return self.groups if self.filters or not self.affinity else 1

    def extra_repr(self) -> str:
        return f"groups={self.groups}, affinity={self.affinity}, filters={self.filters}"

"""The bottleneck representative graph block."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyngraph.grid import Grid
from dyngraph.nn.block.feature_map_block import FeatureMapBlock
from dyngraph.nn.block.fusion import Fusion, may_overwrite, may_write_outputs
from dyngraph.nn.conv.repgraph_conv import RepGraphConv
from dyngraph.nn.node_linear import NodeLinear
from dyngraph.ops.project import (
    add_projected_nodes,
    project,
    project_maps,
    project_maps_to_nodes,
)


class BottleneckRepGraphBlock(FeatureMapBlock):
    r"""The bottleneck RepGraph block (BRG) on feature maps, the paper's default.

    .. math::
        \mathbf{r}_i &= \mathrm{ReLU}(\mathrm{BN}(W_r \mathbf{x}_i)) \\
        \tilde{\mathbf{r}}_i &= \sum_{n=1}^S \mathrm{softmax}_n \big( \mathbf{r}_i \cdot
        \mathbf{r}(\mathbf{p}_{i,n}) \big) \, \mathbf{r}(\mathbf{p}_{i,n}), \quad
        \mathbf{p}_{i,n} = \mathbf{pos}_i + \Delta_n(\mathbf{r}_i) \\
        \mathbf{y}_i &= \mathrm{ReLU}\big(\mathrm{BN}(W_e \tilde{\mathbf{r}}_i)
        + \mathbf{x}_i\big)

    From "Representative Graph Neural Network" (ECCV 2020), Sect. 3.3: the reduced map is query,
    key and value, and is sampled once.

    Args:
        in_channels: C, the channels of the feature maps.
        hidden_channels: The channels of the reduced map. Defaults to a quarter of C.
        num_samples: S, the number of representative nodes per node.
        groups: The number of contiguous channel groups, each with its own attention.
        cell_size: The length of the cells of nodes that share their samples.
        num_axes: The number of spatial axes of the feature maps.
        fusion: ``"sum"`` as above, C channels; ``"concat"``: both terms side by side, 2 C channels.
        zero_init: Whether the last batch normalisation starts at zero and the last ReLU is left
            out, so that a ``"sum"`` block starts as the identity.
        spread: The largest initial offset of a sample, in nodes, along all axes or along each of
            them. A sample only learns from its surroundings: choose about the distance to what it
            should find, and no more than the size of the maps.
        backend: The backend of :func:`~dyngraph.ops.sampled_attention`.

    Raises:
        ValueError: If ``groups`` does not divide ``hidden_channels``, a number is not positive or
            ``fusion`` is unknown.

    Shapes:
        - **input:** ``[B, C, *spatial]`` or a list of maps ``[C, *spatial]``
        - **output:** ``[B, out_channels, *spatial]``, or a list where sizes differ

    Example:
        >>> import torch
        >>> from dyngraph.nn import BottleneckRepGraphBlock
        >>> block = BottleneckRepGraphBlock(8, fusion="concat")
        >>> block(torch.randn(2, 8, 4, 5)).shape
        torch.Size([2, 16, 4, 5])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        num_samples: int = 9,
        *,
        groups: int = 1,
        cell_size: int = 1,
        num_axes: int = 2,
        fusion: str = "sum",
        zero_init: bool = False,
        spread: float | Sequence[float] = 16.0,
        backend: str = "auto",
    ) -> None:
        join = Fusion(fusion)
        super().__init__(in_channels, join.out_channels(in_channels))
        hidden_channels = hidden_channels or in_channels // 4
        self.lin_reduce = NodeLinear(in_channels, hidden_channels, bias=False)
        self.norm_reduce = nn.BatchNorm1d(hidden_channels)
        self.conv = RepGraphConv(
            hidden_channels,
            None,
            num_samples,
            groups=groups,
            cell_size=cell_size,
            num_axes=num_axes,
            spread=spread,
            backend=backend,
        )
        self.lin_expand = NodeLinear(hidden_channels, in_channels, bias=False)
        self.norm_expand = nn.BatchNorm1d(in_channels)
        self.fusion = join
        self.zero_init = zero_init
        self._init_norm()

    def _init_norm(self) -> None:
        # Not W_e as well: with both at zero neither would ever get a gradient.
        if self.zero_init:
            nn.init.zeros_(self.norm_expand.weight)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the block."""
        for module in (
            self.lin_reduce, self.norm_reduce, self.conv, self.lin_expand, self.norm_expand
        ):  # fmt: skip
            module.reset_parameters()
        self._init_norm()

    def forward_contiguous(self, maps: Tensor, grid: Grid) -> Tensor:
        # Only the reduced map is brought into the order of nodes, and back.
        x = maps.flatten(2)
        norms = self.norm_reduce, self.norm_expand
        if may_write_outputs(x.device) and all(_is_linear(norm) for norm in norms):
            y = self._infer(x, grid)
        else:
            reduced = self._reduce(x).unflatten(2, maps.shape[2:])
            nodes = self.conv(grid.flatten(reduced).contiguous(), grid)
            y = self._expand(x, grid.unflatten_runs(nodes)[0].flatten(2))
        out: Tensor = y.unflatten(2, maps.shape[2:])
        return out

    def _infer(self, x: Tensor, grid: Grid) -> Tensor:
        """Large maps are read and written where they lie: copies would take longer than samples."""
        weight, bias = _folded(self.lin_reduce, self.norm_reduce)
        reduced = project_maps_to_nodes(x, weight, bias).relu_()
        weight, bias = _folded(self.lin_expand, self.norm_expand)
        out, of_sampled = self.fusion.start(x, bias, relu=not self.zero_init)
        add_projected_nodes(of_sampled, self.conv(reduced, grid), weight)
        if not self.zero_init:
            of_sampled.relu_()
        return out

    def forward_nodes(self, x: Tensor, grid: Grid) -> Tensor:
        return self._expand(x, self.conv(self._reduce(x), grid))

    def _reduce(self, x: Tensor) -> Tensor:
        return _relu(_linear_norm(x, self.lin_reduce, self.norm_reduce))

    def _expand(self, x: Tensor, sampled: Tensor) -> Tensor:
        y = _linear_norm(sampled, self.lin_expand, self.norm_expand)
        out: Tensor = self.fusion(x, y)
        return out if self.zero_init else _relu(out)


def _relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=may_overwrite(x))


def _linear_norm(x: Tensor, linear: NodeLinear, norm: nn.BatchNorm1d) -> Tensor:
    """Linear map and normalisation; in evaluation as one map, which saves a pass over memory.

    Of node features ``[N, C]`` or of maps ``[B, C, nodes]``.
    """
    if not _is_linear(norm):
        out: Tensor = norm(linear(x) if x.dim() == 2 else project_maps(x, linear.weight))
        return out
    weight, bias = _folded(linear, norm)
    return project(x, weight, bias) if x.dim() == 2 else project_maps(x, weight, bias)


def _is_linear(norm: nn.Module) -> bool:
    """Whether a normalisation is a linear map, with statistics of its own."""
    return not norm.training and isinstance(norm, (nn.BatchNorm1d, nn.SyncBatchNorm))


def _folded(linear: NodeLinear, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear map and of such a normalisation after it."""
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return linear.weight * scale.unsqueeze(1), norm.bias - mean * scale

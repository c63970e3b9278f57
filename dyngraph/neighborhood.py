"""The samples of all nodes of a grid, their corners, and the graph that they make."""

import math
from itertools import groupby

import torch
from torch import Tensor

from dyngraph.grid import Grid, Shape

PADDING_MODES = ("zeros", "border")


class Neighborhood:
    r"""K samples for each node, at fractional positions of a sender grid.

    The value of a feature map at a fractional position is the multilinear interpolation of the
    :math:`2^P` *corners* around it:

    .. math::
        \mathbf{x}(\mathbf{p}) = \sum_{\mathbf{c}} \prod_a
        \max(0, 1 - |p_a - c_a|) \, \mathbf{x}_{\mathbf{c}}

    A sample never crosses from one map of a batch into another. A finite position far outside the
    map, however far, contributes 0 (``"zeros"``); a position that is not finite makes its node's
    output NaN and reads nothing out of bounds.

    Args:
        grid: The sender grid, with M nodes, that positions refer to.
        pos: ``[N, K, P]``, float32 or float64, the positions in units of sender nodes. Half types
            are refused: a bfloat16 coordinate on a map 129 nodes wide is off by up to 0.12 nodes.
        padding_mode: ``"zeros"``: corners outside the map weigh 0, as in deformable convolution.
            ``"border"``: positions are clamped to the map.
        receiver: The grid of the N nodes that listen, with as many maps as ``grid``. Defaults to
            ``grid``.

    Raises:
        TypeError: If ``pos`` is not float32 or float64.
        ValueError: If ``pos`` is not of shape ``[N, K, P]``, if ``padding_mode`` is unknown, the
            grids have different numbers of maps or axes, or there is no sender node.
    """

    def __init__(
        self,
        grid: Grid,
        pos: Tensor,
        padding_mode: str = "zeros",
        receiver: Grid | None = None,
    ) -> None:
        receiver = grid if receiver is None else receiver
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode: expected one of {PADDING_MODES}, got {padding_mode!r}")
        if (receiver.batch_size, receiver.num_axes) != (grid.batch_size, grid.num_axes):
            raise ValueError(
                f"receiver: expected {grid.batch_size} maps with {grid.num_axes} axes, "
                f"got {receiver.batch_size} with {receiver.num_axes}"
            )
        if pos.dim() != 3 or (pos.shape[0], pos.shape[2]) != (receiver.num_nodes, grid.num_axes):
            raise ValueError(
                f"pos: expected shape [N, K, P] = [{receiver.num_nodes}, K, {grid.num_axes}], "
                f"got {list(pos.shape)}"
            )
        if grid.num_nodes == 0 and receiver.num_nodes > 0:
            raise ValueError(f"grid: expected at least one sender node, got {grid}")
        if pos.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"pos: expected float32 or float64, got {pos.dtype}")
        self.grid = grid
        self.receiver = receiver
        self.pos = pos
        self.padding_mode = padding_mode
        #: Indices (sender nodes) and weights of the corners, ``[N, 2^P, K]``, a plane a corner.
        self.index, self.weight = _corners(grid, receiver, pos, padding_mode)

    @property
    def num_samples(self) -> int:
        r"""The number of samples of a node, K."""
        return self.pos.shape[1]

    @property
    def corner_index(self) -> Tensor:
        r"""The sender node of each corner, ``[N, K, 2^P]``."""
        return self.index.transpose(1, 2).long()

    @property
    def corner_weight(self) -> Tensor:
        r"""The interpolation weight of each corner, ``[N, K, 2^P]``."""
        return self.weight.transpose(1, 2)

    def edge_index(self) -> tuple[Tensor, Tensor]:
        r"""The pixel-to-pixel graph: an edge from every corner to the node that listens to it.

        Returns:
            The edges ``[2, N * K * 2^P]`` (source corner, target node), ordered by node, sample and
            corner, and their interpolation weights ``[N * K * 2^P]``. Two samples may share a
            corner; :func:`torch_geometric.utils.coalesce` sums such duplicates.
        """
        source = self.corner_index
        target = (
            torch.arange(source.shape[0], device=source.device).view(-1, 1, 1).expand_as(source)
        )
        return torch.stack([source.flatten(), target.flatten()]), self.corner_weight.flatten()

    def corner_alpha(self, alpha: Tensor) -> Tensor:
        r"""What each edge of :meth:`edge_index` gets of its sample's weight.

        Args:
            alpha: Weights of the samples ``[N, G, K]``.

        Returns:
            ``[N * K * 2^P, G]``.
        """
        corner_weight = self.corner_weight.unsqueeze(3)
        return (alpha.transpose(1, 2).unsqueeze(2) * corner_weight).flatten(0, 2)

    def __repr__(self) -> str:
        return f"Neighborhood({self.grid}, num_samples={self.num_samples})"


def _corners(grid: Grid, receiver: Grid, pos: Tensor, padding_mode: str) -> tuple[Tensor, Tensor]:
    runs = _run_pairs(grid, receiver)
    # Room for an index of every corner, and of every sender node with every sample.
    num_nodes = max(pos.shape[0] * 2**grid.num_axes, grid.num_nodes)
    dtype = torch.int32 if num_nodes * pos.shape[1] < 2**31 else torch.int64
    if padding_mode == "border":
        # Clamping an infinite position would hide it.
        pos = torch.where(pos.isfinite(), pos, torch.nan)
    lengths = [count * math.prod(shape) for count, _, shape in runs]
    parts = [pos] if len(runs) == 1 else pos.split(lengths)
    start, corners = 0, []
    for (count, shape, _), part in zip(runs, parts, strict=True):
        if count * math.prod(shape) == 0:
            # No corner, or no sample: any index of a node will do, and weighs 0.
            planes = part[:, None, :, 0].expand(-1, 2 ** len(shape), -1)
            empty = planes.masked_fill(torch.ones((), dtype=torch.bool, device=pos.device), 0)
            corners.append((empty.to(dtype), empty))
        else:
            index, weight = _run_corners(part, count, shape, padding_mode, dtype)
            corners.append((index + start if start else index, weight))
        start += count * math.prod(shape)
    if len(corners) == 1:
        return corners[0]
    return torch.cat([index for index, _ in corners]), torch.cat([weight for _, weight in corners])


def _run_pairs(grid: Grid, receiver: Grid) -> list[tuple[int, Shape, Shape]]:
    """Runs of maps that are equal in both grids: their number, sender shape and receiver shape."""
    if [count for count, _ in grid.runs] == [count for count, _ in receiver.runs]:
        return [
            (count, sender, shape)
            for (count, sender), (_, shape) in zip(grid.runs, receiver.runs, strict=True)
        ]
    pairs = groupby(zip(grid.shapes, receiver.shapes, strict=True))
    return [(len(list(run)), *shapes) for shapes, run in pairs]


def _run_corners(
    pos: Tensor, count: int, shape: Shape, padding_mode: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Corners of samples ``pos [N, K, P]`` of ``count`` maps of one shape."""
    axes = [
        _axis_corners(p.contiguous(), length, padding_mode, dtype)
        for p, length in zip(pos.unbind(-1), shape, strict=True)
    ]
    # Maps are stacked along their first axis.
    image = torch.arange(count, dtype=dtype, device=pos.device) * shape[0]
    image = image.view(-1, 1).expand(-1, pos.shape[0] // count).reshape(-1, 1)
    nodes = [index + image for index, _ in axes[0]]
    weights = [weight for _, weight in axes[0]]
    for length, axis in zip(shape[1:], axes[1:], strict=True):
        rows = [node * length for node in nodes]
        nodes = [row + index for row in rows for index, _ in axis]
        weights = [weight * axis_weight for weight in weights for _, axis_weight in axis]
    return torch.stack(nodes, dim=1), torch.stack(weights, dim=1)


def _axis_corners(
    p: Tensor, length: int, padding_mode: str, dtype: torch.dtype
) -> list[tuple[Tensor, Tensor]]:
    """Index and weight of the lower and of the upper corner along one axis."""
    if padding_mode == "border":
        p = p.clamp(0, length - 1)
    lower = p.detach().floor()
    # NaN where p is not finite, so that both weights are.
    fraction = p - lower
    lower = lower.nan_to_num(0)
    corners = []
    for corner, weight in ((lower, 1 - fraction), (lower + 1, fraction)):
        # Clamped as a float: the integer cast of a far position is undefined.
        index = corner.clamp(0, length - 1)
        # A product, which keeps NaN.
        corners.append((index.to(dtype), weight * (index == corner)))
    return corners

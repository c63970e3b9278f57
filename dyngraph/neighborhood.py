"""The samples of all nodes of a grid, their corners, and the graph that they make."""

import math
from itertools import groupby

import torch
from torch import Tensor

from dyngraph.grid import Grid, Shape
from dyngraph.ops.corners import corners

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
    lengths = [count * math.prod(shape) for count, _, shape in runs]
    parts = [pos] if len(runs) == 1 else pos.split(lengths)
    start, indices, weights = 0, [], []
    for (count, shape, _), part in zip(runs, parts, strict=True):
        if count * math.prod(shape) == 0:
            # No corner, or no sample: any index of a node will do, and weighs 0.
            planes = part[:, None, :, 0].expand(-1, 2 ** len(shape), -1)
            weight = planes.masked_fill(torch.ones((), dtype=torch.bool, device=pos.device), 0)
            index = weight.to(dtype)
        else:
            index, weight = corners(part, shape, count, padding_mode == "border", dtype)
            index = index + start if start else index
        indices.append(index)
        weights.append(weight)
        start += count * math.prod(shape)
    if len(runs) == 1:
        return indices[0], weights[0]
    return torch.cat(indices), torch.cat(weights)


def _run_pairs(grid: Grid, receiver: Grid) -> list[tuple[int, Shape, Shape]]:
    """Runs of maps that are equal in both grids: their number, sender shape and receiver shape."""
    if [count for count, _ in grid.runs] == [count for count, _ in receiver.runs]:
        return [
            (count, sender, shape)
            for (count, sender), (_, shape) in zip(grid.runs, receiver.runs, strict=True)
        ]
    pairs = groupby(zip(grid.shapes, receiver.shapes, strict=True))
    return [(len(list(run)), *shapes) for shapes, run in pairs]

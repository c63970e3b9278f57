"""The samples of all nodes of a grid, their corners, and the graph that they make."""

from itertools import product

import torch
from torch import Tensor

from dyngraph.grid import Grid

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
        ValueError: If ``pos`` is not of shape ``[N, K, P]``, if ``padding_mode`` is unknown or the
            grids have different numbers of maps or axes.
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
    image = receiver.batch
    start = grid.ptr[image].unsqueeze(1)
    sizes = grid.sizes[image].unsqueeze(1).unbind(-1)
    # An infinite position would weigh 0 below; it has to show as NaN.
    pos = torch.where(pos.isfinite(), pos, torch.nan)
    axes = [
        _axis_corners(p, size.to(p.dtype), padding_mode)
        for p, size in zip(pos.unbind(-1), sizes, strict=True)
    ]
    corner_index, corner_weight = [], []
    for corner in product(*axes):
        node, weight = corner[0]
        for size, (axis_index, axis_weight) in zip(sizes[1:], corner[1:], strict=True):
            node = node * size + axis_index
            weight = weight * axis_weight
        # A map without nodes has no corner, and weighs 0: any node will do, but it has to exist.
        corner_index.append((node + start).clamp(max=max(grid.num_nodes - 1, 0)))
        corner_weight.append(weight)
    # Room for an index of every corner, and of every sender node with every tap.
    num_nodes = max(pos.shape[0] * 2 ** len(sizes), grid.num_nodes)
    fits = num_nodes * pos.shape[1] < 2**31
    index = torch.stack(corner_index, dim=1)
    return index.int() if fits else index, torch.stack(corner_weight, dim=1)


def _axis_corners(p: Tensor, size: Tensor, padding_mode: str) -> list[tuple[Tensor, Tensor]]:
    """Index and weight of the lower and of the upper corner along one axis."""
    last = (size - 1).clamp(min=0)
    if padding_mode == "border":
        p = torch.minimum(p.clamp(min=0), last)
    lower = p.detach().floor()
    fraction = p - lower
    corners = []
    for corner, weight in ((lower, 1 - fraction), (lower + 1, fraction)):
        # `outside`, not `inside`: a comparison with NaN is false, so NaN keeps its weight NaN.
        outside = (corner < 0) | (corner > size - 1)
        # Clamped as a float: the integer cast of a far position is undefined.
        index = torch.minimum(corner.clamp(min=0), last).nan_to_num(0).long()
        corners.append((index, weight.masked_fill(outside, 0)))
    return corners

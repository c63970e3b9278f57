"""Samples at learned offsets from the node."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear

from dyngraph.grid import Grid
from dyngraph.neighborhood import Neighborhood
from dyngraph.samplers.sampler import Sampler, no_autocast

_AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class OffsetLinear(Linear):
    r"""A linear layer that predicts K offsets of P coordinates, ``[N, C] -> [N, K, P]``.

    Its weights start at zero and its biases at random around the node, as a Latin hypercube: along
    each axis, each of K equal parts of the range has one sample. With equal biases all K samples of
    a node would get the same gradient and never separate. It computes in at least float32 under any
    autocast.

    Args:
        in_channels: C, or -1 to take it from the first input.
        num_samples: K.
        num_axes: P.
        spread: The largest distance of an initial offset along each of the P axes, in nodes.

    Example:
        >>> import torch
        >>> from dyngraph.samplers import OffsetLinear
        >>> linear = OffsetLinear(8, num_samples=4, num_axes=2, spread=(3.0, 3.0))
        >>> linear(torch.randn(20, 8)).shape
        torch.Size([20, 4, 2])
    """

    def __init__(
        self, in_channels: int, num_samples: int, num_axes: int, spread: Sequence[float]
    ) -> None:
        self.num_samples = num_samples
        self.num_axes = num_axes
        self.spread = spread
        super().__init__(in_channels, num_samples * num_axes)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        size, device = (self.num_samples, self.num_axes), self.bias.device
        part = torch.rand(size, device=device).argsort(dim=0)
        place = (part + torch.rand(size, device=device)) / self.num_samples
        with torch.no_grad():
            self.bias.copy_((place.new_tensor(self.spread) * (2 * place - 1)).flatten())
        if not isinstance(self.weight, nn.UninitializedParameter):
            nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        with no_autocast(x.device.type):
            offset = F.linear(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))
        return offset.view(-1, self.num_samples, self.num_axes)


class OffsetSampler(Sampler):
    r"""RepGraph's sampling of representative nodes at learned offsets.

    .. math::
        \mathbf{p}_{i,n} = \mathbf{pos}_i + \Delta_n(\mathbf{x}_i), \quad n = 1 \dots S

    From "Representative Graph Neural Network" (ECCV 2020), Eq. 5-7. With ``cell_size`` > 1, cells
    of ``cell_size`` nodes along each axis share one set of samples (Grid RepGraph): offsets are
    predicted from the average of the cell's nodes and added to the position of its first node.

    Args:
        in_channels: The channels of the nodes, or -1 to take them from the first input.
        num_samples: S, the number of samples of a node.
        num_axes: P, the number of spatial axes.
        cell_size: The length of a cell, in nodes. Cells at the end of a map may be smaller.
        spread: The largest initial offset, in nodes, along all axes or along each of them.

    Raises:
        ValueError: If a number is not positive, ``num_axes`` is not 1, 2 or 3, or ``spread`` does
            not have a number for each axis.

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.samplers import OffsetSampler
        >>> sampler = OffsetSampler(8, num_samples=4, spread=3.0)
        >>> near = sampler(torch.randn(20, 8), Grid([[4, 5]]))
        >>> near.pos.shape
        torch.Size([20, 4, 2])
    """

    def __init__(
        self,
        in_channels: int,
        num_samples: int = 9,
        *,
        num_axes: int = 2,
        cell_size: int = 1,
        spread: float | Sequence[float] = 16.0,
    ) -> None:
        super().__init__(num_samples, num_axes)
        if num_samples < 1:
            raise ValueError(f"num_samples: expected at least 1, got {num_samples}")
        if cell_size < 1:
            raise ValueError(f"cell_size: expected at least 1, got {cell_size}")
        spreads = [spread] * num_axes if isinstance(spread, (int, float)) else [*spread]
        if len(spreads) != num_axes or min(spreads) <= 0:
            raise ValueError(
                f"spread: expected a positive number, or one for each of {num_axes} axes, "
                f"got {spread}"
            )
        self.cell_size = cell_size
        self.offset = OffsetLinear(in_channels, num_samples, num_axes, spreads)

    def reset_parameters(self) -> None:
        r"""Spreads the offsets around the node again."""
        self.offset.reset_parameters()

    def forward(self, x: Tensor, grid: Grid) -> Neighborhood:
        self.check_nodes(x, grid)
        if self.cell_size == 1:
            offset = self.offset(x)
            return Neighborhood(grid, grid.pos.to(offset.dtype).unsqueeze(1) + offset)
        cells, cell_of_node = _cells(grid, self.cell_size)
        offset = self.offset(_cell_average(x, grid, self.cell_size))
        anchor = cells.pos.to(offset.dtype) * self.cell_size
        return Neighborhood(grid, (anchor.unsqueeze(1) + offset)[cell_of_node])

    def __repr__(self) -> str:
        cell_size = f", cell_size={self.cell_size}" if self.cell_size > 1 else ""
        return (
            f"{self.__class__.__name__}({self.offset.in_channels}, "
            f"num_samples={self.num_samples}, num_axes={self.num_axes}{cell_size})"
        )


def _cells(grid: Grid, size: int) -> tuple[Grid, Tensor]:
    """The grid of cells, and the cell of each node ``[N]``."""
    cells = grid.coarsen(size)
    start, parts = 0, []
    for (count, shape), (_, cell_shape) in zip(grid.runs, cells.runs, strict=True):
        cell = torch.arange(count, device=grid.device)
        for length, num_cells in zip(shape, cell_shape, strict=True):
            place = torch.arange(length, device=grid.device) // size
            cell = cell.unsqueeze(-1) * num_cells + place
        parts.append(cell.flatten() + start)
        start += count * math.prod(cell_shape)
    return cells, torch.cat(parts)


def _cell_average(x: Tensor, grid: Grid, size: int) -> Tensor:
    """The average of the nodes of each cell, in at least float32."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    runs = [_pool(maps, size) for maps in grid.unflatten_runs(x)]
    return torch.cat([maps.movedim(1, -1).reshape(-1, x.shape[1]) for maps in runs])


def _pool(maps: Tensor, size: int) -> Tensor:
    # Pooling refuses maps without nodes, which have no cells either.
    if maps.numel() == 0:
        return maps
    shape = maps.shape[2:]
    # avg_pool3d refuses a kernel that is longer than the map.
    kernel = [min(size, length) for length in shape]
    stride = [size] * len(shape)
    pool = _AVG_POOL[len(shape)]
    return pool(maps, kernel, stride, ceil_mode=True, count_include_pad=False)

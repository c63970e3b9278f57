"""The node layout of a batch of feature maps, and the way from maps to graphs and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, TypeGuard

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

Shape = tuple[int, ...]
FeatureMaps = Tensor | Sequence[Tensor]


class Run(NamedTuple):
    r"""Consecutive maps of one size."""

    num_maps: int
    shape: Shape
    """The P lengths of a map."""

    @property
    def num_nodes(self) -> int:
        r"""The number of nodes of all of these maps."""
        return self.num_maps * math.prod(self.shape)


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Grid:
    r"""The node layout of a batch of feature maps whose sizes may differ from map to map.

    A value: it can't be changed, and two grids are equal if their maps have the same sizes.

    Nodes are numbered map after map and row-major inside a map. Consecutive maps of equal size form
    a :class:`Run`; a batch ``[B, C, *spatial]`` is a single run.

    Args:
        sizes: The ``[B, P]`` spatial sizes of the maps, P in {1, 2, 3}, or at least one
            :class:`Run`. Inside a compiled or exported function, lists or tuples of Python
            integers, which may be symbols.
        device: Where :attr:`sizes`, :attr:`ptr`, :attr:`batch` and :attr:`pos` are created.
            Defaults to the device of ``sizes``, or PyTorch's default device if they are not a
            tensor.

    Raises:
        TypeError: If ``sizes`` are not integers.
        ValueError: If ``sizes`` is not of shape ``[B, P]`` or holds a negative number.

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> grid = Grid([[2, 3], [1, 2]])
        >>> grid.num_nodes, grid.ptr.tolist(), grid.pos[5].tolist()
        (8, [0, 6, 8], [1.0, 2.0])
        >>> first, second = grid.unflatten(torch.zeros(8, 4))
        >>> first.shape, second.shape
        (torch.Size([4, 2, 3]), torch.Size([4, 1, 2]))
    """

    runs: tuple[Run, ...]
    """At least one: a grid without maps has an empty run."""
    device: torch.device

    def __init__(
        self,
        sizes: Tensor | Sequence[Sequence[int]] | Sequence[Run],
        *,
        device: torch.device | str | None = None,
    ) -> None:
        if device is None:
            # `torch.get_default_device` can't be compiled.
            device = sizes.device if isinstance(sizes, Tensor) else torch.empty(0).device
        # How to set the attributes of a frozen object.
        object.__setattr__(self, "runs", _runs_of(sizes))
        object.__setattr__(self, "device", torch.device(device))

    @classmethod
    def of(cls, maps: FeatureMaps) -> Grid:
        r"""The grid of one batch ``[B, C, *spatial]`` or of a list of maps ``[C, *spatial]``.

        Raises:
            TypeError: If ``maps`` is neither.
            ValueError: If ``maps`` is empty or its number of axes is wrong or varies.
        """
        if isinstance(maps, Tensor):
            if maps.dim() not in (3, 4, 5):
                raise ValueError(
                    f"maps: expected a batch [B, C, *spatial] with 1, 2 or 3 spatial axes, "
                    f"got shape {list(maps.shape)}"
                )
            return cls([Run(maps.shape[0], tuple(maps.shape[2:]))], device=maps.device)
        if not isinstance(maps, (list, tuple)) or not all(isinstance(m, Tensor) for m in maps):
            raise TypeError(
                f"maps: expected a tensor or a list of tensors, got {type(maps).__name__}"
            )
        if not maps:
            raise ValueError("maps: expected at least one map, got an empty list")
        axes = {m.dim() for m in maps}
        if len(axes) > 1:
            raise ValueError(
                f"maps: expected the same number of axes in each, got {[m.dim() for m in maps]}"
            )
        if not axes <= {2, 3, 4}:
            raise ValueError(
                f"maps: expected maps [C, *spatial] with 1, 2 or 3 spatial axes, "
                f"got shape {list(maps[0].shape)}"
            )
        return cls([tuple(m.shape[1:]) for m in maps], device=maps[0].device)

    @property
    def num_axes(self) -> int:
        r"""The number of spatial axes, P."""
        return len(self.runs[0].shape)

    @property
    def shapes(self) -> list[Shape]:
        r"""The spatial shape of each map."""
        return [shape for count, shape in self.runs for _ in range(count)]

    @property
    def batch_size(self) -> int:
        r"""The number of maps, B."""
        return sum(count for count, _ in self.runs)

    @property
    def num_nodes(self) -> int:
        r"""The number of nodes of all maps together, N."""
        # Not the runs' own: PyTorch 2.8 compiles no properties of named tuples.
        return sum(count * math.prod(shape) for count, shape in self.runs)

    @property
    def sizes(self) -> Tensor:
        r"""The spatial sizes of the maps, ``[B, P]``."""
        rows = [
            torch.tensor(shape, device=self.device).expand(count, self.num_axes)
            for count, shape in self.runs
        ]
        return torch.cat(rows)

    @property
    def ptr(self) -> Tensor:
        r"""The first node of each map, and N at the end, ``[B + 1]``."""
        start = torch.zeros(1, dtype=torch.long, device=self.device)
        return torch.cat([start, self.sizes.prod(dim=1).cumsum(0)])

    @property
    def batch(self) -> Tensor:
        r"""The map of each node, ``[N]``."""
        start, parts = 0, []
        for count, shape in self.runs:
            maps = torch.arange(start, start + count, device=self.device)
            parts.append(maps.unsqueeze(1).expand(-1, math.prod(shape)).flatten())
            start += count
        return torch.cat(parts)

    @property
    def pos(self) -> Tensor:
        r"""The position of each node in its map, ``[N, P]``, float32, in units of nodes."""
        return torch.cat(
            [_positions(shape, self.device).repeat(count, 1) for count, shape in self.runs]
        )

    def flatten(self, maps: FeatureMaps) -> Tensor:
        r"""Node-major features ``[N, C]`` of maps that have this layout.

        A free view of a ``channels_last`` batch; a copy of a contiguous one.

        Raises:
            ValueError: If the maps' sizes or channels don't fit.
        """
        given = Grid.of(maps)
        # Runs first: comparing shapes would fix the number of maps in an exported program.
        if given.runs != self.runs and given.shapes != self.shapes:
            raise ValueError(f"maps: expected spatial sizes {self.shapes}, got {given.shapes}")
        if isinstance(maps, Tensor):
            return maps.movedim(1, -1).reshape(self.num_nodes, maps.shape[1])
        channels = {m.shape[0] for m in maps}
        if len(channels) > 1:
            raise ValueError(
                f"maps: expected the same number of channels in each, "
                f"got {[m.shape[0] for m in maps]}"
            )
        return torch.cat([m.movedim(0, -1).reshape(-1, m.shape[0]) for m in maps])

    def unflatten_runs(self, x: Tensor) -> list[Tensor]:
        r"""One batch ``[B_r, C, *spatial]`` for each run of equal maps, as views of ``x``."""
        if x.dim() != 2 or x.shape[0] != self.num_nodes:
            raise ValueError(
                f"x: expected node features [{self.num_nodes}, C], got shape {list(x.shape)}"
            )
        lengths = [count * math.prod(shape) for count, shape in self.runs]
        # A single part is not split: the gradient of a split would be a copy.
        parts = [x] if len(self.runs) == 1 else x.split(lengths)
        return [
            part.view(count, *shape, x.shape[1]).movedim(-1, 1)
            for part, (count, shape) in zip(parts, self.runs, strict=True)
        ]

    def unflatten(self, x: Tensor) -> Tensor | list[Tensor]:
        r"""Feature maps of node features ``x: [N, C]``.

        Returns:
            ``[B, C, *spatial]`` (a ``channels_last`` view) where all maps have one size, else the
            list of maps ``[C, *spatial]``.

        Raises:
            ValueError: If ``x`` does not have N rows.
        """
        runs = self.unflatten_runs(x)
        if len(runs) == 1:
            return runs[0]
        return [feature_map for run in runs for feature_map in run]

    def coarsen(self, factor: int) -> Grid:
        r"""The layout of cells of ``factor`` nodes along each axis; the last may be partial."""
        # Not -(-length // factor): ONNX rounds towards zero.
        runs = [
            Run(count, tuple((length + factor - 1) // factor for length in shape))
            for count, shape in self.runs
        ]
        return Grid(runs, device=self.device)

    def split(self, num_nodes: int) -> list[Grid]:
        r"""Parts of consecutive maps, each of at most ``num_nodes`` nodes or of a single map."""
        parts: list[list[Shape]] = []
        space = 0
        for shape in self.shapes:
            space -= math.prod(shape)
            if space < 0 or not parts:
                parts.append([])
                space = num_nodes - math.prod(shape)
            parts[-1].append(shape)
        return [Grid(part, device=self.device) for part in parts]

    def size(self, dim: int | None = None) -> NoReturn:
        r"""PyG's explainers count the edges of a graph, but a grid has none.

        Raises:
            TypeError: Always, saying how to explain the graph that a layer samples.
        """
        raise TypeError(
            "edge_index: expected edges, got a Grid. Explain the graph that the layer samples: "
            "with edges = conv.sample(x, grid)[1].edges(), call explainer(x, edges.index, "
            "edge_weight=edges.weight, edge_sample=edges.sample)"
        )

    def to(self, device: torch.device | str) -> Grid:
        r"""The same layout on another device."""
        return Grid(self.runs, device=device)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.num_axes == other.num_axes and self.shapes == other.shapes

    def __hash__(self) -> int:
        return hash((self.num_axes, tuple(self.shapes)))

    def __repr__(self) -> str:
        return f"Grid({self.shapes})"


def _runs_of(sizes: Tensor | Sequence[Sequence[int]] | Sequence[Run]) -> tuple[Run, ...]:
    """The runs of maps, checked."""
    if _are_runs(sizes):
        runs = tuple(sizes)
    elif _are_rows_of_ints(sizes):
        # Not through a tensor: a compiled or exported program can't read its sizes from data.
        runs = _join([tuple(row) for row in sizes])
    else:
        table = torch.as_tensor(sizes, device="cpu")
        if table.dim() != 2:
            raise ValueError(f"sizes: expected shape [B, P], got {list(table.shape)}")
        if table.dtype.is_floating_point or table.dtype.is_complex or table.dtype == torch.bool:
            raise TypeError(f"sizes: expected integers, got {table.dtype}")
        # Without maps, the number of axes is all there is to know.
        runs = _join([tuple(row) for row in table.tolist()]) or (Run(0, (1,) * table.shape[1]),)
    num_axes = {len(run.shape) for run in runs}
    if len(num_axes) > 1 or not num_axes <= {1, 2, 3}:
        raise ValueError(
            f"sizes: expected 1, 2 or 3 spatial axes, the same in all maps, "
            f"got {[run.shape for run in runs]}"
        )
    if any(length < 0 for run in runs for length in run.shape):
        raise ValueError(f"sizes: expected no negative number, got {[run.shape for run in runs]}")
    return runs


def _are_runs(sizes: object) -> TypeGuard[Sequence[Run]]:
    """Whether sizes are runs of maps."""
    if not isinstance(sizes, (list, tuple)) or not sizes:
        return False
    return all(isinstance(run, Run) for run in sizes)


def _are_rows_of_ints(sizes: object) -> TypeGuard[Sequence[Sequence[int]]]:
    """Whether sizes are lists or tuples of Python integers, all of one length."""
    if not isinstance(sizes, (list, tuple)) or not sizes:
        return False
    return all(
        isinstance(row, (list, tuple))
        and len(row) == len(sizes[0])
        and all(isinstance(n, (int, torch.SymInt)) and not isinstance(n, bool) for n in row)
        for row in sizes
    )


def _join(shapes: Sequence[Shape]) -> tuple[Run, ...]:
    """Runs of consecutive maps of one shape."""
    # Not with `groupby`, which can't be compiled for sizes that are symbols.
    runs: list[Run] = []
    for shape in shapes:
        if runs and runs[-1].shape == shape:
            runs[-1] = Run(runs[-1].num_maps + 1, shape)
        else:
            runs.append(Run(1, shape))
    return tuple(runs)


def _positions(shape: Shape, device: torch.device) -> Tensor:
    axes = [torch.arange(length, dtype=torch.float32, device=device) for length in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(-1, len(shape))


class GridData(Data):
    r"""A graph whose nodes are the nodes of feature maps: :obj:`x`, :obj:`pos` and :attr:`grid`."""

    @property
    def grid(self) -> Grid:
        r"""The node layout.

        Raises:
            ValueError: If nodes were added or removed, so that they no longer form a feature map.
        """
        grid = Grid(self.map_size)
        if grid.num_nodes != self.num_nodes:
            raise ValueError(
                f"graph: its {self.num_nodes} nodes are not the {grid.num_nodes} nodes of "
                f"feature maps of sizes {grid.shapes}"
            )
        return grid


def to_graph(maps: FeatureMaps) -> Batch:
    r"""Turns feature maps into a :class:`torch_geometric.data.Batch` of graphs without edges.

    Args:
        maps: One batch ``[B, C, *spatial]`` or a list of maps ``[C, *spatial]``, whose sizes may
            differ.

    Returns:
        A batch with one graph per map: ``x [N, C]``, ``pos [N, P]``, ``batch``, ``ptr`` and
        ``grid``.

    Raises:
        TypeError: If ``maps`` is neither a tensor nor a list of tensors.
        ValueError: If ``maps`` is empty, or its axes or channels don't fit.

    Example:
        >>> import torch
        >>> from dyngraph import to_graph
        >>> graph = to_graph([torch.zeros(4, 2, 3), torch.zeros(4, 1, 2)])
        >>> graph.x.shape, graph.batch.tolist(), graph.grid
        (torch.Size([8, 4]), [0, 0, 0, 0, 0, 0, 1, 1], Grid([(2, 3), (1, 2)]))
    """
    layout = Grid.of(maps)
    if layout.batch_size == 0:
        raise ValueError("maps: expected at least one map, got an empty batch")
    return Batch.from_data_list([_to_data(feature_map) for feature_map in maps])


def _to_data(feature_map: Tensor) -> GridData:
    maps = feature_map.unsqueeze(0)
    grid = Grid.of(maps)
    return GridData(x=grid.flatten(maps), pos=grid.pos, map_size=grid.sizes)


def to_feature_map(graph: Data) -> Tensor | list[Tensor]:
    r"""The inverse of :func:`to_graph`.

    Returns:
        ``[B, C, *spatial]`` where all maps have one size, else the list of maps ``[C, *spatial]``.

    Raises:
        TypeError: If ``graph`` has no grid.
        ValueError: If its nodes no longer form a feature map.

    Example:
        >>> import torch
        >>> from dyngraph import to_feature_map, to_graph
        >>> maps = torch.randn(2, 4, 3, 5)
        >>> torch.equal(to_feature_map(to_graph(maps)), maps)
        True
    """
    if not isinstance(graph, GridData):
        raise TypeError(f"graph: expected a graph made by to_graph, got {type(graph).__name__}")
    return graph.grid.unflatten(graph.x)

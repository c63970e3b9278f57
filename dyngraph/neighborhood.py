"""The samples of all nodes of a grid, their corners, and the graph that they make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Data

from dyngraph import multilinear
from dyngraph.grid import Grid
from dyngraph.multilinear import Level, Maps

PADDING_MODES = ("zeros", "border")


class Corners(NamedTuple):
    r"""The corners of all samples.

    H is 1 where all groups of channels share their samples, else the number of groups.

    Example:
        >>> import torch
        >>> from dyngraph import Grid, Neighborhood
        >>> near = Neighborhood(Grid([[3]]), torch.tensor([[[0.25]], [[1.0]], [[1.5]]]))
        >>> index, weight = near.corners()
        >>> index[0].flatten().tolist(), weight[0].flatten().tolist()
        ([0, 1], [0.75, 0.25])
    """

    index: Tensor  # type: ignore[assignment]  # not the method of tuples
    """The sender node of each corner, ``[N, H, 2^P, K]``, int32 or int64."""
    weight: Tensor
    """Their interpolation weights, ``[N, H, 2^P, K]``."""


class Edges(NamedTuple):
    r"""The sampled graph: an edge from every corner of every sample to the node that listens to it.

    A layer that gets it, ``conv(x, edges.index, edge_weight=edges.weight,
    edge_sample=edges.sample)``, computes what it computes on the grid.

    Example:
        >>> import torch
        >>> from dyngraph import Grid, Neighborhood
        >>> near = Neighborhood(Grid([[2]]), torch.tensor([[[0.25]], [[0.5]]]))
        >>> edges = near.edges()
        >>> edges.index.tolist(), edges.weight.tolist(), edges.sample.tolist()
        ([[0, 1, 0, 1], [0, 0, 1, 1]], [0.75, 0.25, 0.5, 0.5], [0, 0, 0, 0])
    """

    index: Tensor  # type: ignore[assignment]  # not the method of tuples
    """Source corner and target node, ``[2, E]``, int64."""
    weight: Tensor
    """Interpolation weights ``[E]``."""
    sample: Tensor
    """Which of its target's samples each edge belongs to, ``[E]``, int64. Where every group of
    channels has K samples of its own, sample k of group g is number ``g K + k``."""


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Neighborhood:
    r"""K samples for each node, at fractional positions of a sender grid.

    A value: it can't be changed, and keeps nothing that it computes.

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
        pos: ``[N, K, P]``, float32 or float64, the positions in units of sender nodes; or
            ``[N, G, K, P]`` where each of G groups of channels has samples of its own. Half types
            are refused: a bfloat16 coordinate on a map 129 nodes wide is off by up to 0.12 nodes.
        padding_mode: ``"zeros"``: corners outside the map weigh 0, as in deformable convolution.
            ``"border"``: positions are clamped to the map.
        receiver: The grid of the N nodes that listen, with a map for each image and any number of
            axes. Defaults to ``grid``.
        levels: Where each image has several sender maps, such as a feature pyramid, how many of the
            K samples are on each. ``grid`` then has the maps image after image, and the samples
            follow the levels. By default, an image has one map.

    Raises:
        TypeError: If ``pos`` is not float32 or float64.
        ValueError: If ``pos`` is of another shape, if ``padding_mode`` is unknown, the
            grids have different numbers of images or ``levels`` not K samples, or there is no
            sender node.

    Example:
        >>> import torch
        >>> from dyngraph import Grid, Neighborhood
        >>> grid = Grid([[4, 5]])
        >>> offset = torch.tensor([[0.0, -1.0], [0.5, 0.25]])  # the same two samples for every node
        >>> near = Neighborhood(grid, grid.pos.unsqueeze(1) + offset)
        >>> near.pos.shape, near.edges().index.shape
        (torch.Size([20, 2, 2]), torch.Size([2, 160]))

        Three queries that have a sample on a map of 4x4 nodes and two on one of 2x2:

        >>> levels, queries = Grid([[4, 4], [2, 2]]), Grid([[3]])
        >>> Neighborhood(levels, torch.rand(3, 3, 2), receiver=queries, levels=[1, 2])
        Neighborhood(Grid([(4, 4), (2, 2)]), num_samples=3, levels=(1, 2))
    """

    grid: Grid
    pos: Tensor
    padding_mode: str
    receiver: Grid
    levels: tuple[int, ...]

    def __init__(
        self,
        grid: Grid,
        pos: Tensor,
        *,
        padding_mode: str = "zeros",
        receiver: Grid | None = None,
        levels: Sequence[int] | None = None,
    ) -> None:
        receiver = grid if receiver is None else receiver
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode: expected one of {PADDING_MODES}, got {padding_mode!r}")
        num_levels = 1 if levels is None else len(levels)
        if receiver.batch_size * num_levels != grid.batch_size:
            raise ValueError(
                f"receiver: expected a map for each of the {num_levels} maps of an image in grid, "
                f"{grid.batch_size} in all, got {receiver.batch_size}"
            )
        n, p = receiver.num_nodes, grid.num_axes
        if pos.dim() not in (3, 4) or (pos.shape[0], pos.shape[-1]) != (n, p):
            raise ValueError(
                f"pos: expected shape [N, K, P] = [{n}, K, {p}] or [N, G, K, P], "
                f"got {list(pos.shape)}"
            )
        if levels is not None and (min(levels, default=-1) < 0 or sum(levels) != pos.shape[-2]):
            raise ValueError(
                f"levels: expected numbers of samples that add up to K = {pos.shape[-2]}, "
                f"got {list(levels)}"
            )
        if grid.num_nodes == 0 and receiver.num_nodes > 0:
            raise ValueError(f"grid: expected at least one sender node, got {grid}")
        if pos.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"pos: expected float32 or float64, got {pos.dtype}")
        # The way to set the attributes of a frozen object.
        object.__setattr__(self, "grid", grid)
        object.__setattr__(self, "pos", pos)
        object.__setattr__(self, "padding_mode", padding_mode)
        object.__setattr__(self, "receiver", receiver)
        levels = (pos.shape[-2],) if levels is None else tuple(levels)
        object.__setattr__(self, "levels", levels)

    @property
    def num_samples(self) -> int:
        r"""The number of samples of a node (and, where groups have their own, of a group), K."""
        return self.pos.shape[-2]

    @property
    def num_groups(self) -> int | None:
        r"""The number of groups with samples of their own, G, or None where all share theirs."""
        return self.pos.shape[1] if self.pos.dim() == 4 else None

    @property
    def pos_of_groups(self) -> Tensor:
        r"""The positions, ``[N, H, K, P]``, H = G or, where groups share their samples, 1."""
        return self.pos if self.pos.dim() == 4 else self.pos.unsqueeze(1)

    @property
    def maps(self) -> list[Maps]:
        r"""Neighbouring images whose maps are of the same sizes in both grids."""
        if len(self.levels) == 1:
            senders, receivers = self.grid.runs, self.receiver.runs
            if [count for count, _ in senders] == [count for count, _ in receivers]:
                return [
                    Maps(count, math.prod(own), (Level(self.num_samples, shape),))
                    for (count, shape), (_, own) in zip(senders, receivers, strict=True)
                ]
        shapes, step = self.grid.shapes, len(self.levels)
        of_image = [tuple(shapes[i : i + step]) for i in range(0, len(shapes), step)]
        maps: list[Maps] = []
        last: tuple[object, ...] | None = None
        # Not with `groupby`, which PyTorch 2.8 can't compile.
        for of_senders, own in zip(of_image, self.receiver.shapes, strict=True):
            same = (of_senders, own) == last
            num_images = maps.pop().num_images + 1 if same else 1
            levels = tuple(map(Level, self.levels, of_senders))
            maps.append(Maps(num_images, math.prod(own), levels))
            last = of_senders, own
        return maps

    def corners(self) -> Corners:
        r"""The corners of all samples, by standard operators.

        :func:`dyngraph.ops.find_corners` finds the same ones faster.
        """
        pos, maps = self.pos_of_groups, self.maps
        dtype = multilinear.index_dtype(pos, maps)
        return Corners(*multilinear.corners(pos, maps, self.padding_mode == "border", dtype))

    def edges(self) -> Edges:
        r"""The sampled graph, pixel to pixel, ordered by node, sample and corner.

        Two samples may share a corner. :func:`torch_geometric.utils.coalesce` sums such duplicates,
        and with them forgets which sample they belong to.

        Returns:
            ``N * K * 2^P`` edges; of samples outside the map some weigh 0.
        """
        # [N, H K, 2^P]
        source, weight = (part.transpose(2, 3).flatten(1, 2) for part in self.corners())
        num_nodes, num_samples, _ = source.shape
        target = torch.arange(num_nodes, device=source.device).view(-1, 1, 1)
        sample = torch.arange(num_samples, device=source.device).view(1, -1, 1)
        return Edges(
            torch.stack([source.long().flatten(), target.expand_as(source).flatten()]),
            weight.flatten(),
            sample.expand_as(source).flatten(),
        )

    def edge_index(self) -> tuple[Tensor, Tensor]:
        r"""The index and the weight of :meth:`edges`, without their samples."""
        index, weight, _ = self.edges()
        return index, weight

    def to_graph(self, x: Tensor) -> Data:
        r"""The sampled graph with node features, as PyG's tools take it.

        Args:
            x: ``[N, C]``.

        Returns:
            ``x``, ``pos [N, P]``, ``batch [N]``, ``edge_index [2, E]``, ``edge_weight [E]`` and
            ``edge_sample [E]``.

        Raises:
            ValueError: If ``x`` does not have a row for every node, or senders and receivers are
                not the same nodes.
        """
        if self.receiver != self.grid:
            raise ValueError(
                f"receiver: expected the senders' grid {self.grid}, got {self.receiver}"
            )
        if x.dim() != 2 or x.shape[0] != self.grid.num_nodes:
            raise ValueError(
                f"x: expected node features [{self.grid.num_nodes}, C], got shape {list(x.shape)}"
            )
        index, weight, sample = self.edges()
        return Data(
            x=x,
            edge_index=index,
            edge_weight=weight,
            edge_sample=sample,
            pos=self.grid.pos,
            batch=self.grid.batch,
        )

    def corner_alpha(self, alpha: Tensor) -> Tensor:
        r"""What each edge of :meth:`edges` gets of its sample's weight.

        Args:
            alpha: Weights of the samples ``[N, G, K]``.

        Returns:
            ``[E, G]``. Where groups have samples of their own, an edge weighs 0 in other groups.
        """
        if self.num_groups is not None:
            own = torch.eye(self.num_groups, dtype=alpha.dtype, device=alpha.device)
            alpha = torch.einsum("ngk,gh->nhgk", alpha, own).flatten(2)
        weight = self.corners().weight.transpose(2, 3).flatten(1, 2).unsqueeze(3)
        return (alpha.transpose(1, 2).unsqueeze(2) * weight).flatten(0, 2)

    @staticmethod
    def cat(parts: Sequence[Neighborhood]) -> Neighborhood:
        r"""The samples of several neighborhoods of the same grids, one after the other.

        Raises:
            ValueError: If there is none, or they differ in grids or padding, or one has several
                levels.
        """
        if not parts:
            raise ValueError("parts: expected at least one neighborhood, got none")
        first, *others = parts
        for part in others:
            if len(part.levels) > 1 or len(first.levels) > 1:
                raise ValueError(f"parts: expected samples on one level, got {first} and {part}")
            same_grids = part.grid is first.grid and part.receiver is first.receiver
            same_grids = same_grids or (part.grid, part.receiver) == (first.grid, first.receiver)
            if not same_grids or part.padding_mode != first.padding_mode:
                raise ValueError(
                    f"parts: expected the grids and padding of {first} ({first.padding_mode}), "
                    f"got {part} ({part.padding_mode})"
                )
        pos = torch.cat([part.pos for part in parts], dim=-2)
        return Neighborhood(
            first.grid, pos, padding_mode=first.padding_mode, receiver=first.receiver
        )

    def __repr__(self) -> str:
        levels = "" if len(self.levels) == 1 else f", levels={self.levels}"
        return f"Neighborhood({self.grid}, num_samples={self.num_samples}{levels})"

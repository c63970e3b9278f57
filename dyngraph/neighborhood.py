"""The samples of all nodes of a grid, their corners, and the graph that they make."""

import math
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from dyngraph.grid import Grid
from dyngraph.ops.corners import Run, corners

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
        self._kept: tuple[Tensor, Tensor] | None = None
        self._is_traced = torch.compiler.is_compiling()

    @property
    def index(self) -> Tensor:
        r"""The sender node of each corner, ``[N, 2^P, K]``, a plane a corner, int32 or int64."""
        return self._corners()[0]

    @property
    def weight(self) -> Tensor:
        r"""The interpolation weight of each corner, ``[N, 2^P, K]``, a plane a corner."""
        return self._corners()[1]

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

    @property
    def runs(self) -> list[Run]:
        r"""Neighbouring maps that are equal in both grids."""
        senders, listeners = self.grid.runs, self.receiver.runs
        if [count for count, _ in senders] == [count for count, _ in listeners]:
            return [
                Run(count, math.prod(own), shape)
                for (count, shape), (_, own) in zip(senders, listeners, strict=True)
            ]
        pairs = groupby(zip(self.grid.shapes, self.receiver.shapes, strict=True))
        return [Run(len(list(run)), math.prod(own), shape) for (shape, own), run in pairs]

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

    def _corners(self) -> tuple[Tensor, Tensor]:
        """Index and weight of the corners, computed when they are first asked for."""
        if self._kept is not None and not self._misses_gradients(self._kept[1]):
            return self._kept
        found = corners(self.pos, self.runs, self.padding_mode == "border")
        # What a tracer computes from a neighbourhood outside its program is no value to keep.
        if self._is_traced or not torch.compiler.is_compiling():
            self._kept = found
        return found

    def _misses_gradients(self, weight: Tensor) -> bool:
        """Whether weights were first asked for without gradients, and are now with."""
        if not torch.is_grad_enabled():
            return False
        if self.pos.requires_grad and not weight.requires_grad:
            return True
        # Compilers cannot ask this, and do not mix inference mode with gradients.
        return not torch.compiler.is_compiling() and weight.is_inference()

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the weights would have no gradient to the copy of the positions.
        return {**self.__dict__, "_kept": None}

    def __repr__(self) -> str:
        return f"Neighborhood({self.grid}, num_samples={self.num_samples})"

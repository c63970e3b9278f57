"""Where samples should stand, found from the gradient of the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from dyngraph.grid import Grid
from dyngraph.nn.conv.repgraph_conv import RepGraphConv
from dyngraph.samplers import OffsetLinear, OffsetSampler

# Random directions stand for wide features and gradients, and cells for the nodes of long maps:
# the products of all channels of a large map would take longer than the network.
_DIRECTIONS = 16
_LENGTH = 64
# The least distance between two samples, in cells: what is found stays in view while they move.
_APART = 2.0
# Offsets that few pairs of nodes have say little: as a share of the most that any offset has.
_FEW = 0.05

_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class SampleSearch:
    r"""Finds where the samples of RepGraph's layers should stand, and puts them there.

    A learned offset follows what the map shows right around its sample, so that a sample finds what
    it happens to start near. This looks at all offsets at once. With a layer's node features
    :math:`\mathbf{x}_i`, without the mean of the batch's maps, and the gradient
    :math:`\mathbf{d}_i` of the loss with respect to its output,

    .. math::
        M(\delta) = \sum_i \mathbf{d}_i \, \mathbf{x}_{i + \delta}^\top, \qquad
        n(\delta) = \sum_i \lVert \mathbf{d}_i \rVert^2 \, \lVert \mathbf{x}_{i + \delta} \rVert^2,
        \qquad U(\delta) = \frac{\lVert M(\delta) \rVert^2}
        {n(\delta) + 0.05 \max_{\delta'} n(\delta')}

    :math:`M(\delta)` is the gradient of a linear map of what stands at offset :math:`\delta`, were
    it added to the output: what the loss misses, as far as the features there could tell. What a
    node has already learned to use has no part in it, as its gradient has vanished. Nor has what
    all maps have in common, such as sky at the top, which would hide the rest; so batches should
    have several maps of one size. (A map that is alone of its size loses the mean of its nodes.)
    Where features and gradient have nothing to do with each other, U is about 1; the second term of
    its denominator makes it smaller at offsets that few pairs of nodes have, which say little.

    Sums run over all nodes of all iterations between the construction and :meth:`place`, and over
    all processes. They are correlations, for all offsets by one Fourier transform. Start once the
    network has learned what it can without the samples, and place them while most of the training
    is still to come: between 15% and 25% of the iterations is a good time.

    Args:
        model: A model with :class:`~dyngraph.nn.RepGraphConv` layers, anywhere in it, whose samples
            are those of an :class:`~dyngraph.samplers.OffsetSampler`.

    Raises:
        ValueError: If the model has no such layer.

    Example:
        >>> import torch
        >>> from dyngraph.nn import RepGraphBlock, SampleSearch
        >>> model = RepGraphBlock(8, 4, num_samples=3)
        >>> maps = torch.randn(2, 8, 12, 12)
        >>> search = SampleSearch(model)
        >>> for _ in range(5):  # iterations of a training
        ...     loss = (model(maps) - maps - maps.roll(3, dims=2)).square().mean()
        ...     loss.backward()
        >>> found = search.place()  # what each node should listen to is three nodes above it
        >>> model.conv.sampler.offset.bias.view(3, 2)[0].tolist()
        [-3.0, 0.0]
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = {
            name: _LayerSearch(module, module.sampler.offset)
            for name, module in model.named_modules()
            if isinstance(module, RepGraphConv) and isinstance(module.sampler, OffsetSampler)
        }
        if not self._layers:
            raise ValueError("model: expected a RepGraphConv with an OffsetSampler, found none")

    def place(self) -> dict[str, Tensor]:
        r"""Puts samples at the best offsets, no two of a layer side by side, and stops searching.

        Their offsets are then the same for all nodes, and learn on from there.

        Returns:
            U of each layer, by its name in the model, ``[2 R + 1, …]`` along each axis with offset
            0 in the middle, in units of a node, or of the cell that stands for several nodes of a
            map longer than 64.

        Raises:
            RuntimeError: If no gradient has passed one of the layers. No sample is then placed.
        """
        self.stop()
        for name, layer in self._layers.items():
            if layer.moment is None or not layer.moment.any():
                raise RuntimeError(f"{name}: expected a gradient before samples are placed")
        return {name: layer.place() for name, layer in self._layers.items()}

    def stop(self) -> None:
        r"""Stops searching without a change to any sample."""
        for layer in self._layers.values():
            layer.stop()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        r"""The sums so far, for a checkpoint."""
        return {name: layer.state_dict() for name, layer in self._layers.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        r"""Continues from the sums of a checkpoint.

        Raises:
            ValueError: If they are not those of the model's layers.
        """
        if set(state) != set(self._layers):
            raise ValueError(f"state: expected sums of {[*self._layers]}, got {[*state]}")
        for name, layer in self._layers.items():
            layer.load_state_dict(state[name])


class _LayerSearch:
    """The sums of one layer: its moment M ``[C, D, *window]``, and n ``[*window]``, its scale."""

    def __init__(self, layer: RepGraphConv, offset: OffsetLinear) -> None:
        self.offset = offset
        self.cell = 1
        self.moment: Tensor | None = None
        self.scale: Tensor | None = None
        self.hook = layer.register_forward_hook(self._listen, with_kwargs=True)

    def stop(self) -> None:
        self.hook.remove()

    def state_dict(self) -> dict[str, Any]:
        return {"cell": self.cell, "moment": self.moment, "scale": self.scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        cell, moment, scale = (state.get(name) for name in ("cell", "moment", "scale"))
        if moment is scale is None:
            return
        if not (
            isinstance(cell, int)
            and cell > 0
            and isinstance(moment, Tensor)
            and isinstance(scale, Tensor)
            and moment.dtype == scale.dtype == torch.float32
            and moment.shape[2:] == scale.shape
            and scale.dim() == self.offset.num_axes
        ):
            raise ValueError(f"state: expected sums over {self.offset.num_axes} axes, got {state}")
        # Copies: what was given may go on growing elsewhere.
        device = self.offset.bias.device
        self.cell = cell
        self.moment, self.scale = moment.to(device, copy=True), scale.to(device, copy=True)

    def _listen(
        self, layer: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], out: Any
    ) -> None:
        given = dict(zip(("x", "edge_index"), inputs, strict=False)) | options
        x, grid = given["x"], given["edge_index"]
        # Not along given edges, nor where nothing is differentiated.
        if isinstance(grid, Grid) and isinstance(out, Tensor) and out.requires_grad:
            x = (x if isinstance(x, Tensor) else x[0]).detach()
            out.register_hook(lambda gradient: self._add(x, gradient, grid))

    @torch.no_grad()
    def _add(self, x: Tensor, gradient: Tensor, grid: Grid) -> None:
        # Half precision's scaled gradients sometimes overflow; the optimiser skips them too.
        if x.numel() == 0 or not gradient.isfinite().all():
            return
        x, gradient = _narrow(x.float()), _narrow(gradient.float())
        if self.moment is None:
            lengths = [max(axis) for axis in zip(*(run.shape for run in grid.runs), strict=True)]
            self.cell = -(-max(lengths) // _LENGTH)
            # All offsets inside a map.
            window = [2 * -(-length // self.cell) - 1 for length in lengths]
            self.moment = x.new_zeros(x.shape[1], gradient.shape[1], *window)
            self.scale = x.new_zeros(window)
        assert self.scale is not None
        for maps, gradients in zip(
            grid.unflatten_runs(x), grid.unflatten_runs(gradient), strict=True
        ):
            if maps.numel() == 0:
                continue
            axes = [0] if len(maps) > 1 else [*range(2, maps.dim())]
            maps = maps - maps.mean(dim=axes, keepdim=True)
            maps, gradients = _pool(maps, self.cell), _pool(gradients, self.cell)
            self.moment += _correlate(maps, gradients, self.scale.shape)
            energy, energy_of_gradient = (
                part.square().sum(dim=1, keepdim=True) for part in (maps, gradients)
            )
            self.scale += _correlate(energy, energy_of_gradient, self.scale.shape)[0, 0]

    def place(self) -> Tensor:
        moment, scale = self.moment, self.scale
        assert moment is not None
        assert scale is not None
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(moment)
            distributed.all_reduce(scale)
        # Rounding may leave a scale of nothing a little below it.
        scale = scale.clamp(min=0)
        useful = moment.square().sum(dim=(0, 1)) / (scale + _FEW * scale.max())
        chosen = self.cell * _peaks(useful, self.offset.num_samples)
        with torch.no_grad():
            bias = self.offset.bias.view(-1, self.offset.num_axes)
            bias[: len(chosen)] = chosen.to(bias)
            self.offset.weight.zero_()
        return useful


def _narrow(x: Tensor) -> Tensor:
    """``[N, C]`` in at most `_DIRECTIONS` random directions, the same ones every time."""
    channels = x.shape[1]
    if channels <= _DIRECTIONS:
        return x
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(channels, _DIRECTIONS, generator=generator) / math.sqrt(_DIRECTIONS)
    return x @ directions.to(x)


def _pool(maps: Tensor, cell: int) -> Tensor:
    """The averages of cells, of zeros beyond the end."""
    if cell == 1:
        return maps
    shape = maps.shape[2:]
    ends = [(0, -length % cell) for length in reversed(shape)]
    padded = F.pad(maps, [side for end in ends for side in end])
    return _POOL[len(shape)](padded, cell)


def _correlate(x: Tensor, y: Tensor, window: torch.Size) -> Tensor:
    """The sums over maps and nodes of ``x[i + δ] y[i]``, ``[C, D, *window]``, 0 in the middle."""
    axes = tuple(range(2, x.dim()))
    # Enough zeros that no offset of the window wraps around.
    size = [length + width // 2 for length, width in zip(x.shape[2:], window, strict=True)]
    size = [max(length, width) for length, width in zip(size, window, strict=True)]
    product = torch.einsum(
        "bc...,bd...->cd...", torch.fft.rfftn(x, size, axes), torch.fft.rfftn(y, size, axes).conj()
    )
    sums: Tensor = torch.fft.irfftn(product, size, axes)
    for axis, width in zip(axes, window, strict=True):
        sums = sums.roll(width // 2, axis).narrow(axis, 0, width)
    return sums


def _peaks(useful: Tensor, number: int) -> Tensor:
    """The best offsets, best first, at most ``number``, no two nearer than `_APART`, ``[K, P]``."""
    middle = useful.new_tensor([length // 2 for length in useful.shape])
    order = useful.flatten().argsort(descending=True)
    offsets = torch.stack(torch.unravel_index(order, useful.shape), dim=-1) - middle
    chosen: list[Tensor] = []
    while len(offsets) and len(chosen) < number:
        chosen.append(offsets[0])
        offsets = offsets[(offsets - offsets[0]).norm(dim=1) >= _APART]
    return torch.stack(chosen)

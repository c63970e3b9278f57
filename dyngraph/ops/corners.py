"""The corners of samples and their interpolation weights, as an operator."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dyngraph.ops import multilinear
from dyngraph.ops.backend import kernels, resolve_backend
from dyngraph.ops.transforms import transforms_active


class Run(NamedTuple):
    """Neighbouring maps of equal size, and the nodes that listen to them."""

    num_maps: int
    listeners_of_map: int
    shape: tuple[int, ...]
    """The P lengths of a map."""

    @property
    def num_senders(self) -> int:
        return self.num_maps * math.prod(self.shape)

    @property
    def num_listeners(self) -> int:
        return self.num_maps * self.listeners_of_map


def corners(pos: Tensor, runs: Sequence[Run], border: bool) -> tuple[Tensor, Tensor]:
    r"""The corners of samples and their interpolation weights.

    Args:
        pos: ``[N, K, P]``, in units of nodes.
        runs: The maps that the N nodes listen to.
        border: Whether positions are clamped to the map. Otherwise a corner outside weighs 0.

    Returns:
        Indices of sender nodes, int32 or int64, and weights, ``[N, 2^P, K]`` each.
    """
    num_nodes, num_samples, num_axes = pos.shape
    # Room for an index of every corner, and of every sender node with every sample.
    num_rows = max(num_nodes * 2**num_axes, sum(run.num_senders for run in runs))
    dtype = torch.int32 if num_rows * num_samples < 2**31 else torch.int64
    if not runs:
        runs = [Run(0, 0, (0,) * num_axes)]
    if len(runs) == 1:
        return _corners_of_run(pos, runs[0], border, dtype)
    start, indices, weights = 0, [], []
    for run, part in zip(runs, pos.split([run.num_listeners for run in runs]), strict=True):
        index, weight = _corners_of_run(part, run, border, dtype)
        indices.append(index + start if start and run.num_senders else index)
        weights.append(weight)
        start += run.num_senders
    return torch.cat(indices), torch.cat(weights)


def _corners_of_run(
    pos: Tensor, run: Run, border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    num_maps, _, shape = run
    if run.num_senders == 0:
        # No corner, or no sample: any index of a node will do, and weighs 0.
        planes = pos[:, None, :, 0].expand(-1, 2 ** len(shape), -1)
        weight = planes.masked_fill(torch.ones((), dtype=torch.bool, device=pos.device), 0)
        return weight.to(dtype), weight
    backend = resolve_backend("auto", pos.device)
    if backend == "pyg" or transforms_active():
        index, weight = multilinear.corners(pos, shape, border, dtype)
        by_map = index.unflatten(0, (num_maps, index.shape[0] // num_maps))
        return (by_map + multilinear.first_nodes(shape, num_maps, index)).flatten(0, 1), weight
    return _corners(pos, shape, num_maps, border, dtype, backend)


@torch.library.custom_op("dyngraph::corners", mutates_args=())
def _corners(
    pos: Tensor,
    shape: Sequence[int],
    num_maps: int,
    border: bool,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return kernels(backend).corners(pos, shape, num_maps, border, dtype)


@torch.library.custom_op("dyngraph::corners_backward", mutates_args=())
def _corners_backward(
    grad_weight: Tensor, pos: Tensor, shape: Sequence[int], border: bool, backend: str
) -> Tensor:
    return kernels(backend).corners_backward(grad_weight, pos, shape, border)


@_corners.register_fake
def _(pos, shape, num_maps, border, dtype, backend):
    size = (pos.shape[0], 2 ** pos.shape[2], pos.shape[1])
    return pos.new_empty(size, dtype=dtype), pos.new_empty(size)


@_corners_backward.register_fake
def _(grad_weight, pos, shape, border, backend):
    return pos.new_empty(pos.shape)


def _setup(ctx, inputs, output):
    pos, ctx.shape, _, ctx.border, _, ctx.backend = inputs
    ctx.mark_non_differentiable(output[0])
    ctx.save_for_backward(pos)


def _backward(ctx, _, grad_weight):
    (pos,) = ctx.saved_tensors
    if torch.is_grad_enabled() or transforms_active():
        grad_pos = multilinear.corners_backward(grad_weight, pos, ctx.shape, ctx.border)
    else:
        grad_pos = _corners_backward(grad_weight, pos, ctx.shape, ctx.border, ctx.backend)
    return grad_pos, None, None, None, None, None


_corners.register_autograd(_backward, setup_context=_setup)

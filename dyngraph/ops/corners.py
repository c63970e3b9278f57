"""The corners of samples and their interpolation weights, as an operator."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dyngraph.ops import multilinear
from dyngraph.ops.backend import kernels, resolve_backend


def corners(
    pos: Tensor, shape: Sequence[int], num_maps: int, border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    r"""The corners of samples on maps of one shape.

    Args:
        pos: ``[N, K, P]``, in units of nodes.
        shape: The P lengths of a map.
        num_maps: The number of maps, of N / ``num_maps`` listening nodes each.
        border: Whether positions are clamped to the map. Otherwise a corner outside weighs 0.
        dtype: The dtype of indices.

    Returns:
        Indices of sender nodes and weights, ``[N, 2^P, K]`` each.
    """
    backend = resolve_backend("auto", pos.device)
    if backend == "pyg":
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
    if torch.is_grad_enabled():
        grad_pos = multilinear.corners_backward(grad_weight, pos, ctx.shape, ctx.border)
    else:
        grad_pos = _corners_backward(grad_weight, pos, ctx.shape, ctx.border, ctx.backend)
    return grad_pos, None, None, None, None, None


_corners.register_autograd(_backward, setup_context=_setup)

"""The corners of samples and their interpolation weights, as an operator."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dyngraph import multilinear
from dyngraph.derivatives import transforms_active
from dyngraph.multilinear import unflatten_maps
from dyngraph.ops.kernels import load_kernels


@torch.library.custom_op("dyngraph::corners", mutates_args=())
def corners(
    pos: Tensor, maps: Sequence[int], border: bool, dtype: torch.dtype, backend: str
) -> tuple[Tensor, Tensor]:
    r"""Index and weight of each corner, ``[N, H, K, P] -> [N, H, 2^P, K]`` each.

    Args:
        pos: In units of nodes. H is the number of groups with samples of their own, else 1.
        maps: The maps that the N nodes listen to, by :func:`~dyngraph.multilinear.flatten_maps`.
        border: Whether positions are clamped to the map. Otherwise a corner outside weighs 0.
        dtype: The dtype of indices.
        backend: Whose kernels carry it out.
    """
    return load_kernels(backend).corners(pos, unflatten_maps(maps, pos), border, dtype)


@torch.library.custom_op("dyngraph::corners_backward", mutates_args=())
def corners_backward(
    grad_weight: Tensor, pos: Tensor, maps: Sequence[int], border: bool, backend: str
) -> Tensor:
    r"""The gradient of positions, ``[N, H, K, P]``."""
    return load_kernels(backend).corners_backward(
        grad_weight, pos, unflatten_maps(maps, pos), border
    )


@corners.register_fake
def _(
    pos: Tensor, maps: Sequence[int], border: bool, dtype: torch.dtype, backend: str
) -> tuple[Tensor, Tensor]:
    size = (*pos.shape[:2], 2 ** pos.shape[3], pos.shape[2])
    return pos.new_empty(size, dtype=dtype), pos.new_empty(size)


@corners_backward.register_fake
def _(grad_weight: Tensor, pos: Tensor, maps: Sequence[int], border: bool, backend: str) -> Tensor:
    return pos.new_empty(pos.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    pos, ctx.maps, ctx.border, _, ctx.backend = inputs
    ctx.mark_non_differentiable(output[0])
    ctx.save_for_backward(pos)


def _backward(ctx: Any, _: Tensor | None, grad_weight: Tensor) -> tuple[Tensor | None, ...]:
    (pos,) = ctx.saved_tensors
    if torch.is_grad_enabled() or transforms_active():
        maps = unflatten_maps(ctx.maps, pos)
        grad_pos = multilinear.corners_backward(grad_weight, pos, maps, ctx.border)
    else:
        grad_pos = corners_backward(grad_weight, pos, ctx.maps, ctx.border, ctx.backend)
    return grad_pos, None, None, None, None


corners.register_autograd(_backward, setup_context=_setup)

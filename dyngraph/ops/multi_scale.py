"""Multi-scale deformable attention, with the shapes that its users know."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dyngraph.multilinear import Level, Maps
from dyngraph.ops.precision import accumulator
from dyngraph.ops.sampled import sum_at_positions


def multi_scale_deformable_attention(
    value: Tensor,
    value_spatial_shapes: Tensor | Sequence[Sequence[int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    r"""Weighted sums of samples on several maps of an image: the core of Deformable DETR.

    `Deformable DETR <https://arxiv.org/abs/2010.04159>`_, Eq. 3, without its projections: for query
    q and head m

    .. math::
        \mathbf{y}_{q,m} = \sum_{l,p} A_{mlqp} \, \mathbf{v}^l_m(\phi_l(\hat{\mathbf{p}}_{mlqp}))

    where :math:`\phi_l` scales locations, from 0 to 1, to the map of level l. Nodes are the centres
    of its pixels, and what is sampled outside of it is 0.

    Args:
        value: ``[B, S, heads, d]``, the maps of each image, level after level, row-major.
        value_spatial_shapes: The ``L`` shapes of the maps, (height, width) each, or with three
            lengths those of volumes. A list is read as it is; a tensor has to be on a CPU, or makes
            the caller wait for its device.
        sampling_locations: ``[B, Q, heads, L, points, 2]``, (x, y) in units of maps; or (x, y, z)
            of volumes, whose shapes are (depth, height, width).
        attention_weights: ``[B, Q, heads, L, points]``.
        backend: ``"auto"``, ``"pyg"``, ``"torch"``, ``"native"`` or ``"triton"``.

    Returns:
        ``[B, Q, heads * d]``, in the dtype of ``value``.

    Raises:
        TypeError: If ``value`` is not of a floating-point dtype.
        ValueError: If shapes or devices don't fit, or ``backend`` is unknown or can't serve the
            call.

    Equivalent PyTorch:
        >>> import torch
        >>> from torch.nn.functional import grid_sample
        >>> from dyngraph.ops import multi_scale_deformable_attention
        >>> shapes = [(4, 5), (2, 3)]
        >>> value, locations = torch.randn(2, 26, 8, 4), torch.rand(2, 7, 8, 2, 3, 2)
        >>> weights = torch.rand(2, 7, 8, 2, 3)
        >>> out = multi_scale_deformable_attention(value, shapes, locations, weights)
        >>> levels, same = value.split([20, 6], dim=1), 0
        >>> for l, (shape, level) in enumerate(zip(shapes, levels)):
        ...     maps = level.permute(0, 2, 3, 1).reshape(16, 4, *shape)
        ...     place = 2 * locations[:, :, :, l].transpose(1, 2).flatten(0, 1) - 1
        ...     samples = grid_sample(maps, place, align_corners=False).view(2, 8, 4, 7, 3)
        ...     same = same + torch.einsum("bhcqp,bqhp->bqhc", samples, weights[:, :, :, l])
        >>> torch.allclose(out, same.flatten(2), atol=1e-5)
        True
    """
    shapes = _shapes(value_spatial_shapes)
    _check(value, shapes, sampling_locations, attention_weights)
    num_points = [sampling_locations.shape[4]] * len(shapes)
    locations, weights = sampling_locations.flatten(3, 4), attention_weights.flatten(3)
    return sum_over_levels(value, shapes, locations, weights, num_points, backend=backend)


def sum_over_levels(
    value: Tensor,
    shapes: Sequence[Sequence[int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
    *,
    backend: str = "auto",
) -> Tensor:
    r"""The same where levels may differ in their numbers of points, whose sum is K.

    Of the shapes it checks those that could make it read out of bounds.

    ``[B, S, heads, d], [B, Q, heads, K, P], [B, Q, heads, K] -> [B, Q, heads * d]``.
    """
    num_senders = sum(math.prod(shape) for shape in shapes)
    if value.shape[1] != num_senders:
        raise ValueError(
            f"value: expected a row for each of the {num_senders} nodes of maps of sizes {shapes}, "
            f"got {value.shape[1]}"
        )
    batch_size, _, heads, channels = value.shape
    num_queries = locations.shape[1]
    dtype = accumulator(value.dtype)
    levels = tuple(
        Level(count, tuple(shape)) for count, shape in zip(num_points, shapes, strict=True)
    )
    # Nodes are the centres of pixels, whose first is half a pixel from the edge.
    sizes = locations.new_tensor(
        [shape for count, shape in levels for _ in range(count)], dtype=dtype
    )
    # By long rows: PyTorch multiplies by short ones ten times slower. And its flip takes twice as
    # long as to take coordinates apart.
    pos = torch.stack(locations.to(dtype).unbind(-1)[::-1], dim=-1)
    pos = torch.addcmul(sizes.new_tensor(-0.5), pos.flatten(3), sizes.flatten())
    pos = pos.view(batch_size * num_queries, heads, *sizes.shape)
    out = sum_at_positions(
        weights.flatten(0, 1),
        value.flatten(0, 1).flatten(1),
        pos,
        [Maps(batch_size, num_queries, levels)],
        border=False,
        backend=backend,
    )
    return out.to(value.dtype).view(batch_size, num_queries, heads * channels)


def _shapes(value_spatial_shapes: Tensor | Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    if isinstance(value_spatial_shapes, Tensor):
        value_spatial_shapes = value_spatial_shapes.tolist()
    return [tuple(shape) for shape in value_spatial_shapes]


def _check(
    value: Tensor, shapes: list[tuple[int, ...]], locations: Tensor, weights: Tensor
) -> None:
    if value.dim() != 4:
        raise ValueError(f"value: expected shape [B, S, heads, d], got {list(value.shape)}")
    if not value.is_floating_point():
        raise TypeError(f"value: expected floating-point features, got {value.dtype}")
    num_axes = len(shapes[0]) if shapes else 0
    if num_axes not in (1, 2, 3) or any(len(shape) != num_axes for shape in shapes):
        raise ValueError(
            f"value_spatial_shapes: expected the shape of each level, of 1, 2 or 3 lengths, "
            f"got {shapes}"
        )
    batch_size, _, heads, _ = value.shape
    fits = locations.dim() == 6 and (locations.shape[0], *locations.shape[2:4]) == (
        batch_size,
        heads,
        len(shapes),
    )
    if not fits or locations.shape[5] != num_axes:
        raise ValueError(
            f"sampling_locations: expected shape [B, Q, heads, L, points, P] = "
            f"[{batch_size}, Q, {heads}, {len(shapes)}, points, {num_axes}], "
            f"got {list(locations.shape)}"
        )
    if weights.shape != locations.shape[:5]:
        raise ValueError(
            f"attention_weights: expected shape {list(locations.shape[:5])}, "
            f"got {list(weights.shape)}"
        )
    for name, tensor in (("sampling_locations", locations), ("attention_weights", weights)):
        if tensor.device != value.device:
            raise ValueError(
                f"{name}: expected it on {value.device}, as value is, got it on {tensor.device}"
            )

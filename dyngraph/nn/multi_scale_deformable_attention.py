"""The attention of Deformable DETR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyngraph.nn.deformable_attention import reset_projections, reset_samples
from dyngraph.ops import multi_scale_deformable_attention


class MultiScaleDeformableAttention(nn.Module):
    r"""Queries that sample several maps, where they say, as much as they say.

    .. math::
        \mathbf{y}_q = W \Big[ \sum_{l,p} A_{mlqp} \,
        (V \mathbf{x}^l)_m(\phi_l(\hat{\mathbf{p}}_q) + \Delta_{mlqp}) \Big]_{m = 1, 2, \dots}

    From "Deformable DETR: Deformable Transformers for End-to-End Object Detection" (ICLR 2021,
    `arXiv:2010.04159 <https://arxiv.org/abs/2010.04159>`__), Eq. 3. Offsets Δ and the logits of
    attention A are linear in the query. Parameters are named as in the official code and in
    transformers, whose weights can be loaded.

    Args:
        channels: The channels of queries, maps and results.
        num_levels: L, the number of maps.
        heads: The number of heads, each with channels and samples of its own.
        num_points: The number of samples of a head on a map.
        backend: The backend of :func:`~dyngraph.ops.multi_scale_deformable_attention`.

    Raises:
        ValueError: If ``heads`` does not divide ``channels``, or a number is not positive.

    Shapes:
        - **input:** queries ``[B, Q, C]``, reference points ``[B, Q, L, 2]`` or ``[B, Q, L, 4]``,
          values ``[B, S, C]``
        - **output:** ``[B, Q, C]``

    Example:
        >>> import torch
        >>> from dyngraph.nn import MultiScaleDeformableAttention
        >>> attention = MultiScaleDeformableAttention(32, num_levels=2)
        >>> query, points = torch.randn(1, 7, 32), torch.rand(1, 7, 2, 2)
        >>> attention(query, points, torch.randn(1, 26, 32), [(4, 5), (2, 3)]).shape
        torch.Size([1, 7, 32])
    """

    def __init__(
        self,
        channels: int,
        *,
        num_levels: int = 4,
        heads: int = 8,
        num_points: int = 4,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if heads < 1 or channels < 1 or channels % heads:
            raise ValueError(f"heads: expected a divisor of {channels} channels, got {heads}")
        for name, number in (("num_levels", num_levels), ("num_points", num_points)):
            if number < 1:
                raise ValueError(f"{name}: expected a positive number, got {number}")
        self.channels = channels
        self.num_levels = num_levels
        self.heads = heads
        self.num_points = num_points
        self.backend = backend
        num_samples = heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(channels, 2 * num_samples)
        self.attention_weights = nn.Linear(channels, num_samples)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Samples start where each head looks in a direction of its own, with equal weights."""
        samples = (self.heads, self.num_levels, self.num_points)
        reset_samples(self.sampling_offsets, self.attention_weights, *samples)
        reset_projections(self.value_proj, self.output_proj)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        value_spatial_shapes: Tensor | Sequence[Sequence[int]],
        *,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        r"""The results ``[B, Q, C]``.

        Args:
            query: ``[B, Q, C]``.
            reference_points: ``[B, Q, L, 2]``, (x, y) from 0 to 1: where on each map a query looks;
                or ``[B, Q, L, 4]``, boxes (x, y, width, height) whose halves are then the units of
                offsets, over the number of points. Otherwise these are nodes.
            value: ``[B, S, C]``, the maps of each image, level after level, row-major.
            value_spatial_shapes: The ``L`` shapes of the maps, (height, width) each; a list saves
                waiting for a tensor's device.
            key_padding_mask: ``[B, S]``, true where a map is padded. It is 0 there.

        Raises:
            ValueError: If shapes or devices don't fit.
        """
        if isinstance(value_spatial_shapes, Tensor):
            value_spatial_shapes = value_spatial_shapes.tolist()
        shapes = [tuple(shape) for shape in value_spatial_shapes]
        self._check(query, reference_points, value, shapes, key_padding_mask)
        table = self.value_proj(value)
        if key_padding_mask is not None:
            table = table.masked_fill(key_padding_mask.unsqueeze(2), 0)
        out = multi_scale_deformable_attention(
            table.unflatten(2, (self.heads, -1)),
            shapes,
            *self.sample(query, reference_points, shapes),
            backend=self.backend,
        )
        y: Tensor = self.output_proj(out)
        return y

    def sample(
        self, query: Tensor, reference_points: Tensor, shapes: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        r"""Where queries look, ``[B, Q, heads, L, points, 2]`` (x, y), and how much, without the 2.

        Args:
            query: As in :meth:`forward`.
            reference_points: Likewise.
            shapes: The shapes of the maps.
        """
        batch_size, num_queries, _ = query.shape
        samples = (batch_size, num_queries, self.heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).view(*samples, 2)
        logits = self.attention_weights(query).view(*samples[:3], -1)
        points = reference_points.unsqueeze(3).unsqueeze(2)
        if reference_points.shape[3] == 4:
            points, sizes = points.split(2, dim=5)
            locations = points + offsets * sizes * (0.5 / self.num_points)
        else:
            sizes = offsets.new_tensor([shape[::-1] for shape in shapes])
            locations = points + offsets / sizes.unsqueeze(1)
        return locations, logits.softmax(dim=3).view(samples)

    def _check(
        self,
        query: Tensor,
        points: Tensor,
        value: Tensor,
        shapes: Sequence[Sequence[int]],
        mask: Tensor | None,
    ) -> None:
        for name, tensor in (("query", query), ("value", value)):
            if tensor.dim() != 3 or tensor.shape[2] != self.channels:
                raise ValueError(
                    f"{name}: expected shape [B, N, C] with {self.channels} channels, "
                    f"got {list(tensor.shape)}"
                )
        if len(shapes) != self.num_levels:
            raise ValueError(
                f"value_spatial_shapes: expected {self.num_levels} levels, got {len(shapes)}"
            )
        expected = [*query.shape[:2], self.num_levels]
        if points.dim() != 4 or [*points.shape[:3]] != expected or points.shape[3] not in (2, 4):
            raise ValueError(
                f"reference_points: expected shape {[*expected, 2]} or {[*expected, 4]}, "
                f"got {list(points.shape)}"
            )
        if mask is not None and (mask.shape != value.shape[:2] or mask.dtype != torch.bool):
            raise ValueError(
                f"key_padding_mask: expected booleans of shape {list(value.shape[:2])}, "
                f"got {mask.dtype} of shape {list(mask.shape)}"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, num_levels={self.num_levels}, heads={self.heads}, "
            f"num_points={self.num_points}"
        )

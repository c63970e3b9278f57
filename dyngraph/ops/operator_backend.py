"""The backends ``"torch"`` and ``"triton"``: operators on corners, no ``[N, K, C]`` tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dyngraph.ops.attention import attention
from dyngraph.ops.position_attention import flatten_runs, position_attention
from dyngraph.ops.primitives import gather_dot, gather_sum, scatter_sum
from dyngraph.ops.project import project

if TYPE_CHECKING:
    from dyngraph.neighborhood import Neighborhood


class OperatorBackend:
    r"""The functions of a backend, made of the operators of :mod:`torch.library`.

    Args:
        kernels: Who carries the operators out, ``"torch"`` or ``"triton"``.
    """

    def __init__(self, kernels: str) -> None:
        self.kernels = kernels

    def interpolate(self, x: Tensor, near: Neighborhood, weight: Tensor) -> Tensor:
        index, weight = _sample_corners(near, weight)
        return gather_sum(weight, x, index, self.kernels).view(*near.pos.shape[:2], x.shape[1])

    def scatter_interpolate(self, values: Tensor, near: Neighborhood, weight: Tensor) -> Tensor:
        index, weight = _sample_corners(near, weight)
        return scatter_sum(weight, values.flatten(0, 1), index, near.grid.num_nodes, self.kernels)

    def sampled_score(
        self, query: Tensor, key: Tensor, near: Neighborhood, weight: Tensor, groups: int
    ) -> Tensor:
        corner_score = gather_dot(query, key, near.index.flatten(1), groups, self.kernels)
        return (corner_score.view(groups, *weight.shape) * weight).sum(dim=2).transpose(0, 1)

    def sampled_sum(
        self, attention: Tensor, value: Tensor, near: Neighborhood, weight: Tensor
    ) -> Tensor:
        corner_weight = (attention.transpose(0, 1).unsqueeze(2) * weight).flatten(2)
        return gather_sum(corner_weight, value, near.index.flatten(1), self.kernels)

    def sampled_convolution(
        self, x: Tensor, filters: Tensor, near: Neighborhood, weight: Tensor
    ) -> Tensor:
        # Interpolation is linear: project the table once, then sample the projections of each tap.
        num_outputs, _, num_samples = filters.shape
        by_tap = filters.permute(2, 0, 1).flatten(0, 1)
        projected = project(x, by_tap).to(x.dtype).view(x.shape[0] * num_samples, num_outputs)
        tap = torch.arange(num_samples, dtype=near.index.dtype, device=x.device)
        # For all corners at once: a CPU adds long rows faster.
        taps = tap.repeat(weight.shape[1])
        index = torch.add(taps, near.index.flatten(1), alpha=num_samples)
        return gather_sum(weight.flatten(1).unsqueeze(0), projected, index, self.kernels)

    def sampled_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        near: Neighborhood,
        groups: int,
        scale: float,
        bias: Tensor | None,
        recompute: bool,
    ) -> tuple[Tensor, Tensor]:
        own_value = None if value is key else value
        if self.kernels == "triton":
            runs, border = flatten_runs(near.runs), near.padding_mode == "border"
            return position_attention(
                query, key, own_value, near.pos, bias, groups, scale, runs, border
            )
        weight = near.weight.to(query.dtype)
        recompute = recompute or not torch.is_grad_enabled()
        bias = None if bias is None else bias.transpose(0, 1)
        out, alpha, _ = attention(
            query, key, own_value, near.index, weight, bias, groups, scale, recompute
        )
        return out, alpha.transpose(0, 1)


def _sample_corners(near: Neighborhood, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Indices ``[N * K, 2^P]`` and weights ``[1, N * K, 2^P]`` with a row for every sample."""
    corners = weight.shape[1]
    index = near.index.transpose(1, 2).reshape(-1, corners)
    return index, weight.transpose(1, 2).reshape(1, -1, corners)

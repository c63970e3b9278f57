"""The ``"pyg"`` backend: materialised edges and ``propagate``, the reference for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

if TYPE_CHECKING:
    from dyngraph.neighborhood import Neighborhood


class EdgeSum(MessagePassing):
    r"""The weighted sum :math:`\mathbf{y}_i = \sum_j w_{j,i} \, \mathbf{x}_j` over given edges."""

    def __init__(self) -> None:
        super().__init__(aggr="add", node_dim=0)

    def forward(
        self, x: Tensor, edge_index: Tensor, weight: Tensor, size: tuple[int, int]
    ) -> Tensor:
        # propagate_type: (x: Tensor, weight: Tensor)
        return self.propagate(edge_index, x=x, weight=weight, size=size)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return weight * x_j


def _sample_edges(near: Neighborhood) -> Tensor:
    """Edges from each corner to its sample (number n K + k for node n), ``[2, N * K * 2^P]``."""
    source = near.corner_index
    num_samples = source.shape[0] * source.shape[1]
    target = torch.arange(num_samples, device=source.device).repeat_interleave(source.shape[2])
    return torch.stack([source.flatten(), target])


def interpolate(x: Tensor, near: Neighborhood, weight: Tensor) -> Tensor:
    num_nodes, _, num_samples = weight.shape
    edge_weight = weight.transpose(1, 2).reshape(-1, 1)
    size = (x.shape[0], num_nodes * num_samples)
    out = EdgeSum()((x, None), _sample_edges(near), edge_weight, size)
    return out.view(num_nodes, num_samples, x.shape[1])


def scatter_interpolate(values: Tensor, near: Neighborhood, weight: Tensor) -> Tensor:
    edge_weight = weight.transpose(1, 2).reshape(-1, 1)
    samples = values.flatten(0, 1)
    size = (samples.shape[0], near.grid.num_nodes)
    return EdgeSum()((samples, None), _sample_edges(near).flip(0), edge_weight, size)


def sampled_score(
    query: Tensor, key: Tensor, near: Neighborhood, weight: Tensor, groups: int
) -> Tensor:
    samples = interpolate(key, near, weight).unflatten(2, (groups, -1))
    # Products and sums, here and below: autocast would round a matrix product.
    return (query.unflatten(1, (groups, -1)).unsqueeze(1) * samples).sum(dim=-1).transpose(1, 2)


def sampled_sum(attention: Tensor, value: Tensor, near: Neighborhood, weight: Tensor) -> Tensor:
    edge_index, _ = near.edge_index()
    groups = attention.shape[1]
    corner_weight = attention.unsqueeze(1) * weight.unsqueeze(2)
    edge_weight = corner_weight.permute(0, 3, 1, 2).reshape(-1, groups, 1)
    x = value.unflatten(1, (groups, -1))
    size = (value.shape[0], attention.shape[0])
    return EdgeSum()((x, None), edge_index, edge_weight, size).flatten(1)


def sampled_convolution(x: Tensor, filters: Tensor, near: Neighborhood, weight: Tensor) -> Tensor:
    samples = interpolate(x, near, weight).transpose(1, 2).flatten(1)
    return samples @ filters.flatten(1).t()


def sampled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    near: Neighborhood,
    groups: int,
    scale: float,
    bias: Tensor | None,
    recompute: bool,
) -> tuple[Tensor, Tensor]:
    weight = near.weight.to(query.dtype)
    score = scale * sampled_score(query, key, near, weight, groups)
    alpha = (score if bias is None else score + bias).softmax(dim=-1)
    return sampled_sum(alpha, value, near, weight), alpha

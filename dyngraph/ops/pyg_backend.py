"""The operators on materialised edges, summed by PyG's ``scatter``: the backend ``"pyg"``.

The reference for the others, made of standard operators. On a grid, layers with this backend pass
their messages along the same edges by their own ``propagate`` instead.

Rows are taken by ``index_select``, whose gradient has the same bits in every run; that of plain
indexing has not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch_geometric.utils import scatter

if TYPE_CHECKING:
    from dyngraph.neighborhood import Neighborhood


def _edges(near: Neighborhood, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Source, target, number of the sample (n K + k for node n) and weight of each edge."""
    (source, target), _, sample = near.edges()
    sample = target * near.num_samples + sample
    return source, target, sample, weight.transpose(1, 2).flatten()


def interpolate(x: Tensor, near: Neighborhood, weight: Tensor) -> Tensor:
    num_nodes, _, num_samples = weight.shape
    source, _, sample, edge_weight = _edges(near, weight)
    messages = edge_weight.unsqueeze(1) * x.index_select(0, source)
    out = scatter(messages, sample, dim=0, dim_size=num_nodes * num_samples, reduce="sum")
    return out.view(num_nodes, num_samples, x.shape[1])


def scatter_interpolate(values: Tensor, near: Neighborhood, weight: Tensor) -> Tensor:
    source, _, sample, edge_weight = _edges(near, weight)
    messages = edge_weight.unsqueeze(1) * values.flatten(0, 1).index_select(0, sample)
    return scatter(messages, source, dim=0, dim_size=near.grid.num_nodes, reduce="sum")


def sampled_score(
    query: Tensor, key: Tensor, near: Neighborhood, weight: Tensor, groups: int
) -> Tensor:
    samples = interpolate(key, near, weight).unflatten(2, (groups, -1))
    # Products and sums, here and below: autocast would round a matrix product.
    return (query.unflatten(1, (groups, -1)).unsqueeze(1) * samples).sum(dim=-1).transpose(1, 2)


def sampled_sum(attention: Tensor, value: Tensor, near: Neighborhood, weight: Tensor) -> Tensor:
    source, target, sample, edge_weight = _edges(near, weight)
    num_nodes, groups, _ = attention.shape
    alpha = attention.transpose(1, 2).flatten(0, 1).index_select(0, sample)
    alpha = alpha * edge_weight.unsqueeze(1)
    messages = alpha.unsqueeze(2) * value.unflatten(1, (groups, -1)).index_select(0, source)
    return scatter(messages, target, dim=0, dim_size=num_nodes, reduce="sum").flatten(1)


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

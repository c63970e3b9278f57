"""The operators on materialised edges, summed by PyG's ``scatter``: the backend ``"pyg"``.

The reference for the others, made of standard operators, which PyTorch differentiates and exports
in all its ways. On a grid, layers with this backend pass their messages along the same edges by
their own ``propagate`` instead.

Rows are taken by ``index_select``, whose gradient has the same bits in every run; that of plain
indexing has not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from dyngraph.neighborhood import Corners


def interpolate(x: Tensor, corners: Corners) -> Tensor:
    r"""``[M, C] -> [N, H, K, C / H]``."""
    num_nodes, own, _, num_samples = corners.weight.shape
    source, sample, weight = _edges(corners)
    rows = x.reshape(len(x) * own, x.shape[1] // own)
    messages = weight.unsqueeze(1) * rows.index_select(0, source)
    out: Tensor = scatter(
        messages, sample, dim=0, dim_size=num_nodes * own * num_samples, reduce="sum"
    )
    return out.view(num_nodes, own, num_samples, rows.shape[1])


def scatter_interpolate(values: Tensor, corners: Corners, num_senders: int) -> Tensor:
    r"""``[N, H, K, C / H] -> [M, C]``."""
    own = values.shape[1]
    source, sample, weight = _edges(corners)
    messages = weight.unsqueeze(1) * values.flatten(0, 2).index_select(0, sample)
    out: Tensor = scatter(messages, source, dim=0, dim_size=num_senders * own, reduce="sum")
    return out.view(num_senders, own * values.shape[3])


def sampled_score(query: Tensor, key: Tensor, corners: Corners, groups: int) -> Tensor:
    r"""``[N, C], [M, C] -> [N, G, K]``."""
    samples = _of_groups(interpolate(key, corners), groups)
    # Products and sums, here and below: autocast would round a matrix product.
    score: Tensor = (query.unflatten(1, (groups, 1, -1)) * samples).sum(dim=-1)
    return score


def sampled_sum(weight: Tensor, value: Tensor, corners: Corners) -> Tensor:
    r"""``[N, G, K], [M, C] -> [N, C]``."""
    samples = _of_groups(interpolate(value, corners), weight.shape[1])
    return (weight.unsqueeze(-1) * samples).sum(dim=2).flatten(1)


def sampled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    corners: Corners,
    groups: int,
    scale: float,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    r"""``[N, C], [M, C], [M, C'] -> [N, C'], [N, G, K]``."""
    score = scale * sampled_score(query, key, corners, groups)
    alpha = (score if bias is None else score + bias).softmax(dim=-1)
    return sampled_sum(alpha, value, corners), alpha


def _edges(corners: Corners) -> tuple[Tensor, Tensor, Tensor]:
    """Of each edge the sender's slice of channels, the sample, and the weight, ``[E]`` each."""
    num_nodes, own, num_corners, num_samples = corners.weight.shape
    device = corners.index.device
    slice_of = corners.index.long() * own + torch.arange(own, device=device).view(-1, 1, 1)
    sample = torch.arange(num_nodes * own * num_samples, device=device)
    sample = sample.view(num_nodes, own, 1, num_samples).expand(-1, -1, num_corners, -1)
    return slice_of.flatten(), sample.flatten(), corners.weight.flatten()


def _of_groups(samples: Tensor, groups: int) -> Tensor:
    """The samples of each group, ``[N, H, K, C / H] -> [N, G, K, C / G]``."""
    if samples.shape[1] > 1:
        return samples
    by_group: Tensor = samples.squeeze(1).unflatten(2, (groups, -1))
    return by_group.transpose(1, 2)

"""The kernels of :mod:`dyngraph.ops.operators.edges`."""

from __future__ import annotations

import torch
from torch import Tensor

from dyngraph.ops.kernels.pytorch.rows import (
    dot_rows,
    is_read_often,
    reorder,
    sum_rows,
    transpose_index,
)
from dyngraph.ops.large_pages import new_output
from dyngraph.ops.precision import accumulator


def gather_dot(x: Tensor, table: Tensor, index: Tensor, groups: int) -> Tensor:
    num_nodes, _, degree = index.shape
    if (of_all := _as_one_group(index, len(table))) is not None:
        x, table = _rows_of_groups(x, groups), _rows_of_groups(table, groups)
        return gather_dot(x, table, of_all, 1).view(num_nodes, groups, degree)
    out = x.new_empty(num_nodes, groups, degree, dtype=accumulator(x.dtype))
    blocks = zip(x.chunk(groups, dim=1), table.chunk(groups, dim=1), strict=True)
    for g, (block, rows) in enumerate(blocks):
        out[:, g] = dot_rows(block, rows, of_group(index, g))
    return out


def gather_sum(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    groups = weight.shape[1]
    if (of_all := _as_one_group(index, len(table))) is not None:
        weight = _rows_of_groups(weight.flatten(1), groups).unsqueeze(1)
        out = gather_sum(weight, _rows_of_groups(table, groups), of_all)
        return out.view(len(index), table.shape[1])
    if groups == 1:
        return sum_rows(index[:, 0], [(weight[:, 0], table)])
    out = new_output(table, (len(index), table.shape[1]))
    blocks = zip(table.chunk(groups, dim=1), out.chunk(groups, dim=1), strict=True)
    for g, (rows, block) in enumerate(blocks):
        sum_rows(of_group(index, g), [(weight[:, g], rows)], out=block)
    return out


def scatter_sum(weight: Tensor, x: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """As a gather over the transposed graph, without atomics: equal in every run."""
    groups = weight.shape[1]
    if (of_all := _as_one_group(index, num_rows)) is not None:
        weight = _rows_of_groups(weight.flatten(1), groups).unsqueeze(1)
        out = scatter_sum(weight, _rows_of_groups(x, groups), of_all, num_rows * groups)
        return out.view(num_rows, x.shape[1])
    if groups == 1:
        node, order, ptr = _transposed(index[:, 0], num_rows)
        return sum_rows(node, [(reorder(weight[:, 0], order), x)], ptr)
    out = new_output(x, (num_rows, x.shape[1]))
    blocks = zip(x.chunk(groups, dim=1), out.chunk(groups, dim=1), strict=True)
    for g, (rows, block) in enumerate(blocks):
        if g < index.shape[1]:
            node, order, ptr = _transposed(index[:, g], num_rows)
        sum_rows(node, [(reorder(weight[:, g], order), rows)], ptr, out=block)
    return out


def of_group(index: Tensor, g: int) -> Tensor:
    r"""What a group listens to, ``[N, H, ...] -> [N, ...]``: its own, or what all share."""
    return index[:, g if index.shape[1] > 1 else 0]


def _transposed(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""The transposed graph: nodes ``[N * L]``, the order of their edges, and where rows start."""
    order, ptr = transpose_index(index, num_rows)
    return order // max(index.shape[1], 1), order, ptr


def _as_one_group(index: Tensor, num_rows: int) -> Tensor | None:
    r"""Rows of a table as rows of its groups, ``[N, G, L] -> [N G, 1, L]``.

    None where groups share their rows, or use them so often that each goes faster by itself.
    """
    num_nodes, own, degree = index.shape
    too_many = own * num_rows > torch.iinfo(index.dtype).max
    if own == 1 or too_many or is_read_often(num_nodes * degree, num_rows):
        return None
    group = torch.arange(own, dtype=index.dtype, device=index.device).unsqueeze(1)
    return (index * own + group).view(num_nodes * own, 1, degree)


def _rows_of_groups(features: Tensor, groups: int) -> Tensor:
    r"""``[N, C] -> [N G, C / G]``."""
    return features.reshape(len(features) * groups, features.shape[1] // groups)

"""The kernels of :mod:`dyngraph.ops.operators.edges`."""

from __future__ import annotations

from torch import Tensor

from dyngraph.ops.kernels.pytorch.rows import dot_rows, fill, reorder, sum_rows, transpose_index
from dyngraph.ops.precision import accumulator


def gather_dot(x: Tensor, table: Tensor, index: Tensor, groups: int) -> Tensor:
    num_nodes, _, degree = index.shape
    out = x.new_empty(num_nodes, groups, degree, dtype=accumulator(x.dtype))
    blocks = zip(x.chunk(groups, dim=1), table.chunk(groups, dim=1), strict=True)
    for g, (block, rows) in enumerate(blocks):
        out[:, g] = dot_rows(block, rows, of_group(index, g))
    return out


def gather_sum(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    groups = weight.shape[1]
    out = table.new_empty(len(index), table.shape[1])
    blocks = zip(table.chunk(groups, dim=1), out.chunk(groups, dim=1), strict=True)
    for g, (rows, block) in enumerate(blocks):
        fill(block, sum_rows(of_group(index, g), [(weight[:, g], rows)]))
    return out


def scatter_sum(weight: Tensor, x: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """As a gather over the transposed graph, without atomics: equal in every run."""
    groups = weight.shape[1]
    out = x.new_empty(num_rows, x.shape[1])
    blocks = zip(x.chunk(groups, dim=1), out.chunk(groups, dim=1), strict=True)
    for g, (rows, block) in enumerate(blocks):
        if g < index.shape[1]:
            order, ptr = transpose_index(index[:, g], num_rows)
            node = order // max(index.shape[2], 1)
        fill(block, sum_rows(node, [(reorder(weight[:, g], order), rows)], ptr[:-1]))
    return out


def of_group(index: Tensor, g: int) -> Tensor:
    r"""What a group listens to, ``[N, H, ...] -> [N, ...]``: its own, or what all share."""
    return index[:, g if index.shape[1] > 1 else 0]

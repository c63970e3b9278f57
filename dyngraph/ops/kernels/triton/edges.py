"""The kernels of :mod:`dyngraph.ops.operators.edges`."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyngraph.ops.kernels.pytorch.rows import transpose_index
from dyngraph.ops.kernels.triton.tiles import (
    add_rows,
    block_channels,
    device,
    launch,
    load_rows,
    program_columns,
    program_nodes,
)
from dyngraph.ops.precision import accumulator

# Edges that a program sums at a time along the transposed graph.
_EDGES = 16


def gather_dot(x: Tensor, table: Tensor, index: Tensor, groups: int) -> Tensor:
    num_nodes, _, degree = index.shape
    out = x.new_zeros(num_nodes, groups, degree, dtype=accumulator(x.dtype))
    if out.numel() and table.numel():
        _launch(_dot_kernel, x, table, index, out, groups)
    return out


def gather_sum(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    out = table.new_zeros(len(index), table.shape[1])
    if out.numel() and index.numel() and table.numel():
        _launch(_gather_kernel, weight, table, index, out, weight.shape[1])
    return out


def scatter_sum(weight: Tensor, x: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """By atomics; or, if it has to be deterministic, over the transposed graph."""
    if torch.are_deterministic_algorithms_enabled():
        return scatter_transposed(index, num_rows, (weight, x))
    out = x.new_zeros(num_rows, x.shape[1], dtype=weight.dtype)
    if out.numel() and weight.numel():
        _launch(_scatter_kernel, weight, x, index, out, weight.shape[1], adds_to=["out"])
    return out.to(x.dtype)


def _launch(
    kernel: Any,
    first: Tensor,
    features: Tensor,
    index: Tensor,
    out: Tensor,
    groups: int,
    adds_to: Sequence[str] = (),
) -> None:
    num_nodes, own, degree = index.shape
    width = features.shape[1] // groups
    launch(
        kernel,
        (num_nodes, groups, width),
        first.contiguous(),
        features.contiguous(),
        index.contiguous(),
        out,
        num_nodes,
        own,
        degree,
        width,
        block_channels=block_channels(width),
        kind=["degree", "own"],
        adds_to=adds_to,
    )


def scatter_transposed(
    index: Tensor,
    num_rows: int,
    term: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
) -> Tensor:
    """The sum of one or two terms of weights and nodes, in one pass and without atomics."""
    weight, x = term
    _, own, degree = index.shape
    groups = weight.shape[1]
    out = x.new_zeros(num_rows, x.shape[1], dtype=weight.dtype)
    if out.numel() and weight.numel():
        width = x.shape[1] // groups
        # Of groups with rows of their own, as one graph: the rows of one group after the other's.
        first_row = num_rows * torch.arange(own, dtype=index.dtype, device=index.device)
        by_group = index.transpose(0, 1) + first_row.view(-1, 1, 1)
        order, start = transpose_index(by_group, own * num_rows)
        with device(x):
            _scatter_transposed_kernel[(num_rows, groups)](
                *(None if tensor is None else tensor.contiguous() for tensor in (*term, *other)),
                order,
                start,
                out,
                len(x),
                own,
                degree,
                width,
                _EDGES,
                block_channels(width),
            )
    return out.to(x.dtype)


@triton.jit
def program_edges(node, own: tl.constexpr, degree):
    """Where the first edge of nodes is in the indices, and in the weights, of this group."""
    group = tl.program_id(1)
    weighted = (node * tl.num_programs(1) + group) * degree
    if own > 1:
        return weighted, weighted
    return node * degree, weighted


@triton.jit
def _dot_kernel(
    x,
    table,
    index,
    out,
    num_nodes,
    own: tl.constexpr,
    degree,
    width,
    block_nodes: tl.constexpr,
    block_channels: tl.constexpr,
):
    dtype: tl.constexpr = out.dtype.element_ty
    num_channels = tl.num_programs(1) * width
    node, live = program_nodes(num_nodes, block_nodes)
    column, inside = program_columns(width, block_channels)
    x_tile = load_rows(x, node, live, column, inside, num_channels, dtype)
    edge, weighted = program_edges(node, own, degree)
    for _ in range(degree):
        row = tl.load(index + edge, live, other=0)
        rows = load_rows(table, row, live, column, inside, num_channels, dtype)
        tl.store(out + weighted, tl.sum(x_tile * rows, axis=1), live)
        edge += 1
        weighted += 1


@triton.jit
def _gather_kernel(
    weight,
    table,
    index,
    out,
    num_nodes,
    own: tl.constexpr,
    degree,
    width,
    block_nodes: tl.constexpr,
    block_channels: tl.constexpr,
):
    dtype: tl.constexpr = weight.dtype.element_ty
    num_channels = tl.num_programs(1) * width
    node, live = program_nodes(num_nodes, block_nodes)
    column, inside = program_columns(width, block_channels)
    edge, weighted = program_edges(node, own, degree)
    total = tl.zeros([block_nodes, block_channels], dtype)
    for _ in range(degree):
        row = tl.load(index + edge, live, other=0)
        factor = tl.load(weight + weighted, live, other=0)
        total += factor[:, None] * load_rows(table, row, live, column, inside, num_channels, dtype)
        edge += 1
        weighted += 1
    place = node[:, None] * num_channels + column[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), live[:, None] & inside[None, :])


@triton.jit
def _scatter_kernel(
    weight,
    x,
    index,
    out,
    num_nodes,
    own: tl.constexpr,
    degree,
    width,
    block_nodes: tl.constexpr,
    block_channels: tl.constexpr,
):
    dtype: tl.constexpr = out.dtype.element_ty
    num_channels = tl.num_programs(1) * width
    node, live = program_nodes(num_nodes, block_nodes)
    column, inside = program_columns(width, block_channels)
    x_tile = load_rows(x, node, live, column, inside, num_channels, dtype)
    edge, weighted = program_edges(node, own, degree)
    for _ in range(degree):
        row = tl.load(index + edge, live, other=0)
        part = tl.load(weight + weighted, live, other=0)[:, None] * x_tile
        add_rows(out, row, live, column, inside, num_channels, part)
        edge += 1
        weighted += 1


@triton.jit
def _scatter_transposed_kernel(
    weight,
    x,
    other_weight,
    other_x,
    order,
    start,
    out,
    num_nodes,
    own: tl.constexpr,
    degree,
    width,
    block_edges: tl.constexpr,
    block_channels: tl.constexpr,
):
    dtype: tl.constexpr = out.dtype.element_ty
    num_channels = tl.num_programs(1) * width
    row = tl.program_id(0).to(tl.int64)
    column, inside = program_columns(width, block_channels)
    group = tl.program_id(1)
    # The rows and the edges of groups before this one.
    if own > 1:
        start += group * tl.num_programs(0)
        first_edge = group.to(tl.int64) * num_nodes * degree
    else:
        first_edge = group.to(tl.int64) * 0
    total = tl.zeros([block_channels], dtype)
    end = tl.load(start + row + 1)
    for first in range(tl.load(start + row), end, block_edges):
        at = first + tl.arange(0, block_edges)
        live = at < end
        edge = tl.load(order + at, live, other=0).to(tl.int64) - first_edge
        node = edge // degree
        weighted = (node * tl.num_programs(1) + group) * degree + edge % degree
        factor = tl.load(weight + weighted, live, other=0)
        part = factor[:, None] * load_rows(x, node, live, column, inside, num_channels, dtype)
        if other_x is not None:
            factor = tl.load(other_weight + weighted, live, other=0)
            part += factor[:, None] * load_rows(
                other_x, node, live, column, inside, num_channels, dtype
            )
        total += tl.sum(part, axis=0)
    tl.store(out + row * num_channels + column, total, inside)

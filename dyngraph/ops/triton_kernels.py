"""The operators as Triton kernels: the backend ``"triton"``.

A program works on a block of nodes and one group of channels. It reads whole rows, sums in float32
(float64 for float64) and keeps no ``[N, L, C]`` tensor. Blocks are a function of the number of
channels alone, so that equal shapes always give equal sums. Only :func:`scatter` sums over
programs: by atomics, or under :func:`torch.use_deterministic_algorithms` along the transposed graph
instead.
"""

import os
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyngraph.ops.backend import accumulator
from dyngraph.ops.torch_kernels import corner_alpha, transpose_index

# Elements of a program's tile, nodes times channels: 16 bytes of a half type for each of its 128
# threads, and no register spilled. And the most nodes of a program.
_TILE = 1024
_MOST_NODES = 64
# Edges that a program sums at a time along the transposed graph.
_EDGES = 16


def dot(x: Tensor, table: Tensor, index: Tensor, groups: int) -> Tensor:
    num_nodes, degree = index.shape
    out = x.new_zeros(groups, num_nodes, degree, dtype=accumulator(x.dtype))
    width = x.shape[1] // groups
    if 0 in (out.numel(), table.numel()):
        return out
    block_nodes, block_channels = _tile(width)
    with _device(x):
        _dot_kernel[(triton.cdiv(num_nodes, block_nodes), groups)](
            x.contiguous(),
            table.contiguous(),
            index.contiguous(),
            out,
            num_nodes,
            degree,
            width,
            block_nodes,
            block_channels,
        )
    return out


def gather(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    groups, num_nodes, degree = weight.shape
    out = table.new_zeros(num_nodes, table.shape[1])
    width = table.shape[1] // groups
    if 0 in (out.numel(), index.numel(), table.numel()):
        return out
    block_nodes, block_channels = _tile(width)
    with _device(table):
        _gather_kernel[(triton.cdiv(num_nodes, block_nodes), groups)](
            weight.contiguous(),
            table.contiguous(),
            index.contiguous(),
            out,
            num_nodes,
            degree,
            width,
            block_nodes,
            block_channels,
        )
    return out


def scatter(weight: Tensor, x: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """By atomics; or, if it has to be deterministic, over the transposed graph."""
    return _scatter(index, num_rows, (weight, x))


def _scatter(
    index: Tensor,
    num_rows: int,
    term: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
) -> Tensor:
    """The sum of one or two terms of weights and nodes, in one pass."""
    weight, x = term
    groups, num_nodes, degree = weight.shape
    width = x.shape[1] // groups
    out = x.new_zeros(num_rows, x.shape[1], dtype=weight.dtype)
    if 0 in (out.numel(), weight.numel()):
        return out.to(x.dtype)
    terms = [None if tensor is None else tensor.contiguous() for tensor in (*term, *other)]
    block_nodes, block_channels = _tile(width)
    with _device(x):
        if torch.are_deterministic_algorithms_enabled():
            order, start = transpose_index(index, num_rows)
            _scatter_transposed_kernel[(num_rows, groups)](
                *terms,
                order,
                start,
                out,
                num_nodes,
                degree,
                width,
                _EDGES,
                block_channels,
            )
        else:
            _scatter_kernel[(triton.cdiv(num_nodes, block_nodes), groups)](
                *terms,
                index.contiguous(),
                out,
                num_nodes,
                degree,
                width,
                block_nodes,
                block_channels,
            )
    return out.to(x.dtype)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    index: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    scale: float,
    recompute: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """In one pass over the samples; nothing is saved for the backward pass."""
    table = key if value is None else value
    num_nodes, corners, samples = index.shape
    out = table.new_zeros(num_nodes, table.shape[1])
    alpha = weight.new_zeros(groups, num_nodes, samples)
    saved = weight.new_empty(0)
    if alpha.numel() == 0:
        return out, alpha, saved
    widths = (key.shape[1] // groups, table.shape[1] // groups)
    block_nodes, _ = _tile(max(*widths, 1))
    with _device(query):
        _attention_kernel[(triton.cdiv(num_nodes, block_nodes), groups)](
            query.contiguous(),
            key.contiguous(),
            table.contiguous(),
            index.contiguous(),
            weight.contiguous(),
            None if bias is None else bias.contiguous(),
            out,
            alpha,
            num_nodes,
            scale,
            samples,
            corners,
            *widths,
            value is None,
            block_nodes,
            *(triton.next_power_of_2(max(width, 1)) for width in widths),
            triton.next_power_of_2(samples),
        )
    return out, alpha, saved


def attention_backward(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    index: Tensor,
    weight: Tensor,
    alpha: Tensor,
    saved: Tensor,
    groups: int,
    scale: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What nodes get in one kernel, what tables get by :func:`scatter`."""
    table = key if value is None else value
    num_nodes, corners, samples = index.shape
    needs_query, needs_key, needs_value, needs_weight, needs_bias = needs
    if grad_out is None:
        grad_out = table.new_zeros(num_nodes, table.shape[1])
    grad_query = torch.zeros_like(query, memory_format=torch.contiguous_format)
    grad_weight = weight.new_zeros(groups, num_nodes, corners, samples)
    grad_score = torch.zeros_like(alpha, memory_format=torch.contiguous_format)
    if alpha.numel():
        widths = (key.shape[1] // groups, table.shape[1] // groups)
        block_nodes, _ = _tile(max(*widths, 1))
        with _device(query):
            _attention_backward_kernel[(triton.cdiv(num_nodes, block_nodes), groups)](
                grad_out.contiguous(),
                None if grad_alpha is None else grad_alpha.contiguous(),
                query.contiguous(),
                key.contiguous(),
                table.contiguous(),
                index.contiguous(),
                weight.contiguous(),
                alpha.contiguous(),
                grad_query,
                grad_weight,
                grad_score,
                num_nodes,
                scale,
                samples,
                corners,
                *widths,
                block_nodes,
                *(triton.next_power_of_2(max(width, 1)) for width in widths),
                triton.next_power_of_2(samples),
            )
    edges = index.flatten(1)
    grad_key, grad_value = key.new_empty(0), table.new_empty(0)
    if needs_key:
        key_term = (corner_alpha(grad_score * scale, weight), query)
        value_term = (corner_alpha(alpha, weight), grad_out) if value is None else (None, None)
        grad_key = _scatter(edges, len(key), key_term, value_term)
    if needs_value:
        grad_value = scatter(corner_alpha(alpha, weight), grad_out, edges, len(table))
    return (
        grad_query if needs_query else query.new_empty(0),
        grad_key,
        grad_value,
        grad_weight.sum(dim=0) if needs_weight else weight.new_empty(0),
        grad_score if needs_bias else alpha.new_empty(0),
    )


def _tile(width: int) -> tuple[int, int]:
    """Nodes and channels of the tile of a program, for groups of ``width`` channels."""
    channels = triton.next_power_of_2(width)
    return min(_MOST_NODES, max(1, _TILE // channels)), channels


def _device(x: Tensor) -> AbstractContextManager:
    """Makes the GPU of a tensor the one that kernels are launched on."""
    if x.device.type == "cuda":
        return torch.cuda.device(x.device)
    if os.environ.get("TRITON_INTERPRET") == "1":
        return nullcontext()
    raise ValueError(f"backend 'triton': expected tensors on CUDA, got them on {x.device}")


@triton.jit
def _rows(table, row, live, column, inside, num_channels, dtype: tl.constexpr):
    """The tile ``[nodes, channels]`` of a row for each node."""
    place = row.to(tl.int64)[:, None] * num_channels + column[None, :]
    return tl.load(table + place, live[:, None] & inside[None, :], other=0).to(dtype)


@triton.jit
def _block(num_nodes, block_nodes: tl.constexpr):
    """The nodes of this program, and which of them there are."""
    node = tl.program_id(0).to(tl.int64) * block_nodes + tl.arange(0, block_nodes)
    return node, node < num_nodes


@triton.jit
def _columns(width, block_channels: tl.constexpr):
    """The channels of this program's group, and which of them there are."""
    channel = tl.arange(0, block_channels)
    return tl.program_id(1) * width + channel, channel < width


@triton.jit
def _dot_kernel(
    x,
    table,
    index,
    out,
    num_nodes,
    degree,
    width,
    block_nodes: tl.constexpr,
    block_channels: tl.constexpr,
):
    dtype: tl.constexpr = out.dtype.element_ty
    num_channels = tl.num_programs(1) * width
    node, live = _block(num_nodes, block_nodes)
    column, inside = _columns(width, block_channels)
    x_tile = _rows(x, node, live, column, inside, num_channels, dtype)
    edge = node * degree
    plane = tl.program_id(1).to(tl.int64) * num_nodes * degree
    for _ in range(degree):
        row = tl.load(index + edge, live, other=0)
        rows = _rows(table, row, live, column, inside, num_channels, dtype)
        tl.store(out + plane + edge, tl.sum(x_tile * rows, axis=1), live)
        edge += 1


@triton.jit
def _gather_kernel(
    weight,
    table,
    index,
    out,
    num_nodes,
    degree,
    width,
    block_nodes: tl.constexpr,
    block_channels: tl.constexpr,
):
    dtype: tl.constexpr = weight.dtype.element_ty
    num_channels = tl.num_programs(1) * width
    node, live = _block(num_nodes, block_nodes)
    column, inside = _columns(width, block_channels)
    edge = node * degree
    plane = tl.program_id(1).to(tl.int64) * num_nodes * degree
    total = tl.zeros([block_nodes, block_channels], dtype)
    for _ in range(degree):
        row = tl.load(index + edge, live, other=0)
        factor = tl.load(weight + plane + edge, live, other=0)
        total += factor[:, None] * _rows(table, row, live, column, inside, num_channels, dtype)
        edge += 1
    place = node[:, None] * num_channels + column[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), live[:, None] & inside[None, :])


@triton.jit
def _scatter_kernel(
    weight,
    x,
    other_weight,
    other_x,
    index,
    out,
    num_nodes,
    degree,
    width,
    block_nodes: tl.constexpr,
    block_channels: tl.constexpr,
):
    dtype: tl.constexpr = out.dtype.element_ty
    num_channels = tl.num_programs(1) * width
    node, live = _block(num_nodes, block_nodes)
    column, inside = _columns(width, block_channels)
    x_tile = _rows(x, node, live, column, inside, num_channels, dtype)
    if other_x is not None:
        other_tile = _rows(other_x, node, live, column, inside, num_channels, dtype)
    edge = node * degree
    plane = tl.program_id(1).to(tl.int64) * num_nodes * degree
    for _ in range(degree):
        row = tl.load(index + edge, live, other=0)
        part = tl.load(weight + plane + edge, live, other=0)[:, None] * x_tile
        if other_x is not None:
            part += tl.load(other_weight + plane + edge, live, other=0)[:, None] * other_tile
        place = row.to(tl.int64)[:, None] * num_channels + column[None, :]
        tl.atomic_add(out + place, part, live[:, None] & inside[None, :], sem="relaxed")
        edge += 1


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
    degree,
    width,
    block_edges: tl.constexpr,
    block_channels: tl.constexpr,
):
    dtype: tl.constexpr = out.dtype.element_ty
    num_channels = tl.num_programs(1) * width
    row = tl.program_id(0).to(tl.int64)
    column, inside = _columns(width, block_channels)
    plane = tl.program_id(1).to(tl.int64) * num_nodes * degree
    total = tl.zeros([block_channels], dtype)
    end = tl.load(start + row + 1)
    for first in range(tl.load(start + row), end, block_edges):
        at = first + tl.arange(0, block_edges)
        live = at < end
        edge = tl.load(order + at, live, other=0).to(tl.int64)
        node = edge // degree
        factor = tl.load(weight + plane + edge, live, other=0)
        part = factor[:, None] * _rows(x, node, live, column, inside, num_channels, dtype)
        if other_x is not None:
            factor = tl.load(other_weight + plane + edge, live, other=0)
            part += factor[:, None] * _rows(
                other_x, node, live, column, inside, num_channels, dtype
            )
        total += tl.sum(part, axis=0)
    tl.store(out + row * num_channels + column, total, inside)


@triton.jit
def _attention_kernel(
    query,
    key,
    value,
    index,
    weight,
    bias,
    out,
    alpha,
    num_nodes,
    scale: tl.constexpr,
    num_samples: tl.constexpr,
    num_corners: tl.constexpr,
    key_width,
    value_width,
    shared: tl.constexpr,
    block_nodes: tl.constexpr,
    block_key: tl.constexpr,
    block_value: tl.constexpr,
    block_samples: tl.constexpr,
):
    dtype: tl.constexpr = alpha.dtype.element_ty
    key_channels = tl.num_programs(1) * key_width
    value_channels = tl.num_programs(1) * value_width
    node, live = _block(num_nodes, block_nodes)
    key_column, key_inside = _columns(key_width, block_key)
    value_column, value_inside = _columns(value_width, block_value)
    sample = tl.arange(0, block_samples)
    row_of_node = tl.program_id(1).to(tl.int64) * num_nodes + node

    query_tile = _rows(query, node, live, key_column, key_inside, key_channels, dtype)
    scores = tl.full([block_nodes, block_samples], float("-inf"), dtype)
    # The softmax in one pass: of the samples so far, the largest score and sums relative to it.
    largest = tl.full([block_nodes], float("-inf"), dtype)
    total = tl.zeros([block_nodes], dtype)
    summed = tl.zeros([block_nodes, block_value], dtype)
    for k in range(num_samples):
        key_tile = tl.zeros([block_nodes, block_key], dtype)
        value_tile = tl.zeros([block_nodes, block_value], dtype)
        for c in tl.static_range(num_corners):
            corner = (node * num_corners + c) * num_samples + k
            row = tl.load(index + corner, live, other=0)
            factor = tl.load(weight + corner, live, other=0)[:, None]
            key_tile += factor * _rows(key, row, live, key_column, key_inside, key_channels, dtype)
            if not shared:
                value_tile += factor * _rows(
                    value, row, live, value_column, value_inside, value_channels, dtype
                )
        if shared:
            value_tile = key_tile
        score = tl.sum(query_tile * key_tile, axis=1) * scale
        if bias is not None:
            score += tl.load(bias + row_of_node * num_samples + k, live, other=0)
        scores = tl.where(sample[None, :] == k, score[:, None], scores)
        before, largest = largest, tl.maximum(largest, score)
        # Of samples that all have the score -inf, exponentials are 0, and not those of NaN.
        reference = tl.where(largest == float("-inf"), 0.0, largest)
        shrink = tl.exp(before - reference)
        share = tl.exp(score - reference)
        total = total * shrink + share
        summed = summed * shrink[:, None] + share[:, None] * value_tile
    result = (summed / total[:, None]).to(out.dtype.element_ty)
    place = node[:, None] * value_channels + value_column[None, :]
    tl.store(out + place, result, live[:, None] & value_inside[None, :])
    reference = tl.where(largest == float("-inf"), 0.0, largest)
    shares = tl.exp(scores - reference[:, None]) / total[:, None]
    place = row_of_node[:, None] * num_samples + sample[None, :]
    tl.store(alpha + place, shares, live[:, None] & (sample < num_samples)[None, :])


@triton.jit
def _attention_backward_kernel(
    grad_out,
    grad_alpha,
    query,
    key,
    value,
    index,
    weight,
    alpha,
    grad_query,
    grad_weight,
    grad_score,
    num_nodes,
    scale: tl.constexpr,
    num_samples: tl.constexpr,
    num_corners: tl.constexpr,
    key_width,
    value_width,
    block_nodes: tl.constexpr,
    block_key: tl.constexpr,
    block_value: tl.constexpr,
    block_samples: tl.constexpr,
):
    dtype: tl.constexpr = alpha.dtype.element_ty
    key_channels = tl.num_programs(1) * key_width
    value_channels = tl.num_programs(1) * value_width
    node, live = _block(num_nodes, block_nodes)
    key_column, key_inside = _columns(key_width, block_key)
    value_column, value_inside = _columns(value_width, block_value)
    sample = tl.arange(0, block_samples)
    plane = tl.program_id(1).to(tl.int64) * num_nodes
    place = (plane + node)[:, None] * num_samples + sample[None, :]
    there = live[:, None] & (sample < num_samples)[None, :]
    shares = tl.load(alpha + place, there, other=0)

    # y = sum_k alpha_k sum_c w_ck v_ck
    grad_tile = _rows(grad_out, node, live, value_column, value_inside, value_channels, dtype)
    grad_shares = tl.zeros([block_nodes, block_samples], dtype)
    if grad_alpha is not None:
        grad_shares += tl.load(grad_alpha + place, there, other=0)
    for k in range(num_samples):
        grad_share = tl.zeros([block_nodes], dtype)
        share = tl.load(alpha + (plane + node) * num_samples + k, live, other=0)
        for c in tl.static_range(num_corners):
            corner = (node * num_corners + c) * num_samples + k
            row = tl.load(index + corner, live, other=0)
            rows = _rows(value, row, live, value_column, value_inside, value_channels, dtype)
            product = tl.sum(grad_tile * rows, axis=1)
            grad_share += tl.load(weight + corner, live, other=0) * product
            grad_corner = grad_weight + plane * num_corners * num_samples + corner
            tl.store(grad_corner, share * product, live)
        grad_shares += tl.where(sample[None, :] == k, grad_share[:, None], 0.0)

    # alpha = softmax(s)
    expected = tl.sum(shares * grad_shares, axis=1)
    grad_scores = shares * (grad_shares - expected[:, None])
    tl.store(grad_score + place, grad_scores, there)
    # Another thread may have written what a thread reads from here on.
    tl.debug_barrier()

    # s_k = scale sum_c w_ck q k_ck
    query_tile = _rows(query, node, live, key_column, key_inside, key_channels, dtype)
    grad_query_tile = tl.zeros([block_nodes, block_key], dtype)
    for k in range(num_samples):
        scaled = tl.sum(tl.where(sample[None, :] == k, grad_scores, 0.0), axis=1) * scale
        for c in tl.static_range(num_corners):
            corner = (node * num_corners + c) * num_samples + k
            row = tl.load(index + corner, live, other=0)
            rows = _rows(key, row, live, key_column, key_inside, key_channels, dtype)
            factor = tl.load(weight + corner, live, other=0)
            grad_query_tile += (scaled * factor)[:, None] * rows
            grad_corner = grad_weight + plane * num_corners * num_samples + corner
            part = tl.load(grad_corner, live, other=0)
            tl.store(grad_corner, part + scaled * tl.sum(query_tile * rows, axis=1), live)
    place = node[:, None] * key_channels + key_column[None, :]
    grad_query_tile = grad_query_tile.to(grad_query.dtype.element_ty)
    tl.store(grad_query + place, grad_query_tile, live[:, None] & key_inside[None, :])

"""The kernels of :mod:`dyngraph.ops.operators.attention`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyngraph.multilinear import Level, Maps, index_dtype
from dyngraph.ops.kernels.triton import composed
from dyngraph.ops.kernels.triton.corners import (
    coordinates,
    corner_slopes,
    corners,
    find_corner,
    free_gradient,
    lengths,
    load_axes,
)
from dyngraph.ops.kernels.triton.edges import scatter_transposed
from dyngraph.ops.kernels.triton.tiles import (
    add_rows,
    block_channels,
    launch,
    load_rows,
    program_columns,
    program_nodes,
)
from dyngraph.ops.precision import accumulator

# Numbers that differ from batch to batch, if not from launch to launch: no kernel of its own for
# each that happens to be 1 or a multiple of 16.
_SIZES = [
    "first_node",
    "num_nodes",
    "first_row",
    "nodes_of_map",
    "length_0",
    "length_1",
    "length_2",
]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    bias: Tensor | None,
    maps: Sequence[Maps],
    border: bool,
    groups: int,
    scale: float,
    keep_scores: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """In one pass over the samples, whose corners are computed on the way; nothing is kept."""
    # Programs work on one level alone.
    if any(len(part.levels) > 1 for part in maps):
        out, alpha = composed.attention(query, key, value, pos, bias, maps, border, groups, scale)
        return out, alpha, alpha.new_empty(0)
    table = key if value is None else value
    out = table.new_zeros(len(query), table.shape[1])
    shape = (len(query), groups, pos.shape[2])
    alpha = query.new_zeros(shape, dtype=accumulator(query.dtype))
    if alpha.numel():
        tensors = [*_contiguous(query, key, table, bias), out, alpha]
        _launch(_attention_kernel, tensors, key, value, alpha, scale, _places(pos, maps, border))
    return out, alpha, alpha.new_empty(0)


def attention_backward(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    pos: Tensor,
    alpha: Tensor,
    scores: Tensor,
    maps: Sequence[Maps],
    border: bool,
    groups: int,
    scale: float,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All in one kernel; or, if it has to be deterministic, tables over the transposed graph."""
    table = key if value is None else value
    if grad_out is None:
        grad_out = table.new_zeros(len(query), table.shape[1])
    if any(len(part.levels) > 1 for part in maps):
        return composed.attention_backward(
            grad_out, grad_alpha, query, key, value, pos, alpha, maps, border, groups,
            scale, needs,
        )  # fmt: skip
    needs_query, needs_key, needs_value, needs_pos, needs_bias = needs
    atomic = not torch.are_deterministic_algorithms_enabled()
    grad_query = torch.zeros_like(query, memory_format=torch.contiguous_format)
    grad_score = torch.zeros_like(alpha, memory_format=torch.contiguous_format)
    # Of each group, even where all share the position.
    grad_pos = alpha.new_zeros(*alpha.shape, pos.shape[3]) if needs_pos else None
    grad_key = alpha.new_zeros(key.shape) if needs_key and atomic else None
    grad_value = alpha.new_zeros(table.shape) if needs_value and atomic else None
    if alpha.numel():
        tensors = [
            *_contiguous(grad_out, grad_alpha, query, key, table, alpha),
            *(grad_query, grad_key, grad_value, grad_pos, grad_score),
        ]
        tables = {"grad_key": grad_key, "grad_value": grad_value}
        _launch(
            _attention_backward_kernel,
            tensors,
            key,
            value,
            alpha,
            scale,
            _places(pos, maps, border),
            adds_to=[name for name, grad in tables.items() if grad is not None],
        )
    if not atomic and (needs_key or needs_value):
        index, weight = corners(pos, maps, border, index_dtype(pos, maps))
        edges, weight = index.flatten(2), weight.to(alpha.dtype)
        key_term = ((scale * grad_score.unsqueeze(2) * weight).flatten(2), query)
        value_term = ((alpha.unsqueeze(2) * weight).flatten(2), grad_out)
        if needs_key:
            terms = [key_term, value_term] if value is None else [key_term]
            grad_key = scatter_transposed(edges, len(key), *terms)
        if needs_value:
            grad_value = scatter_transposed(edges, len(table), value_term)
    if grad_pos is not None and pos.shape[1] == 1:
        grad_pos = grad_pos.sum(dim=1, keepdim=True)
    return (
        grad_query if needs_query else query.new_empty(0),
        key.new_empty(0) if grad_key is None else grad_key.to(key.dtype),
        table.new_empty(0) if grad_value is None else grad_value.to(table.dtype),
        pos.new_empty(0) if grad_pos is None else grad_pos.to(pos.dtype),
        grad_score if needs_bias else alpha.new_empty(0),
    )


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _launch(
    kernel: Any,
    tensors: Sequence[Tensor | None],
    key: Tensor,
    value: Tensor | None,
    alpha: Tensor,
    scale: float,
    places: Iterable[dict[str, Any]],
    adds_to: Sequence[str] = (),
) -> None:
    """Runs a kernel for all neighbouring maps of one size."""
    _, groups, num_samples = alpha.shape
    key_width = key.shape[1] // groups
    value_width = key_width if value is None else value.shape[1] // groups
    for place in places:
        launch(
            kernel,
            (place["num_nodes"], groups, max(key_width, value_width)),
            *tensors,
            **place,
            shared=value is None,
            scale=scale,
            num_samples=num_samples,
            key_width=key_width,
            value_width=value_width,
            block_samples=triton.next_power_of_2(num_samples),
            block_key=block_channels(key_width),
            block_value=block_channels(value_width),
            # What tiles are chosen by.
            kind=["num_samples", "key_width", "num_axes", "border", "shared", "own"],
            adds_to=adds_to,
        )


def _places(pos: Tensor, maps: Sequence[Maps], border: bool) -> Iterator[dict[str, Any]]:
    """For neighbouring maps of one size, where they are and where the samples of them are."""
    pos = pos.contiguous()
    first_node = first_row = 0
    for part in maps:
        if part.num_receivers and part.num_senders:
            yield _place(pos, part, border, first_node, first_row)
        elif part.num_receivers:
            # No map to read: outside of a map of one node, samples contribute 0 as well.
            level = Level(pos.shape[2], (1,) * pos.shape[3])
            one_node = Maps(1, part.num_receivers, (level,))
            yield _place(torch.full_like(pos, 2), one_node, False, first_node, 0)
        first_node += part.num_receivers
        first_row += part.num_senders


def _place(
    pos: Tensor, maps: Maps, border: bool, first_node: int, first_row: int
) -> dict[str, Any]:
    (level,) = maps.levels
    length_0, length_1, length_2 = lengths(level.shape)
    return {
        "pos": pos,
        "own": pos.shape[1],
        "first_node": first_node,
        "num_nodes": maps.num_receivers,
        "first_row": first_row,
        "nodes_of_map": maps.receivers_of_image,
        "length_0": length_0,
        "length_1": length_1,
        "length_2": length_2,
        "num_axes": pos.shape[3],
        "border": border,
    }


@triton.jit(do_not_specialize=_SIZES)
def _attention_kernel(
    query,
    key,
    value,
    bias,
    out,
    alpha,
    pos,
    own: tl.constexpr,
    first_node,
    num_nodes,
    first_row,
    nodes_of_map,
    length_0,
    length_1,
    length_2,
    num_axes: tl.constexpr,
    border: tl.constexpr,
    shared: tl.constexpr,
    scale: tl.constexpr,
    num_samples: tl.constexpr,
    key_width,
    value_width,
    block_nodes: tl.constexpr,
    block_samples: tl.constexpr,
    block_key: tl.constexpr,
    block_value: tl.constexpr,
):
    dtype: tl.constexpr = alpha.dtype.element_ty
    shape = (length_0, length_1, length_2)
    groups = tl.num_programs(1)
    key_channels = groups * key_width
    value_channels = groups * value_width
    node_of_run, live = program_nodes(num_nodes, block_nodes)
    node, map_of_node = first_node + node_of_run, node_of_run // nodes_of_map
    key_column, key_inside = program_columns(key_width, block_key)
    value_column, value_inside = program_columns(value_width, block_value)
    sample = tl.arange(0, block_samples)
    first_score = (node * groups + tl.program_id(1)) * num_samples
    first_sample = first_score if own > 1 else node * num_samples

    query_tile = load_rows(query, node, live, key_column, key_inside, key_channels, dtype)
    scores = tl.full([block_nodes, block_samples], float("-inf"), dtype)
    # The softmax in one pass: of the samples so far, the largest score and sums relative to it.
    largest = tl.full([block_nodes], float("-inf"), dtype)
    total = tl.zeros([block_nodes], dtype)
    summed = tl.zeros([block_nodes, block_value], dtype)
    for k in range(num_samples):
        key_tile = tl.zeros([block_nodes, block_key], dtype)
        value_tile = tl.zeros([block_nodes, block_value], dtype)
        axes = load_axes(pos, first_sample + k, live, shape, num_axes, border)
        for c in tl.static_range(2**num_axes):
            row, weight = find_corner(axes, shape, map_of_node, c, num_axes)
            row += first_row
            factor = weight.to(dtype)[:, None]
            key_tile += factor * load_rows(
                key, row, live, key_column, key_inside, key_channels, dtype
            )
            if not shared:
                value_tile += factor * load_rows(
                    value, row, live, value_column, value_inside, value_channels, dtype
                )
        if shared:
            value_tile = key_tile
        score = tl.sum(query_tile * key_tile, axis=1) * scale
        if bias is not None:
            score += tl.load(bias + first_score + k, live, other=0)
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
    place = first_score[:, None] + sample[None, :]
    tl.store(alpha + place, shares, live[:, None] & (sample < num_samples)[None, :])


@triton.jit(do_not_specialize=_SIZES)
def _attention_backward_kernel(
    grad_out,
    grad_alpha,
    query,
    key,
    value,
    alpha,
    grad_query,
    grad_key,
    grad_value,
    grad_pos,
    grad_score,
    pos,
    own: tl.constexpr,
    first_node,
    num_nodes,
    first_row,
    nodes_of_map,
    length_0,
    length_1,
    length_2,
    num_axes: tl.constexpr,
    border: tl.constexpr,
    shared: tl.constexpr,
    scale: tl.constexpr,
    num_samples: tl.constexpr,
    key_width,
    value_width,
    block_nodes: tl.constexpr,
    block_samples: tl.constexpr,
    block_key: tl.constexpr,
    block_value: tl.constexpr,
):
    dtype: tl.constexpr = alpha.dtype.element_ty
    shape = (length_0, length_1, length_2)
    groups = tl.num_programs(1)
    key_channels = groups * key_width
    value_channels = groups * value_width
    node_of_run, live = program_nodes(num_nodes, block_nodes)
    node, map_of_node = first_node + node_of_run, node_of_run // nodes_of_map
    key_column, key_inside = program_columns(key_width, block_key)
    value_column, value_inside = program_columns(value_width, block_value)
    sample = tl.arange(0, block_samples)
    first_score = (node * groups + tl.program_id(1)) * num_samples
    first_sample = first_score if own > 1 else node * num_samples
    place = first_score[:, None] + sample[None, :]
    there = live[:, None] & (sample < num_samples)[None, :]
    shares = tl.load(alpha + place, there, other=0)

    # y = sum_k alpha_k sum_c w_ck v_ck
    grad_tile = load_rows(grad_out, node, live, value_column, value_inside, value_channels, dtype)
    grad_shares = tl.zeros([block_nodes, block_samples], dtype)
    if grad_alpha is not None:
        grad_shares += tl.load(grad_alpha + place, there, other=0)
    for k in range(num_samples):
        grad_share = tl.zeros([block_nodes], dtype)
        share = tl.load(alpha + first_score + k, live, other=0)
        axes = load_axes(pos, first_sample + k, live, shape, num_axes, border)
        coordinate, there_too = coordinates(first_score + k, live, num_axes)
        grad_p = tl.zeros(coordinate.shape, dtype)
        for c in tl.static_range(2**num_axes):
            row, weight = find_corner(axes, shape, map_of_node, c, num_axes)
            row += first_row
            rows = load_rows(value, row, live, value_column, value_inside, value_channels, dtype)
            product = tl.sum(grad_tile * rows, axis=1)
            grad_share += weight.to(dtype) * product
            if grad_pos is not None:
                slopes = corner_slopes(axes, c, num_axes).to(dtype)
                grad_p += (share * product)[:, None] * slopes
        if grad_pos is not None:
            tl.store(grad_pos + coordinate, grad_p, there_too)
        grad_shares += tl.where(sample[None, :] == k, grad_share[:, None], 0.0)

    # alpha = softmax(s)
    expected = tl.sum(shares * grad_shares, axis=1)
    grad_scores = shares * (grad_shares - expected[:, None])
    tl.store(grad_score + place, grad_scores, there)
    # Another thread may have written what a thread reads from here on.
    tl.debug_barrier()

    # s_k = scale sum_c w_ck q k_ck
    query_tile = load_rows(query, node, live, key_column, key_inside, key_channels, dtype)
    grad_query_tile = tl.zeros([block_nodes, block_key], dtype)
    for k in range(num_samples):
        scaled = tl.sum(tl.where(sample[None, :] == k, grad_scores, 0.0), axis=1) * scale
        share = tl.load(alpha + first_score + k, live, other=0)
        axes = load_axes(pos, first_sample + k, live, shape, num_axes, border)
        coordinate, there_too = coordinates(first_score + k, live, num_axes)
        grad_p = tl.zeros(coordinate.shape, dtype)
        for c in tl.static_range(2**num_axes):
            row, weight = find_corner(axes, shape, map_of_node, c, num_axes)
            row += first_row
            weight = weight.to(dtype)
            rows = load_rows(key, row, live, key_column, key_inside, key_channels, dtype)
            grad_query_tile += (scaled * weight)[:, None] * rows
            if grad_key is not None:
                part = (scaled * weight)[:, None] * query_tile
                if shared:
                    part += (share * weight)[:, None] * grad_tile
                add_rows(grad_key, row, live, key_column, key_inside, key_channels, part)
            if grad_value is not None:
                part = (share * weight)[:, None] * grad_tile
                add_rows(grad_value, row, live, value_column, value_inside, value_channels, part)
            if grad_pos is not None:
                slopes = corner_slopes(axes, c, num_axes).to(dtype)
                grad_p += (scaled * tl.sum(query_tile * rows, axis=1))[:, None] * slopes
        if grad_pos is not None:
            grad_p += tl.load(grad_pos + coordinate, there_too, other=0)
            grad_p = free_gradient(grad_p, axes, num_axes, border)
            tl.store(grad_pos + coordinate, grad_p, there_too)
    place = node[:, None] * key_channels + key_column[None, :]
    grad_query_tile = grad_query_tile.to(grad_query.dtype.element_ty)
    tl.store(grad_query + place, grad_query_tile, live[:, None] & key_inside[None, :])

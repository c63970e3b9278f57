"""The kernels of :mod:`dyngraph.ops.attention`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyngraph.ops.torch_kernels import corner_alpha
from dyngraph.ops.triton_kernels.primitives import scatter, sum_terms
from dyngraph.ops.triton_kernels.tiles import (
    device,
    load_rows,
    program_columns,
    program_nodes,
    tile,
)


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
    block_nodes, _ = tile(max(*widths, 1))
    with device(query):
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
        block_nodes, _ = tile(max(*widths, 1))
        with device(query):
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
        grad_key = sum_terms(edges, len(key), key_term, value_term)
    if needs_value:
        grad_value = scatter(corner_alpha(alpha, weight), grad_out, edges, len(table))
    return (
        grad_query if needs_query else query.new_empty(0),
        grad_key,
        grad_value,
        grad_weight.sum(dim=0) if needs_weight else weight.new_empty(0),
        grad_score if needs_bias else alpha.new_empty(0),
    )


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
    node, live = program_nodes(num_nodes, block_nodes)
    key_column, key_inside = program_columns(key_width, block_key)
    value_column, value_inside = program_columns(value_width, block_value)
    sample = tl.arange(0, block_samples)
    row_of_node = tl.program_id(1).to(tl.int64) * num_nodes + node

    query_tile = load_rows(query, node, live, key_column, key_inside, key_channels, dtype)
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
    node, live = program_nodes(num_nodes, block_nodes)
    key_column, key_inside = program_columns(key_width, block_key)
    value_column, value_inside = program_columns(value_width, block_value)
    sample = tl.arange(0, block_samples)
    plane = tl.program_id(1).to(tl.int64) * num_nodes
    place = (plane + node)[:, None] * num_samples + sample[None, :]
    there = live[:, None] & (sample < num_samples)[None, :]
    shares = tl.load(alpha + place, there, other=0)

    # y = sum_k alpha_k sum_c w_ck v_ck
    grad_tile = load_rows(grad_out, node, live, value_column, value_inside, value_channels, dtype)
    grad_shares = tl.zeros([block_nodes, block_samples], dtype)
    if grad_alpha is not None:
        grad_shares += tl.load(grad_alpha + place, there, other=0)
    for k in range(num_samples):
        grad_share = tl.zeros([block_nodes], dtype)
        share = tl.load(alpha + (plane + node) * num_samples + k, live, other=0)
        for c in tl.static_range(num_corners):
            corner = (node * num_corners + c) * num_samples + k
            row = tl.load(index + corner, live, other=0)
            rows = load_rows(value, row, live, value_column, value_inside, value_channels, dtype)
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
    query_tile = load_rows(query, node, live, key_column, key_inside, key_channels, dtype)
    grad_query_tile = tl.zeros([block_nodes, block_key], dtype)
    for k in range(num_samples):
        scaled = tl.sum(tl.where(sample[None, :] == k, grad_scores, 0.0), axis=1) * scale
        for c in tl.static_range(num_corners):
            corner = (node * num_corners + c) * num_samples + k
            row = tl.load(index + corner, live, other=0)
            rows = load_rows(key, row, live, key_column, key_inside, key_channels, dtype)
            factor = tl.load(weight + corner, live, other=0)
            grad_query_tile += (scaled * factor)[:, None] * rows
            grad_corner = grad_weight + plane * num_corners * num_samples + corner
            part = tl.load(grad_corner, live, other=0)
            tl.store(grad_corner, part + scaled * tl.sum(query_tile * rows, axis=1), live)
    place = node[:, None] * key_channels + key_column[None, :]
    grad_query_tile = grad_query_tile.to(grad_query.dtype.element_ty)
    tl.store(grad_query + place, grad_query_tile, live[:, None] & key_inside[None, :])

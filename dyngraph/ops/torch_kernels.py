"""The operators in plain PyTorch: the backend ``"torch"``."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from dyngraph.ops import multilinear
from dyngraph.ops.softmax import softmax_over_samples

# Elements of the temporary of `_dot_chunked`: 64 MB in float32.
_CHUNK = 2**24
# Samples whose corners are computed at a time: memory that is new costs more than arithmetic.
_SAMPLES = 2**18

# Tables that a CPU's cache does not hold, in bytes, are gathered in blocks of channels.
_CACHE = 4 * 2**20
_NARROWEST = 32
_READS = 8


def corners(
    pos: Tensor, shape: Sequence[int], num_maps: int, border: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    chunk = max(1, _SAMPLES // max(1, pos.shape[1]))
    if len(pos) <= chunk:
        index, weight = multilinear.corners(pos, shape, border, dtype)
    else:
        weight = pos.new_empty(len(pos), 2 ** len(shape), pos.shape[1])
        index = torch.empty_like(weight, dtype=dtype)
        parts = zip(*(tensor.split(chunk) for tensor in (index, weight, pos)), strict=True)
        for index_part, weight_part, pos_part in parts:
            index_part[:], weight_part[:] = multilinear.corners(pos_part, shape, border, dtype)
    if num_maps > 1:
        by_map = index.unflatten(0, (num_maps, len(pos) // num_maps))
        by_map += multilinear.first_nodes(shape, num_maps, index)
    return index, weight


def corners_backward(
    grad_weight: Tensor, pos: Tensor, shape: Sequence[int], border: bool
) -> Tensor:
    grad_pos = torch.empty_like(pos, memory_format=torch.contiguous_format)
    chunk = max(1, _SAMPLES // max(1, pos.shape[1]))
    parts = zip(*(tensor.split(chunk) for tensor in (grad_pos, grad_weight, pos)), strict=True)
    for out, grad, part in parts:
        out[:] = multilinear.corners_backward(grad, part, shape, border)
    return grad_pos


def dot(x: Tensor, table: Tensor, index: Tensor, groups: int) -> Tensor:
    blocks = zip(x.chunk(groups, dim=1), table.chunk(groups, dim=1), strict=True)
    return torch.stack([dot_rows(block, rows, index) for block, rows in blocks])


def gather(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    groups = zip(weight, table.chunk(len(weight), dim=1), strict=True)
    blocks = (sum_rows(index, [(plane, rows)]) for plane, rows in groups)
    return _concat(chain.from_iterable(blocks), table.shape[1])


def scatter(weight: Tensor, x: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """As a gather over the transposed graph, without atomics: equal in every run."""
    order, ptr = transpose_index(index, num_rows)
    node = order // max(index.shape[1], 1)
    groups = zip(weight, x.chunk(len(weight), dim=1), strict=True)
    blocks = (sum_rows(node, [(reorder(plane, order), rows)], ptr[:-1]) for plane, rows in groups)
    return _concat(chain.from_iterable(blocks), x.shape[1])


def transpose_index(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    r"""The transposed graph: the edges ``[N * L]`` in the order of the rows, and where each starts.

    Returns:
        The order ``[N * L]`` and the row starts ``[M + 1]``, in the dtype of ``index``.
    """
    rows, order = index.flatten().sort(stable=True)
    boundaries = torch.arange(num_rows + 1, dtype=index.dtype, device=index.device)
    ptr = torch.searchsorted(rows, boundaries, out_int32=index.dtype == torch.int32)
    return order.to(index.dtype), ptr


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
    """Group by group."""
    table = key if value is None else value
    out = table.new_empty(len(query), table.shape[1])
    alpha = query.new_empty(groups, len(query), weight.shape[2])
    saved = query.new_empty(0) if recompute else query.new_empty(groups, *weight.shape)
    blocks = zip(*(tensor.chunk(groups, dim=1) for tensor in (query, key, table, out)), strict=True)
    for g, (query_g, key_g, value_g, out_g) in enumerate(blocks):
        corner_score = dot_rows(query_g, key_g, index.flatten(1)).view(weight.shape)
        score = (corner_score * weight).sum(dim=1) * scale
        alpha[g] = softmax_over_samples(score if bias is None else score + bias[g])
        _fill(out_g, sum_rows(index.flatten(1), [(corner_alpha(alpha[g], weight), value_g)]))
        if not recompute:
            saved[g] = corner_score
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
    """Group by group, with the graph transposed once."""
    table = key if value is None else value
    edges = index.flatten(1)
    if grad_out is None:
        grad_out = table.new_zeros(len(query), table.shape[1])
    grads = [
        torch.empty_like(like, memory_format=torch.contiguous_format) if need else like.new_empty(0)
        for like, need in zip((query, key, table, weight, alpha), needs, strict=True)
    ]
    grad_query, grad_key, grad_value, grad_weight, grad_bias = grads
    needs_query, needs_key, needs_value, needs_weight, needs_bias = needs
    if needs_key or needs_value:
        order, ptr = transpose_index(edges, len(key))
        listener, start = order // max(edges.shape[1], 1), ptr[:-1]

    def block(tensor: Tensor, g: int) -> Tensor:
        return tensor.chunk(groups, dim=1)[g]

    for g in range(groups):
        query_g, key_g, value_g = block(query, g), block(key, g), block(table, g)
        grad_out_g, alpha_g = block(grad_out, g), alpha[g]

        # y = Σ_k Σ_c α_k w_ck v_ck
        weight_g = corner_alpha(alpha_g, weight)
        grad_corner_alpha = dot_rows(grad_out_g, value_g, edges).view(weight.shape)
        grad_alpha_g = (grad_corner_alpha * weight).sum(dim=1)
        if grad_alpha is not None:
            grad_alpha_g += grad_alpha[g]
        # α = softmax(s)
        expected = (alpha_g * grad_alpha_g).sum(dim=-1, keepdim=True)
        grad_score = alpha_g * (grad_alpha_g - expected)
        # s_k = σ Σ_c w_ck d_ck + b_k
        scaled = (grad_score * scale).unsqueeze(1)
        grad_corner_score = (scaled * weight).flatten(1)

        if needs_bias:
            grad_bias[g] = grad_score
        if needs_weight:
            corner_score = saved[g] if saved.numel() else dot_rows(query_g, key_g, edges)
            part = torch.addcmul(
                alpha_g.unsqueeze(1) * grad_corner_alpha, scaled, corner_score.view(weight.shape)
            )
            grad_weight = part if g == 0 else grad_weight.add_(part)
        if needs_query:
            _fill(block(grad_query, g), sum_rows(edges, [(grad_corner_score, key_g)]))
        if needs_key:
            terms = [(reorder(grad_corner_score, order), query_g)]
            if value is None:
                terms.append((reorder(weight_g, order), grad_out_g))
            _fill(block(grad_key, g), sum_rows(listener, terms, start))
        if needs_value:
            terms = [(reorder(weight_g, order), grad_out_g)]
            _fill(block(grad_value, g), sum_rows(listener, terms, start))
    return grad_query, grad_key, grad_value, grad_weight, grad_bias


def corner_alpha(alpha: Tensor, weight: Tensor) -> Tensor:
    """The attention that each corner gets, ``[..., N, 2^P K]``."""
    return (alpha.unsqueeze(-2) * weight).flatten(-2)


def dot_rows(x: Tensor, table: Tensor, index: Tensor) -> Tensor:
    r"""Dot products of each node with its L rows: ``[N, C], [M, C] -> [N, L]``."""
    if index.numel() == 0 or len(table) == 0:
        return x.new_zeros(index.shape)
    # PyTorch's sampled product refuses a graph with more edges than the dense matrix has entries.
    sparse = x.device.type == "cpu" and index.shape[1] <= len(table)
    return _dot_csr(x, table, index) if sparse else _dot_chunked(x, table, index)


def _dot_csr(x: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Sampled dense-dense product on a CSR graph whose rows all have L entries."""
    num_nodes, degree = index.shape
    crow = torch.arange(0, index.numel() + 1, degree, dtype=index.dtype, device=index.device)
    # Zeros, although beta = 0: the product 0 * NaN of uninitialised memory would be NaN.
    out = x.new_zeros(index.shape)
    graph = _csr(crow, index.flatten(), out.view(-1), (num_nodes, len(table)))
    # In place: a result of its own would copy the indices too.
    torch.sparse.sampled_addmm(graph, x.contiguous(), table.contiguous().t(), beta=0.0, out=graph)
    return out


def _csr(crow: Tensor, col: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    # The layout is in beta, and PyTorch says so once a process, on the caller's screen.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(crow, col, values, size, check_invariants=False)


def _dot_chunked(x: Tensor, table: Tensor, index: Tensor) -> Tensor:
    step = max(1, _CHUNK // max(1, index.shape[1] * x.shape[1]))
    chunks = [
        # No matrix product, which autocast would round.
        (rows.unsqueeze(1) * table[at]).sum(dim=-1)
        for rows, at in zip(x.split(step), index.split(step), strict=True)
    ]
    return torch.cat(chunks)


def sum_rows(
    index: Tensor, terms: list[tuple[Tensor, Tensor]], ptr: Tensor | None = None
) -> Iterator[Tensor]:
    r"""Weighted sums of rows, added up over several weights and tables.

    In blocks of channels that fit the cache: time goes into memory here, most of all into memory
    that is new.

    Args:
        index: The rows ``[B, L]``; or ``[E]``, of which those from one of ``ptr`` to the next are
            summed.
        terms: For each, the weights, as many as indices, and the table ``[M, C]``.
        ptr: ``[B]``.

    Yields:
        ``[B, C_b]``, the sums in the next block of the C channels.
    """
    weights = [weight.reshape(index.shape).contiguous() for weight, _ in terms]
    tables = [table for _, table in terms]
    num_sums = len(index if ptr is None else ptr)
    # `embedding_bag` reads out of bounds where there is nothing to read or to write.
    if 0 in (num_sums, index.numel(), tables[0].numel()):
        yield tables[0].new_zeros(num_sums, tables[0].shape[1])
        return
    width = _block_width(tables[0], reads=index.numel())
    for blocks in zip(*(table.split(width, dim=1) for table in tables), strict=True):
        first, *others = (
            F.embedding_bag(index, block.contiguous(), ptr, mode="sum", per_sample_weights=weight)
            for weight, block in zip(weights, blocks, strict=True)
        )
        for other in others:
            first += other
        yield first


def _fill(out: Tensor, blocks: Iterable[Tensor]) -> None:
    """Writes blocks of channels side by side."""
    start = 0
    for block in blocks:
        out[:, start : start + block.shape[1]] = block
        start += block.shape[1]


def _concat(blocks: Iterator[Tensor], channels: int) -> Tensor:
    """Blocks of channels side by side, of which one at a time is in memory."""
    first = next(blocks)
    if first.shape[1] == channels:
        return first
    out = first.new_empty(len(first), channels)
    _fill(out, chain([first], blocks))
    return out


def reorder(weight: Tensor, order: Tensor) -> Tensor:
    r"""The weights ``[N, L]`` of edges in an order ``[N * L]``."""
    # Not by plain indexing, which would turn the order into int64 first.
    return weight.flatten().index_select(0, order)


def _block_width(table: Tensor, reads: int) -> int:
    """Channels of the blocks that a table is gathered in, all of about the same width."""
    num_rows, channels = table.shape
    # Copying a block pays where each of its rows is read often.
    if table.device.type != "cpu" or reads < _READS * num_rows:
        return channels
    fitting = max(_NARROWEST, _CACHE // (num_rows * table.element_size()))
    num_blocks = math.ceil(channels / fitting)
    return math.ceil(channels / num_blocks / _NARROWEST) * _NARROWEST

"""Sums over the rows of a table that each node listens to, for one group of channels."""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from dyngraph.ops.large_pages import new_output

# Elements of the temporary of `_dot_chunked`: 64 MB in float32.
_CHUNK = 2**24

# Tables that a CPU's cache does not hold, in bytes, are gathered in blocks of channels.
_CACHE = 4 * 2**20
_NARROWEST = 32
_READS = 8


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
    index: Tensor,
    terms: list[tuple[Tensor, Tensor]],
    ptr: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""Weighted sums of rows, added up over several weights and tables.

    In blocks of channels that fit the cache: time goes into memory here, most of all into memory
    that is new.

    Args:
        index: The rows ``[B, L]``; or ``[E]``, of which those from one of ``ptr`` to the next are
            summed.
        terms: For each, the weights, as many as indices, and the table ``[M, C]``.
        ptr: ``[B + 1]``.
        out: What is written to, ``[B, C]``.

    Returns:
        ``[B, C]``.
    """
    weights = [weight.reshape(index.shape).contiguous() for weight, _ in terms]
    tables = [table for _, table in terms]
    num_sums, channels = len(index if ptr is None else ptr[1:]), tables[0].shape[1]
    # `embedding_bag` reads out of bounds where there is nothing to read or to write.
    if 0 in (num_sums, index.numel(), tables[0].numel()):
        out = tables[0].new_empty(num_sums, channels) if out is None else out
        return out.zero_()
    width = _block_width(tables[0], reads=index.numel())
    if out is None and width >= channels:
        return _bags(index, weights, tables, ptr)
    out = new_output(tables[0], (num_sums, channels)) if out is None else out
    for start in range(0, channels, width):
        block = slice(start, start + width)
        out[:, block] = _bags(index, weights, [table[:, block] for table in tables], ptr)
    return out


def _bags(index: Tensor, weights: list[Tensor], tables: list[Tensor], ptr: Tensor | None) -> Tensor:
    """The sums of :func:`sum_rows`, in memory of their own."""
    first, *others = (
        F.embedding_bag(
            index,
            table.contiguous(),
            ptr,
            mode="sum",
            per_sample_weights=weight,
            include_last_offset=ptr is not None,
        )
        for weight, table in zip(weights, tables, strict=True)
    )
    for other in others:
        first += other
    return first


def _block_width(table: Tensor, reads: int) -> int:
    """Channels of the blocks that a table is gathered in, all of about the same width."""
    num_rows, channels = table.shape
    # Copying a block pays where each of its rows is read often.
    if table.device.type != "cpu" or not is_read_often(reads, num_rows):
        return channels
    fitting = max(_NARROWEST, _CACHE // (num_rows * table.element_size()))
    num_blocks = math.ceil(channels / fitting)
    return math.ceil(channels / num_blocks / _NARROWEST) * _NARROWEST


def is_read_often(reads: int, num_rows: int) -> bool:
    r"""Whether a number of reads is large enough to prepare a table for them."""
    return reads >= _READS * num_rows


def transpose_index(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    r"""The transposed graph: the edges ``[N * L]`` in the order of the rows, and where each starts.

    Returns:
        The order ``[N * L]`` and the row starts ``[M + 1]``, in the dtype of ``index``.
    """
    rows, order = index.flatten().sort(stable=True)
    ptr = index.new_zeros(num_rows + 1)
    torch.cumsum(rows.bincount(minlength=num_rows), dim=0, dtype=ptr.dtype, out=ptr[1:])
    return order.to(index.dtype), ptr


def reorder(weight: Tensor, order: Tensor) -> Tensor:
    r"""The weights ``[N, L]`` of edges in an order ``[N * L]``."""
    # Not by plain indexing, which would turn the order into int64 first.
    return weight.flatten().index_select(0, order)

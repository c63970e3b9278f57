r"""Three operators on a graph of fixed degree, closed under differentiation.

Node :math:`n` listens to L rows of a table, :math:`i_{n,1} \dots i_{n,L}`. In each of G groups of
channels:

.. math::
    \text{gather\_dot:} \quad & s_{n,l} = \mathbf{x}_n \cdot \mathbf{t}_{i_{n,l}} \\
    \text{gather\_sum:} \quad & \mathbf{y}_n = \sum_l w_{n,l} \, \mathbf{t}_{i_{n,l}} \\
    \text{scatter\_sum:} \quad & \mathbf{t}_m = \sum_{n, l : \, i_{n,l} = m} w_{n,l} \, \mathbf{x}_n

Each one's gradients are the other two. They are :mod:`torch.library` operators: compilers and
exporters see one opaque node each. None of them holds an ``[N, L, C]`` tensor.

Indices are ``[N, L]``, int32 or int64, and are trusted to be in range.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

# Elements of the temporary of `_dot_chunked`: 64 MB in float32.
_CHUNK = 2**24

# Tables that a CPU's cache does not hold, in bytes, are gathered in blocks of channels.
_CACHE = 4 * 2**20
_NARROWEST = 32
_READS = 8


@torch.library.custom_op("dyngraph::gather_dot", mutates_args=())
def gather_dot(x: Tensor, table: Tensor, index: Tensor, groups: int) -> Tensor:
    r"""Dot products of each node with its L rows: ``[N, C], [M, C] -> [G, N, L]``."""
    blocks = zip(x.chunk(groups, dim=1), table.chunk(groups, dim=1), strict=True)
    return torch.stack([dot_rows(block, rows, index) for block, rows in blocks])


@torch.library.custom_op("dyngraph::gather_sum", mutates_args=())
def gather_sum(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    r"""Weighted sum of each node's L rows: ``[G, N, L], [M, C] -> [N, C]``."""
    out = table.new_empty(len(index), table.shape[1])
    groups = len(weight)
    for part, plane, rows in zip(out.chunk(groups, 1), weight, table.chunk(groups, 1), strict=True):
        sum_rows(part, index, [(plane, rows)])
    return out


@torch.library.custom_op("dyngraph::scatter_sum", mutates_args=())
def scatter_sum(weight: Tensor, x: Tensor, order: Tensor, ptr: Tensor, num_rows: int) -> Tensor:
    r"""Sums weighted nodes into the rows that they listen to: ``[G, N, L], [N, C] -> [M, C]``.

    A :func:`gather_sum` over the transposed graph of :func:`transpose_index`: no atomics, so the
    result is the same in every run.
    """
    out = x.new_empty(num_rows, x.shape[1])
    groups = len(weight)
    node = order // max(weight.shape[2], 1)
    for part, plane, rows in zip(out.chunk(groups, 1), weight, x.chunk(groups, 1), strict=True):
        sum_rows(part, node, [(reorder(plane, order), rows)], ptr[:num_rows])
    return out


@torch.library.custom_op("dyngraph::transpose_index", mutates_args=())
def transpose_index(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    r"""The transposed graph: the edges ``[N * L]`` in the order of the rows, and where each starts.

    Returns:
        The order ``[N * L]`` and the row starts ``[M + 1]``, in the dtype of ``index``.
    """
    rows, order = index.flatten().sort(stable=True)
    boundaries = torch.arange(num_rows + 1, dtype=index.dtype, device=index.device)
    ptr = torch.searchsorted(rows, boundaries, out_int32=index.dtype == torch.int32)
    return order.to(index.dtype), ptr


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
    out: Tensor, index: Tensor, terms: list[tuple[Tensor, Tensor]], ptr: Tensor | None = None
) -> None:
    r"""Sets ``out`` to weighted sums of rows, added up over several weights and tables.

    In blocks of channels that fit the cache: time goes into memory here, most of all into memory
    that is new.

    Args:
        out: ``[B, C]``.
        index: The rows ``[B, L]``; or ``[E]``, of which those from one of ``ptr`` to the next are
            summed.
        terms: For each, the weights, as many as indices, and the table ``[M, C]``.
        ptr: ``[B]``.
    """
    weights = [weight.reshape(index.shape).contiguous() for weight, _ in terms]
    tables = [table for _, table in terms]
    # `embedding_bag` reads out of bounds where there is nothing to read or to write.
    if 0 in (out.numel(), index.numel(), tables[0].numel()):
        out.zero_()
        return
    width = _block_width(tables[0], reads=index.numel())
    parts = zip(out.split(width, 1), *(table.split(width, 1) for table in tables), strict=True)
    for part, *blocks in parts:
        sums = [
            F.embedding_bag(index, block.contiguous(), ptr, mode="sum", per_sample_weights=weight)
            for weight, block in zip(weights, blocks, strict=True)
        ]
        if len(sums) == 1:
            part.copy_(sums[0])
        else:
            torch.add(*sums, out=part)


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


@gather_dot.register_fake
def _(x: Tensor, table: Tensor, index: Tensor, groups: int) -> Tensor:
    return x.new_empty(groups, *index.shape)


@gather_sum.register_fake
def _(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    return table.new_empty(index.shape[0], table.shape[1])


@scatter_sum.register_fake
def _(weight: Tensor, x: Tensor, order: Tensor, ptr: Tensor, num_rows: int) -> Tensor:
    return x.new_empty(num_rows, x.shape[1])


@transpose_index.register_fake
def _(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    return index.new_empty(index.numel()), index.new_empty(num_rows + 1)


def _gather_dot_setup(ctx, inputs, output):
    x, table, index, _ = inputs
    ctx.save_for_backward(x, table, index)


def _gather_dot_backward(ctx, grad):
    x, table, index = ctx.saved_tensors
    grad_x = gather_sum(grad, table, index) if ctx.needs_input_grad[0] else None
    grad_table = scatter(grad, x, index, len(table)) if ctx.needs_input_grad[1] else None
    return grad_x, grad_table, None, None


def _gather_sum_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gather_sum_backward(ctx, grad):
    weight, table, index = ctx.saved_tensors
    groups = len(weight)
    grad_weight = gather_dot(grad, table, index, groups) if ctx.needs_input_grad[0] else None
    grad_table = scatter(weight, grad, index, len(table)) if ctx.needs_input_grad[1] else None
    return grad_weight, grad_table, None


def _scatter_sum_setup(ctx, inputs, output):
    weight, x, order, ptr, num_rows = inputs
    ctx.save_for_backward(weight, x, order, ptr)
    ctx.num_rows = num_rows


def _scatter_sum_backward(ctx, grad):
    weight, x, order, ptr = ctx.saved_tensors
    rows = torch.arange(ctx.num_rows, dtype=order.dtype, device=order.device)
    rows = rows.repeat_interleave(ptr.diff(), output_size=order.shape[0])
    index = torch.empty_like(order).scatter_(0, order.long(), rows)
    index = index.view(weight.shape[1:])
    groups = len(weight)
    grad_weight = gather_dot(x, grad, index, groups) if ctx.needs_input_grad[0] else None
    grad_x = gather_sum(weight, grad, index) if ctx.needs_input_grad[1] else None
    return grad_weight, grad_x, None, None, None


gather_dot.register_autograd(_gather_dot_backward, setup_context=_gather_dot_setup)
gather_sum.register_autograd(_gather_sum_backward, setup_context=_gather_sum_setup)
scatter_sum.register_autograd(_scatter_sum_backward, setup_context=_scatter_sum_setup)


@register_flop_formula([torch.ops.dyngraph.gather_dot, torch.ops.dyngraph.gather_sum])
def _gather_flops(first, table, index, *args, out_shape=None, **kwargs) -> int:
    return 2 * index[0] * index[1] * table[1]


@register_flop_formula(torch.ops.dyngraph.scatter_sum)
def _scatter_flops(weight, x, *args, out_shape=None, **kwargs) -> int:
    return 2 * weight[1] * weight[2] * x[1]


def scatter(weight: Tensor, x: Tensor, index: Tensor, num_rows: int) -> Tensor:
    r""":func:`scatter_sum` along the graph of ``index``."""
    return scatter_sum(weight, x, *transpose_index(index, num_rows), num_rows)

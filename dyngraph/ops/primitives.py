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

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

# Elements of the temporary of `_dot_chunked`: 64 MB in float32.
_CHUNK = 2**24

# Bytes of a table that a CPU's cache holds. Wider tables are gathered in blocks of channels.
_CACHE = 4 * 2**20


@torch.library.custom_op("dyngraph::gather_dot", mutates_args=())
def gather_dot(x: Tensor, table: Tensor, index: Tensor, groups: int) -> Tensor:
    r"""Dot products of each node with its L rows: ``[N, C], [M, C] -> [G, N, L]``."""
    # PyTorch's sampled product refuses a graph with more edges than the dense matrix has entries.
    sparse = x.device.type == "cpu" and index.shape[1] <= len(table)
    dot = _dot_csr if sparse else _dot_chunked
    # Zeros, although the sampled product overwrites them: 0 * NaN of old memory would be NaN.
    out = x.new_zeros(groups, *index.shape)
    blocks = zip(out, x.chunk(groups, dim=1), table.chunk(groups, dim=1), strict=True)
    for plane, block, rows in blocks:
        dot(block, rows, index, plane)
    return out


@torch.library.custom_op("dyngraph::gather_sum", mutates_args=())
def gather_sum(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    r"""Weighted sum of each node's L rows: ``[G, N, L], [M, C] -> [N, C]``."""
    return _sum_rows(weight, table, index)


@torch.library.custom_op("dyngraph::scatter_sum", mutates_args=())
def scatter_sum(weight: Tensor, x: Tensor, order: Tensor, ptr: Tensor, num_rows: int) -> Tensor:
    r"""Sums weighted nodes into the rows that they listen to: ``[G, N, L], [N, C] -> [M, C]``.

    A :func:`gather_sum` over the transposed graph of :func:`transpose_index`: no atomics, so the
    result is the same in every run.
    """
    node = order // max(weight.shape[2], 1)
    return _sum_rows(weight, x, node, order, ptr[:num_rows])


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


def _dot_csr(x: Tensor, table: Tensor, index: Tensor, out: Tensor) -> None:
    """Sampled dense-dense product on a CSR graph whose rows all have L entries."""
    num_nodes, degree = index.shape
    if index.numel() == 0:
        return
    crow = torch.arange(0, index.numel() + 1, degree, dtype=index.dtype, device=index.device)
    graph = _csr(crow, index.flatten(), out.view(-1), (num_nodes, len(table)))
    # In place: a result of its own would also copy the indices.
    torch.sparse.sampled_addmm(graph, x.contiguous(), table.contiguous().t(), beta=0.0, out=graph)


def _csr(crow: Tensor, col: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    # The layout is in beta, and PyTorch says so once a process, on the caller's screen.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(crow, col, values, size, check_invariants=False)


def _dot_chunked(x: Tensor, table: Tensor, index: Tensor, out: Tensor) -> None:
    step = max(1, _CHUNK // max(1, index.shape[1] * x.shape[1]))
    for plane, rows, at in zip(out.split(step), x.split(step), index.split(step), strict=True):
        # No matrix product, which autocast would round.
        torch.sum(rows.unsqueeze(1) * table[at], dim=-1, out=plane)


def _sum_rows(
    weight: Tensor,
    table: Tensor,
    index: Tensor,
    order: Tensor | None = None,
    ptr: Tensor | None = None,
) -> Tensor:
    """Weighted sums of rows: a bag for each row of ``index``, or edges in ``order`` cut at ``ptr``.

    In blocks of channels that fit the cache, written to one result: time goes into memory here, and
    most of all into memory that is new.
    """
    num_bags = len(index) if ptr is None else len(ptr)
    if index.numel() == 0 or table.numel() == 0:
        return table.new_zeros(num_bags, table.shape[1])
    groups = len(weight)
    width = _block_width(table, table.shape[1] // groups)
    out = table.new_empty(num_bags, table.shape[1])
    for plane, rows, part in zip(
        weight, table.chunk(groups, dim=1), out.chunk(groups, dim=1), strict=True
    ):
        # `index_select`: plain indexing would first turn the order into int64.
        ordered = plane if order is None else plane.flatten().index_select(0, order)
        for block, result in zip(rows.split(width, dim=1), part.split(width, dim=1), strict=True):
            bags = F.embedding_bag(
                index,
                block.contiguous(),
                ptr,
                mode="sum",
                per_sample_weights=ordered.contiguous(),
            )
            if bags.shape == out.shape:
                return bags
            result.copy_(bags)
    return out


def _block_width(table: Tensor, channels: int) -> int:
    """Channels of a block of the table that fits the cache, a multiple of 32."""
    if table.device.type != "cpu":
        return channels
    fitting = _CACHE // (len(table) * table.element_size())
    return min(channels, max(32, fitting // 32 * 32))


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

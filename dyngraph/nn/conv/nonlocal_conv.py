from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import OptTensor, PairTensor

from dyngraph.derivatives import differentiable_gradients, transforms_active
from dyngraph.grid import Grid
from dyngraph.nn.conv.attention_conv import AttentionConv
from dyngraph.nn.conv.given_edges import WeightedGraph


class NonLocalConv(AttentionConv):
    r"""The Non-local operator: attention over all nodes of the same map.

    .. math::
        \tilde{\mathbf{x}}_i = \sum_j \mathrm{softmax}_j \big(
        \theta(\mathbf{x}_i) \cdot \phi(\mathbf{x}_j) \big) \, g(\mathbf{x}_j)

    From "Non-local Neural Networks" (CVPR 2018,
    `arXiv:1711.07971 <https://arxiv.org/abs/1711.07971>`__) in the notation of "Representative
    Graph Neural Network" (ECCV 2020), Eq. 1-2. On a grid it runs
    :func:`~torch.nn.functional.scaled_dot_product_attention` and never holds an ``[N, N]`` matrix,
    unless attention weights are asked for. On a sampled graph it attends to the samples 0 to the
    largest number in :obj:`edge_sample`.

    Args:
        in_channels: The channels of the nodes, or -1 to take them from the first input. A tuple
            holds the channels of source and target nodes.
        hidden_channels: The channels of queries, keys, values and output. None: no projections.
        groups: The number of contiguous channel groups, each with its own attention.
        bias: Whether the projections have biases.
        **kwargs: Arguments of :class:`torch_geometric.nn.MessagePassing`.

    Raises:
        ValueError: If ``groups`` does not divide the channels, or ``aggr`` is not the sum.

    Shapes:
        - **input:** ``x [N, C]`` or ``(x_src, x_dst)``, and a grid or ``edge_index [2, E]``
        - **output:** ``[N, hidden_channels]``

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.nn import NonLocalConv
        >>> x, grid = torch.randn(20, 8), Grid([[4, 5]])
        >>> conv = NonLocalConv(8, 16)
        >>> conv(x, grid).shape
        torch.Size([20, 16])
        >>> conv(x, torch.tensor([[0, 1, 2], [3, 3, 4]])).shape  # along given edges
        torch.Size([20, 16])
    """

    def attend(
        self, x: PairTensor, grid: Grid, return_edges: bool
    ) -> Tuple[Tensor, Optional[WeightedGraph]]:
        if return_edges:
            pairs = _all_pairs(grid)
            attended, alpha = self.attend_along(x, pairs, None, None)
            return attended, (pairs, alpha)
        query, key, value = self.queries_keys_values(x)
        lengths = [run.num_nodes for run in grid.runs]
        out = [
            _attention(q, k, v, count, _num_nodes(shape), self.groups)
            for q, k, v, (count, shape) in zip(
                query.split(lengths), key.split(lengths), value.split(lengths), grid.runs
            )
        ]
        return (out[0] if len(out) == 1 else torch.cat(out)), None


def _num_nodes(shape: Tuple[int, ...]) -> int:
    num_nodes = 1
    for length in shape:
        num_nodes *= length
    return num_nodes


def _attention(
    query: Tensor, key: Tensor, value: Tensor, maps: int, nodes: int, groups: int
) -> Tensor:
    """Attention inside each of several equally large maps, ``[maps * nodes, C]``."""
    query, key, value = (
        part.unflatten(0, (maps, nodes)).unflatten(2, (groups, -1)).transpose(1, 2)
        for part in (query, key, value)
    )
    if transforms_active():
        out = _dense_attention(query, key, value)
    else:
        out = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        # Compiled programs have no second derivatives.
        if out.requires_grad and not torch.compiler.is_compiling():
            out = _TwiceDifferentiable.apply(out, query, key, value)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


def _dense_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula, which has the derivatives that PyTorch's fused kernels lack."""
    return (query @ key.transpose(-2, -1)).softmax(dim=-1) @ value


class _TwiceDifferentiable(torch.autograd.Function):
    """Fused attention; a gradient that is to be differentiated comes from the formula."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return out.detach()

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Tuple[OptTensor, ...]:
        if not (torch.is_grad_enabled() or transforms_active()):
            return grad_out, None, None, None
        inputs, wanted = ctx.saved_tensors, list(ctx.needs_input_grad[1:])
        grads = differentiable_gradients(
            lambda *parts: (_dense_attention(*parts),), inputs, wanted, (grad_out,)
        )
        return None, *grads


def _all_pairs(grid: Grid) -> Tensor:
    """The complete graph of each map, self-loops included, ``[2, sum of n^2]``."""
    pairs = [torch.empty(2, 0, dtype=torch.long, device=grid.device)]
    first = 0
    for shape in grid.shapes:
        nodes = first + torch.arange(_num_nodes(shape), device=grid.device)
        pairs.append(torch.cartesian_prod(nodes, nodes).t().flip(0))
        first += len(nodes)
    return torch.cat(pairs, dim=1)

"""Checks of graphs passed to a layer, and of what their edges carry."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch_geometric.typing import Adj, OptTensor, PairTensor, SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, to_edge_index
from torch_geometric.utils.sparse import set_sparse_value

from dyngraph.grid import Grid

WeightedGraph: TypeAlias = tuple[Adj, Tensor] | SparseTensor
"""A graph and the attention ``[E, G]`` of its edges, as PyG's layers return them."""


def sum_messages(kwargs: dict[str, Any]) -> dict[str, Any]:
    r"""The arguments of a ``MessagePassing`` layer whose formula is a sum.

    Raises:
        ValueError: If ``aggr`` is something else.
    """
    aggr = kwargs.get("aggr", "add")
    if aggr not in ("add", "sum"):
        raise ValueError(
            f"aggr: expected 'add' or 'sum', as the layer's formula is a sum, got {aggr!r}"
        )
    return {**kwargs, "aggr": "add"}


def check_rows(x: PairTensor, grid: Grid, edge_weight: OptTensor, edge_sample: OptTensor) -> None:
    r"""Raises a :class:`ValueError` unless ``x`` are a grid's nodes and no edges are described."""
    for name, value in (("edge_weight", edge_weight), ("edge_sample", edge_sample)):
        if value is not None:
            raise ValueError(f"{name}: expected None, because on a grid the layer makes the edges")
    for part in x:
        if part.size(0) != grid.num_nodes:
            raise ValueError(
                f"x: expected a row for each of the {grid.num_nodes} nodes of {grid}, "
                f"got shape {list(part.shape)}"
            )


def check_edges(
    edge_index: Adj, x: PairTensor, edge_weight: OptTensor, edge_sample: OptTensor
) -> OptTensor:
    r"""Checks a graph against the nodes ``x``, and returns the weights ``[E]`` of its edges.

    The values of a sparse matrix are its weights if no others are given, as everywhere in PyG.

    Raises:
        TypeError: If ``edge_index`` is no graph, or ``edge_sample`` does not hold integers.
        ValueError: If an edge ends at no node, or there is not one weight and one sample per edge.
    """
    if not isinstance(edge_index, (Tensor, SparseTensor)):
        raise TypeError(
            f"edge_index: expected a Grid, edges [2, E] or a sparse tensor, "
            f"got {type(edge_index).__name__}"
        )
    values = None
    if isinstance(edge_index, SparseTensor):
        num_edges, values = edge_index.nnz(), edge_index.storage.value()
    elif is_torch_sparse_tensor(edge_index):
        values = to_edge_index(edge_index)[1]
        num_edges = values.size(0)
    else:
        _check_nodes(edge_index, x)
        num_edges = edge_index.size(1)
    edge_weight = values if edge_weight is None else edge_weight
    for name, value in (("edge_weight", edge_weight), ("edge_sample", edge_sample)):
        if value is not None and (value.dim() != 1 or value.size(0) != num_edges):
            raise ValueError(
                f"{name}: expected one per edge [E] = [{num_edges}], got shape {list(value.shape)}"
            )
    if edge_sample is not None and edge_sample.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"edge_sample: expected int32 or int64, got {edge_sample.dtype}")
    return edge_weight


def with_attention(edge_index: Adj, alpha: Tensor) -> WeightedGraph:
    r"""A graph with the attention ``alpha [E, G]`` of its edges, as PyG's layers return it."""
    if isinstance(edge_index, SparseTensor):
        return edge_index.set_value(alpha, layout="coo")
    if is_torch_sparse_tensor(edge_index):
        return set_sparse_value(edge_index, alpha), alpha
    return edge_index, alpha


def check_samples(edge_sample: Tensor, num_samples: int) -> None:
    r"""Raises a :class:`ValueError` unless all samples are below ``num_samples``."""
    if not _can_look(edge_sample):
        return
    low, high = edge_sample.min().item(), edge_sample.max().item()
    if low < 0 or high >= num_samples:
        raise ValueError(
            f"edge_sample: expected samples in [0, {num_samples}), got samples from {low} to {high}"
        )


def _check_nodes(edge_index: Tensor, x: PairTensor) -> None:
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(f"edge_index: expected shape [2, E], got {list(edge_index.shape)}")
    if not _can_look(edge_index):
        return
    for name, row, part in zip(("source", "target"), edge_index, x, strict=True):
        low, high = row.min().item(), row.max().item()
        if low < 0 or high >= part.size(0):
            raise ValueError(
                f"edge_index: expected {name} nodes in [0, {part.size(0)}), "
                f"got nodes from {low} to {high}"
            )


def _can_look(tensor: Tensor) -> bool:
    # On an accelerator looking would wait for the device, and its kernels check by themselves.
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    return tensor.numel() > 0


def targets(edge_index: Adj, flow: str) -> Tensor:
    r"""The target of each edge, ``[E]``, in the order in which messages are passed."""
    if isinstance(edge_index, SparseTensor) or is_torch_sparse_tensor(edge_index):
        index: Tensor = to_edge_index(edge_index)[0][0]
    else:
        index = edge_index[1 if flow == "source_to_target" else 0]
    return index


def samples_in_order(index: Tensor, num_nodes: int, num_samples: int) -> Tensor | None:
    r"""The samples ``[E]`` of edges if every node has one per sample, in order.

    Args:
        index: The target of each edge, ``[E]``.
        num_nodes: N.
        num_samples: K.

    Returns:
        The place of each edge among those of its target; None unless all have K.
    """
    if index.numel() != num_nodes * num_samples:
        return None
    order = index.argsort(stable=True)
    want = torch.arange(num_nodes, device=index.device).repeat_interleave(num_samples)
    if not torch.equal(index[order], want):
        return None
    place = torch.arange(num_samples, device=index.device).repeat(num_nodes)
    return torch.empty_like(place).index_copy(0, order, place)

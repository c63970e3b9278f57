r"""Sampling and message passing on a :class:`~dyngraph.Neighborhood`.

Two primitives carry everything, and each is the other's gradient: :func:`sampled_score` (dot
products with interpolated keys) and :func:`sampled_sum` (weighted sums of interpolated values).

Where each group of channels has samples of its own (``pos [N, G, K, P]``), groups are computed as
maps of their own.

Sums over features of a half type are computed in float32 and returned in their own type. Positions
and interpolation weights are never rounded to a half type.

In every backend a feature that is not finite makes all that reads it along an edge of
:meth:`~dyngraph.Neighborhood.edges`, of weight 0 too, NaN or infinite, and leaves the rest as it
is, to the bit. A score of :math:`-\infty` masks its sample.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dyngraph.ops import pyg_backend
from dyngraph.ops.backend import accumulator, resolve_backend
from dyngraph.ops.groups import join_groups, split_groups
from dyngraph.ops.operator_backend import OperatorBackend

if TYPE_CHECKING:
    from dyngraph.neighborhood import Neighborhood

_BACKENDS: dict[str, ModuleType | OperatorBackend] = {
    "pyg": pyg_backend,
    "torch": OperatorBackend("torch"),
    "triton": OperatorBackend("triton"),
}


def interpolate(x: Tensor, near: Neighborhood, *, backend: str = "auto") -> Tensor:
    r"""Multilinear interpolation of node features at the samples, ``[M, C] -> [N, K, C]``.

    Where each group has samples of its own, ``[M, C] -> [N, G, K, C / G]``.

    Equal to :func:`torch.nn.functional.grid_sample` with ``align_corners=True``, in units of nodes.

    Args:
        x: Sender features ``[M, C]``.
        near: The samples of N nodes.
        backend: ``"auto"``, ``"pyg"``, ``"torch"`` or ``"triton"``.

    Raises:
        ValueError: If ``x`` does not have a row for every sender node, or ``backend`` is unknown.
    """
    _check_table("x", x, near)
    if (groups := near.num_groups) is not None:
        _check_groups(groups, x.shape[1])
        samples = interpolate(split_groups(x, groups), near.by_group(), backend=backend)
        return samples.unflatten(0, (groups, -1)).transpose(0, 1)
    run, x_ = _prepare(backend, x)
    return run.interpolate(x_, near, _corner_weight(near, x_)).to(x.dtype)


def scatter_interpolate(values: Tensor, near: Neighborhood, *, backend: str = "auto") -> Tensor:
    r"""Adjoint of :func:`interpolate`: spreads samples to their corners, ``[N, K, C] -> [M, C]``.

    Where each group has samples of its own, ``[N, G, K, C / G] -> [M, C]``.

    Args:
        values: Features of the samples ``[N, K, C]``, or ``[N, G, K, C / G]``.
        near: The samples of N nodes.
        backend: ``"auto"``, ``"pyg"``, ``"torch"`` or ``"triton"``.

    Raises:
        ValueError: If ``values`` is of another shape, or ``backend`` is unknown.
    """
    if values.dim() != near.pos.dim() or values.shape[:-1] != near.pos.shape[:-1]:
        names = "[N, K, C]" if near.num_groups is None else "[N, G, K, C / G]"
        shape = [*near.pos.shape[:-1], "C"]
        raise ValueError(
            f"values: expected shape {names} = [{', '.join(map(str, shape))}], "
            f"got {list(values.shape)}"
        )
    if near.num_groups is not None:
        by_group = values.transpose(0, 1).flatten(0, 1)
        spread = scatter_interpolate(by_group, near.by_group(), backend=backend)
        return join_groups(spread, near.num_groups)
    run, values_ = _prepare(backend, values)
    weight = _corner_weight(near, values_)
    return run.scatter_interpolate(values_, near, weight).to(values.dtype)


def sampled_score(
    query: Tensor, key: Tensor, near: Neighborhood, groups: int = 1, *, backend: str = "auto"
) -> Tensor:
    r"""Dot products with interpolated keys.

    .. math::
        s_{i,g,k} = \mathbf{q}_{i,g} \cdot \mathbf{k}_g(\mathbf{p}_{i,k})

    Args:
        query: ``[N, C]``, a row for every node that listens.
        key: ``[M, C]``, a row for every sender node.
        near: The samples of N nodes.
        groups: G, the number of contiguous channel groups.
        backend: ``"auto"``, ``"pyg"``, ``"torch"`` or ``"triton"``.

    Returns:
        ``[N, G, K]``.

    Raises:
        ValueError: If shapes don't fit, ``groups`` does not divide C, or ``backend`` is unknown.
    """
    _check_query(query, near)
    _check_table("key", key, near)
    _check_channels(query, key)
    _check_groups(groups, key.shape[1], near)
    if near.num_groups is not None:
        query_, key_ = (split_groups(x, groups) for x in (query, key))
        score = sampled_score(query_, key_, near.by_group(), backend=backend)
        return score.unflatten(0, (groups, -1)).squeeze(2).transpose(0, 1)
    run, query_, key_ = _prepare(backend, query, key)
    weight = _corner_weight(near, key_)
    return run.sampled_score(query_, key_, near, weight, groups).to(query.dtype)


def sampled_sum(
    weight: Tensor, value: Tensor, near: Neighborhood, *, backend: str = "auto"
) -> Tensor:
    r"""Weighted sums of interpolated values.

    .. math::
        \mathbf{y}_{i,g} = \sum_k w_{i,g,k} \, \mathbf{v}_g(\mathbf{p}_{i,k})

    Args:
        weight: ``[N, G, K]``, where G divides C.
        value: ``[M, C]``, a row for every sender node.
        near: The samples of N nodes.
        backend: ``"auto"``, ``"pyg"``, ``"torch"`` or ``"triton"``.

    Returns:
        ``[N, C]``.

    Raises:
        ValueError: If shapes don't fit, or ``backend`` is unknown.
    """
    n, k = near.pos.shape[0], near.num_samples
    if weight.dim() != 3 or (weight.shape[0], weight.shape[2]) != (n, k):
        raise ValueError(
            f"weight: expected shape [N, G, K] = [{n}, G, {k}], got {list(weight.shape)}"
        )
    _check_table("value", value, near)
    groups = weight.shape[1]
    _check_groups(groups, value.shape[1], near)
    if near.num_groups is not None:
        by_group = weight.transpose(0, 1).flatten(0, 1).unsqueeze(1)
        value_ = split_groups(value, groups)
        return join_groups(sampled_sum(by_group, value_, near.by_group(), backend=backend), groups)
    run, value_ = _prepare(backend, value)
    corner_weight = _corner_weight(near, value_)
    weight = weight.to(corner_weight.dtype)
    return run.sampled_sum(weight, value_, near, corner_weight).to(value.dtype)


def sampled_convolution(
    x: Tensor, filters: Tensor, near: Neighborhood, *, backend: str = "auto"
) -> Tensor:
    r"""A convolution over the samples, as a deformable convolution is.

    .. math::
        \mathbf{z}_i = \sum_k W_k \, \mathbf{x}(\mathbf{p}_{i,k})

    Args:
        x: Sender features ``[M, C]``.
        filters: The matrices :math:`W_k`, ``[O, C, K]``: the weights of a convolution with O
            outputs, flattened over the kernel.
        near: The samples of N nodes, shared by all channels.
        backend: ``"auto"``, ``"pyg"``, ``"torch"`` or ``"triton"``.

    Returns:
        ``[N, O]``.

    Raises:
        ValueError: If shapes don't fit, or ``backend`` is unknown.
    """
    _check_table("x", x, near)
    if near.num_groups is not None:
        raise ValueError(f"near: expected positions [N, K, P], got {list(near.pos.shape)}")
    expected = [x.shape[1], near.num_samples]
    if filters.dim() != 3 or list(filters.shape[1:]) != expected:
        raise ValueError(
            f"filters: expected shape [O, C, K] = [O, {expected[0]}, {expected[1]}], "
            f"got {list(filters.shape)}"
        )
    run, x_, filters_ = _prepare(backend, x, filters)
    weight = _corner_weight(near, x_)
    return run.sampled_convolution(x_, filters_, near, weight).to(x.dtype)


def sampled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    near: Neighborhood,
    groups: int = 1,
    scale: float = 1.0,
    bias: Tensor | None = None,
    *,
    return_weights: bool = False,
    recompute: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Attention of every node over its samples.

    .. math::
        \mathbf{y}_{i,g} = \sum_k \mathrm{softmax}_k \big( \sigma \, \mathbf{q}_{i,g} \cdot
        \mathbf{k}_g(\mathbf{p}_{i,k}) + b_{i,g,k} \big) \, \mathbf{v}_g(\mathbf{p}_{i,k})

    Passing the same tensor as ``key`` and ``value`` samples it only once.

    Args:
        query: ``[N, C]``, a row for every node that listens.
        key: ``[M, C]``, a row for every sender node.
        value: ``[M, C']``, a row for every sender node.
        near: The samples of N nodes.
        groups: G, the number of contiguous channel groups, each with its own attention.
        scale: σ, the factor of the scores. The papers use 1, not :math:`1 / \sqrt{C}`.
        bias: ``[N, G, K]``, added to the scores.
        return_weights: Whether to return the attention ``[N, G, K]`` too, in at least float32.
        recompute: Whether the backward pass computes scores again instead of keeping those of all
            corners, ``[N, G, K, 2^P]``. ``"pyg"`` always keeps its edges, ``"triton"`` always
            recomputes.
        backend: ``"auto"``, ``"pyg"``, ``"torch"`` or ``"triton"``.

    Returns:
        ``[N, C']``, and the attention ``[N, G, K]`` if ``return_weights``.

    Raises:
        ValueError: If shapes don't fit, ``groups`` does not divide the channels, or ``backend`` is
            unknown.
    """
    _check_query(query, near)
    _check_table("key", key, near)
    _check_table("value", value, near)
    _check_channels(query, key)
    _check_groups(groups, key.shape[1], near)
    _check_groups(groups, value.shape[1])
    shape = [near.pos.shape[0], groups, near.num_samples]
    if bias is not None and list(bias.shape) != shape:
        raise ValueError(f"bias: expected shape [N, G, K] = {shape}, got {list(bias.shape)}")
    if near.num_groups is not None:
        query_, key_ = (split_groups(x, groups) for x in (query, key))
        out, alpha = sampled_attention(
            query_,
            key_,
            key_ if value is key else split_groups(value, groups),
            near.by_group(),
            scale=scale,
            bias=None if bias is None else bias.transpose(0, 1).flatten(0, 1).unsqueeze(1),
            return_weights=True,
            recompute=recompute,
            backend=backend,
        )
        out, alpha = join_groups(out, groups), alpha.unflatten(0, (groups, -1)).squeeze(2)
        return (out, alpha.transpose(0, 1)) if return_weights else out
    run, query_, key_, value_ = _prepare(backend, query, key, value)
    out, alpha = run.sampled_attention(
        query_,
        key_,
        key_ if value is key else value_,
        near,
        groups,
        float(scale),
        None if bias is None else bias.to(accumulator(query_.dtype)),
        recompute,
    )
    out = out.to(value.dtype)
    return (out, alpha) if return_weights else out


def _prepare(backend: str, *features: Tensor) -> tuple[Any, ...]:
    """The backend, and features in the dtype that it computes in."""
    name = resolve_backend(backend, features[0].device)
    dtype = features[0].dtype
    for feature in features[1:]:
        dtype = torch.promote_types(dtype, feature.dtype)
    # Triton's kernels read half types and sum in float32.
    computed = dtype if name == "triton" else accumulator(dtype)
    return _BACKENDS[name], *(feature.to(computed) for feature in features)


def _corner_weight(near: Neighborhood, features: Tensor) -> Tensor:
    """The interpolation weights in the dtype that features are summed in."""
    return near.weight.to(accumulator(features.dtype))


def _check_query(query: Tensor, near: Neighborhood) -> None:
    if query.dim() != 2 or query.shape[0] != near.receiver.num_nodes:
        raise ValueError(
            f"query: expected shape [N, C] = [{near.receiver.num_nodes}, C], "
            f"got {list(query.shape)}"
        )


def _check_table(name: str, table: Tensor, near: Neighborhood) -> None:
    if table.dim() != 2 or table.shape[0] != near.grid.num_nodes:
        raise ValueError(
            f"{name}: expected shape [M, C] = [{near.grid.num_nodes}, C], got {list(table.shape)}"
        )


def _check_channels(query: Tensor, key: Tensor) -> None:
    if query.shape[1] != key.shape[1]:
        raise ValueError(
            f"key: expected as many channels as query ({query.shape[1]}), got {key.shape[1]}"
        )


def _check_groups(groups: int, channels: int, near: Neighborhood | None = None) -> None:
    if groups < 1 or channels % groups:
        raise ValueError(f"groups: expected a divisor of {channels} channels, got {groups}")
    if near is not None and near.num_groups not in (None, groups):
        raise ValueError(f"groups: expected {near.num_groups}, as near has, got {groups}")

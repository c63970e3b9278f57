r"""Sampling and message passing on a :class:`~dyngraph.Neighborhood`.

Two primitives carry everything, and each is the other's gradient: :func:`sampled_score` (dot
products with interpolated keys) and :func:`sampled_sum` (weighted sums of interpolated values).

A call is one operator, or two: the corners of the samples, which depend on positions alone, and
what is summed over them. Operators that use the same samples may share their :func:`find_corners`.

Sums over features of a half type are computed in float32 and returned in their own type. Positions
and interpolation weights are never rounded to a half type.

In every backend a feature that is not finite makes all that reads it along an edge of
:meth:`~dyngraph.Neighborhood.edges`, of weight 0 too, NaN or infinite, and leaves the rest as it
is, to the bit. A score of :math:`-\infty` masks its sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from dyngraph import multilinear
from dyngraph.derivatives import transforms_active
from dyngraph.multilinear import Maps, flatten_maps, index_dtype
from dyngraph.neighborhood import Corners, Neighborhood
from dyngraph.ops import along_edges, operators
from dyngraph.ops.backend import resolve_backend
from dyngraph.ops.kernels import load_kernels
from dyngraph.ops.precision import accumulator
from dyngraph.ops.project import project

_SUMS = ("corners", "edges")


def find_corners(near: Neighborhood, *, backend: str = "auto") -> Corners:
    r"""The corners of all samples, to be shared by operators that use the same samples.

    Args:
        near: The samples.
        backend: ``"auto"``, ``"pyg"``, ``"torch"``, ``"native"`` or ``"triton"``.

    Returns:
        Indices and interpolation weights ``[N, H, 2^P, K]``, H = G where groups have samples of
        their own, else 1.

    Raises:
        ValueError: If ``backend`` is unknown, or can't serve the samples.

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.ops import find_corners, sampled_score, sampled_sum
        >>> from dyngraph.samplers import OffsetSampler
        >>> x, grid = torch.randn(20, 8), Grid([[4, 5]])
        >>> near = OffsetSampler(8, num_samples=3)(x, grid)
        >>> corners = find_corners(near)
        >>> score = sampled_score(x, x, near, corners=corners)
        >>> sampled_sum(score.softmax(dim=2), x, near, corners=corners).shape
        torch.Size([20, 8])
    """
    name = resolve_backend(backend, near.pos.device, ("corners",))
    if _in_standard_operators(name):
        return near.corners()
    pos, maps = near.pos_of_groups, near.maps
    border = near.padding_mode == "border"
    return Corners(
        *operators.corners(pos, flatten_maps(maps), border, index_dtype(pos, maps), name)
    )


def interpolate(
    x: Tensor, near: Neighborhood, *, corners: Corners | None = None, backend: str = "auto"
) -> Tensor:
    r"""Multilinear interpolation of node features at the samples, ``[M, C] -> [N, K, C]``.

    Where each group has samples of its own, ``[M, C] -> [N, G, K, C / G]``.

    Equal to :func:`torch.nn.functional.grid_sample` with ``align_corners=True``, in units of nodes.

    Args:
        x: Sender features ``[M, C]``.
        near: The samples of N nodes.
        corners: Those of ``near``, by :func:`find_corners`. Defaults to finding them.
        backend: ``"auto"``, ``"pyg"``, ``"torch"``, ``"native"`` or ``"triton"``.

    Raises:
        TypeError: If ``x`` is not of a floating-point dtype.
        ValueError: If ``x`` does not have a row for every sender node, or as many channels as all
            groups together, is on another device than ``near``, ``corners`` are not those of
            ``near``, or ``backend`` is unknown or can't serve the call.

    Equivalent PyTorch:
        >>> import torch
        >>> from torch.nn.functional import grid_sample
        >>> from dyngraph import Grid, Neighborhood
        >>> from dyngraph.ops import interpolate
        >>> maps, pos = torch.randn(1, 8, 4, 5), 5 * torch.rand(20, 3, 2) - 1
        >>> grid = Grid.of(maps)
        >>> out = interpolate(grid.flatten(maps), Neighborhood(grid, pos))
        >>> place = 2 * pos.flip(2) / torch.tensor([4, 3]) - 1  # x before y, from -1 to 1
        >>> same = grid_sample(maps, place.unsqueeze(0), align_corners=True)
        >>> torch.allclose(out, same[0].permute(1, 2, 0), atol=1e-5)
        True
    """
    _check_table("x", x, near)
    own = near.num_groups or 1
    _check_groups(own, x.shape[1])
    name, corners, (x_,) = _prepare(backend, near, corners, x=x)
    if _in_standard_operators(name):
        samples = along_edges.interpolate(x_, corners)
    else:
        index, weight = _rows_of_samples(corners)
        samples = operators.gather_sum(weight, x_, index, name)
        samples = samples.view(len(near.pos), near.num_samples, own, x.shape[1] // own).transpose(
            1, 2
        )
    samples = samples.to(x.dtype)
    return samples.squeeze(1) if near.num_groups is None else samples


def scatter_interpolate(
    values: Tensor, near: Neighborhood, *, corners: Corners | None = None, backend: str = "auto"
) -> Tensor:
    r"""Adjoint of :func:`interpolate`: spreads samples to their corners, ``[N, K, C] -> [M, C]``.

    Where each group has samples of its own, ``[N, G, K, C / G] -> [M, C]``.

    Args:
        values: Features of the samples ``[N, K, C]``, or ``[N, G, K, C / G]``.
        near: The samples of N nodes.
        corners: Those of ``near``, by :func:`find_corners`. Defaults to finding them.
        backend: ``"auto"``, ``"pyg"``, ``"torch"``, ``"native"`` or ``"triton"``.

    Raises:
        TypeError: If ``values`` is not of a floating-point dtype.
        ValueError: If ``values`` is of another shape or on another device than ``near``,
            ``corners`` are not those of ``near``, or ``backend`` is unknown or can't serve the
            call.

    Equivalent PyTorch:
        >>> import torch
        >>> from dyngraph import Grid, Neighborhood
        >>> from dyngraph.ops import interpolate, scatter_interpolate
        >>> near = Neighborhood(Grid([[4, 5]]), 5 * torch.rand(20, 3, 2) - 1)
        >>> x, values = torch.zeros(20, 8, requires_grad=True), torch.randn(20, 3, 8)
        >>> (same,) = torch.autograd.grad(interpolate(x, near), x, values)
        >>> torch.allclose(scatter_interpolate(values, near), same, atol=1e-5)
        True
    """
    if values.dim() != near.pos.dim() or values.shape[:-1] != near.pos.shape[:-1]:
        names = "[N, K, C]" if near.num_groups is None else "[N, G, K, C / G]"
        shape = [*near.pos.shape[:-1], "C"]
        raise ValueError(
            f"values: expected shape {names} = [{', '.join(map(str, shape))}], "
            f"got {list(values.shape)}"
        )
    name, corners, (values_,) = _prepare(backend, near, corners, values=values)
    values_ = values_.unsqueeze(1) if near.num_groups is None else values_
    if _in_standard_operators(name):
        out = along_edges.scatter_interpolate(values_, corners, near.grid.num_nodes)
    else:
        index, weight = _rows_of_samples(corners)
        rows = values_.transpose(1, 2).flatten(0, 1).flatten(1)
        out = operators.scatter_sum(weight, rows, index, near.grid.num_nodes, name)
    return out.to(values.dtype)


def sampled_score(
    query: Tensor,
    key: Tensor,
    near: Neighborhood,
    groups: int = 1,
    *,
    corners: Corners | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Dot products with interpolated keys.

    .. math::
        s_{i,g,k} = \mathbf{q}_{i,g} \cdot \mathbf{k}_g(\mathbf{p}_{i,k})

    Args:
        query: ``[N, C]``, a row for every node that listens.
        key: ``[M, C]``, a row for every sender node.
        near: The samples of N nodes.
        groups: G, the number of contiguous channel groups.
        corners: Those of ``near``, by :func:`find_corners`. Defaults to finding them.
        backend: ``"auto"``, ``"pyg"``, ``"torch"``, ``"native"`` or ``"triton"``.

    Returns:
        ``[N, G, K]``.

    Raises:
        TypeError: If ``query`` or ``key`` is not of a floating-point dtype, or they differ in it.
        ValueError: If shapes or devices don't fit, ``groups`` does not divide C or is not that of
            ``near``, ``corners`` are not those of ``near``, or ``backend`` is unknown or can't
            serve the call.

    Equivalent PyTorch:
        >>> import torch
        >>> from dyngraph import Grid, Neighborhood
        >>> from dyngraph.ops import interpolate, sampled_score
        >>> near = Neighborhood(Grid([[4, 5]]), 5 * torch.rand(20, 3, 2) - 1)
        >>> query, key = torch.randn(20, 8), torch.randn(20, 8)
        >>> samples = interpolate(key, near).view(20, 3, 2, 4)
        >>> same = torch.einsum("ngc,nkgc->ngk", query.view(20, 2, 4), samples)
        >>> torch.allclose(sampled_score(query, key, near, groups=2), same, atol=1e-5)
        True
    """
    _check_query(query, near)
    _check_table("key", key, near)
    _check_channels(query, key)
    _check_groups(groups, key.shape[1], near)
    name, corners, (query_, key_) = _prepare(backend, near, corners, query=query, key=key)
    if _in_standard_operators(name):
        score = along_edges.sampled_score(query_, key_, corners, groups)
    else:
        index, weight = corners
        by_corner = operators.gather_dot(query_, key_, index.flatten(2), groups, name)
        score = (by_corner.unflatten(2, weight.shape[2:]) * weight).sum(dim=2)
    return score.to(query.dtype)


def sampled_sum(
    weight: Tensor,
    value: Tensor,
    near: Neighborhood,
    *,
    corners: Corners | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Weighted sums of interpolated values.

    .. math::
        \mathbf{y}_{i,g} = \sum_k w_{i,g,k} \, \mathbf{v}_g(\mathbf{p}_{i,k})

    Args:
        weight: ``[N, G, K]``, where G divides C.
        value: ``[M, C]``, a row for every sender node.
        near: The samples of N nodes.
        corners: Those of ``near``, by :func:`find_corners`. Defaults to finding them.
        backend: ``"auto"``, ``"pyg"``, ``"torch"``, ``"native"`` or ``"triton"``.

    Returns:
        ``[N, C]``.

    Raises:
        TypeError: If ``value`` is not of a floating-point dtype.
        ValueError: If shapes or devices don't fit, ``corners`` are not those of ``near``, or
            ``backend`` is unknown or can't serve the call.

    Equivalent PyTorch:
        >>> import torch
        >>> from dyngraph import Grid, Neighborhood
        >>> from dyngraph.ops import interpolate, sampled_sum
        >>> near = Neighborhood(Grid([[4, 5]]), 5 * torch.rand(20, 3, 2) - 1)
        >>> weight, value = torch.randn(20, 2, 3), torch.randn(20, 8)
        >>> samples = interpolate(value, near).view(20, 3, 2, 4)
        >>> same = torch.einsum("ngk,nkgc->ngc", weight, samples).flatten(1)
        >>> torch.allclose(sampled_sum(weight, value, near), same, atol=1e-5)
        True
    """
    n, k = near.pos.shape[0], near.num_samples
    if weight.dim() != 3 or (weight.shape[0], weight.shape[2]) != (n, k):
        raise ValueError(
            f"weight: expected shape [N, G, K] = [{n}, G, {k}], got {list(weight.shape)}"
        )
    _check_table("value", value, near)
    _check_groups(weight.shape[1], value.shape[1], near)
    if corners is None:
        _check_features(near, {"value": value})
        border = near.padding_mode == "border"
        out = sum_at_positions(weight, value, near.pos_of_groups, near.maps, border, backend)
    else:
        name, corners, (value_,) = _prepare(backend, near, corners, value=value)
        weight = weight.to(corners.weight.dtype)
        if _in_standard_operators(name):
            out = along_edges.sampled_sum(weight, value_, corners)
        else:
            by_corner = (weight.unsqueeze(2) * corners.weight).flatten(2)
            out = operators.gather_sum(by_corner, value_, corners.index.flatten(2), name)
    return out.to(value.dtype)


def sum_at_positions(
    weight: Tensor, value: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool, backend: str
) -> Tensor:
    r"""The sum by one operator, which finds the corners on its way; shapes are not checked.

    Args:
        weight: ``[N, G, K]``.
        value: ``[M, C]``.
        pos: ``[N, H, K, P]``, H = 1 or G.
        maps: The maps that the N nodes listen to.
        border: Whether positions are clamped to the map. Otherwise a corner outside weighs 0.
        backend: The backend.

    Returns:
        ``[N, C]``, in the dtype that the backend computes in.
    """
    name = resolve_backend(backend, value.device, ("sum",))
    value = value.to(_computed_in(name, value.dtype))
    weight = weight.to(accumulator(value.dtype))
    if _in_standard_operators(name):
        corners = Corners(*multilinear.corners(pos, maps, border, index_dtype(pos, maps)))
        return along_edges.sampled_sum(weight, value, _in_dtype(corners, value.dtype))
    out: Tensor = operators.sampled_sum(weight, value, pos, flatten_maps(maps), border, name)
    return out


def sampled_convolution(
    x: Tensor,
    filters: Tensor,
    near: Neighborhood,
    groups: int = 1,
    *,
    weight: Tensor | None = None,
    corners: Corners | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""A convolution over the samples, as a deformable convolution is.

    .. math::
        \mathbf{z}_i = \sum_k w_{i,k} \, W_k \, \mathbf{x}(\mathbf{p}_{i,k})

    Args:
        x: Sender features ``[M, C]``.
        filters: The matrices :math:`W_k`, ``[O, C / groups, K]``: the weights of a convolution with
            O outputs, flattened over the kernel.
        near: The samples of N nodes, of all channels or of each of H groups of channels.
        groups: The number of contiguous groups of channels and of outputs; each output sees the
            channels of its group. Where groups of channels have samples of their own, a divisor or
            a multiple of H.
        weight: The weight of each sample, ``[N, H, K]``, H = 1 where all channels share them.
            Defaults to 1.
        corners: Those of ``near``, by :func:`find_corners`. Defaults to finding them.
        backend: ``"auto"``, ``"pyg"``, ``"torch"``, ``"native"`` or ``"triton"``.

    Returns:
        ``[N, O]``.

    Raises:
        TypeError: If ``x`` is not of a floating-point dtype.
        ValueError: If shapes, groups or devices don't fit, ``corners`` are not those of ``near``,
            or ``backend`` is unknown or can't serve the call.

    Equivalent PyTorch:
        >>> import torch
        >>> from dyngraph import Grid, Neighborhood
        >>> from dyngraph.ops import interpolate, sampled_convolution
        >>> near = Neighborhood(Grid([[4, 5]]), 5 * torch.rand(20, 3, 2) - 1)
        >>> x, filters = torch.randn(20, 8), torch.randn(6, 8, 3)
        >>> same = torch.einsum("ock,nkc->no", filters, interpolate(x, near))
        >>> torch.allclose(sampled_convolution(x, filters, near), same, atol=1e-5)
        True
    """
    _check_table("x", x, near)
    num_nodes, own, num_samples, _ = near.pos_of_groups.shape
    _check_groups(groups, x.shape[1])
    _check_groups(own, x.shape[1])
    if groups % own and own % groups:
        raise ValueError(
            f"groups: expected a divisor or a multiple of {own}, as near has, got {groups}"
        )
    channels = x.shape[1] // groups
    if filters.dim() != 3 or list(filters.shape[1:]) != [channels, num_samples]:
        raise ValueError(
            f"filters: expected shape [O, C / groups, K] = [O, {channels}, {num_samples}], "
            f"got {list(filters.shape)}"
        )
    if filters.shape[0] % groups:
        raise ValueError(
            f"filters: expected a multiple of {groups} outputs, as there are groups, "
            f"got {filters.shape[0]}"
        )
    if weight is not None and list(weight.shape) != [num_nodes, own, num_samples]:
        raise ValueError(
            f"weight: expected shape [N, H, K] = [{num_nodes}, {own}, {num_samples}], "
            f"got {list(weight.shape)}"
        )
    name, corners, (x_,) = _prepare(backend, near, corners, x=x)
    sum_type = accumulator(x_.dtype)
    weight = None if weight is None else weight.to(sum_type)
    # Either projects each sender for all samples, or holds all samples and projects them. With a
    # stride, those are fewer.
    if _in_standard_operators(name) or len(x) >= 2 * num_nodes:
        samples = interpolate(x_.to(sum_type), near, corners=corners, backend=name)
        samples = samples if near.num_groups else samples.unsqueeze(1)
        out = _convolve_samples(samples, filters.to(sum_type), groups, weight)
    else:
        # Projections are rounded to a half type on a GPU alone, where that is faster.
        x_ = x_ if x_.is_cuda else x_.to(sum_type)
        out = _convolve_senders(x_, filters.to(x_.dtype), groups, weight, corners, name)
    return out.to(x.dtype)


def _convolve_samples(
    samples: Tensor, filters: Tensor, groups: int, weight: Tensor | None
) -> Tensor:
    """``[N, H, K, C / H], [O, C / G, K], [N, H, K] -> [N, O]``."""
    if weight is not None:
        samples = weight.unsqueeze(3) * samples
    num_outputs, channels, num_samples = filters.shape
    if groups == 1:
        return samples.transpose(2, 3).flatten(1) @ filters.flatten(1).t()
    columns = samples.transpose(2, 3).reshape(len(samples), groups, channels * num_samples)
    by_group = filters.reshape(groups, num_outputs // groups, channels * num_samples)
    return torch.einsum("ngc,goc->ngo", columns, by_group).flatten(1)


def _convolve_senders(
    x: Tensor,
    filters: Tensor,
    groups: int,
    weight: Tensor | None,
    corners: Corners,
    backend: str,
) -> Tensor:
    """The same by projecting the table, because interpolation is linear, and sampling that.

    A row for each sender, tap and, where one group of outputs sees channels with different samples,
    part of its channels.
    """
    num_nodes, own, num_corners, num_samples = corners.weight.shape
    num_outputs, channels, _ = filters.shape
    parts = max(own // groups, 1)
    taps = num_samples * parts
    if groups * parts == 1:
        projected = project(x, filters.permute(2, 0, 1).flatten(0, 1))
    else:
        by_part = (groups, parts, channels // parts)
        projected = torch.einsum(
            "mgpc,gopck->mkpgo",
            x.view(len(x), *by_part),
            filters.reshape(groups, num_outputs // groups, *by_part[1:], num_samples),
        )
    projected = projected.to(x.dtype).reshape(len(x) * taps, num_outputs)
    # For all corners at once: a CPU adds long rows faster.
    tap = torch.arange(taps, dtype=corners.index.dtype, device=x.device)
    tap = tap.view(num_samples, parts).t().unsqueeze(1).expand(-1, num_corners, -1)
    corner = corners.weight if weight is None else corners.weight * weight.unsqueeze(2)
    rows = (num_nodes, own // parts, parts * num_corners * num_samples)
    index = torch.add(tap.reshape(-1), corners.index.reshape(rows), alpha=taps)
    return operators.gather_sum(corner.reshape(rows), projected, index, backend)


@overload
def sampled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    near: Neighborhood,
    groups: int = 1,
    *,
    scale: float = 1.0,
    bias: Tensor | None = None,
    return_weights: Literal[False] = False,
    recompute: bool = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def sampled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    near: Neighborhood,
    groups: int = 1,
    *,
    scale: float = 1.0,
    bias: Tensor | None = None,
    return_weights: Literal[True],
    recompute: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


@overload
def sampled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    near: Neighborhood,
    groups: int = 1,
    *,
    scale: float = 1.0,
    bias: Tensor | None = None,
    return_weights: bool = False,
    recompute: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]: ...


def sampled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    near: Neighborhood,
    groups: int = 1,
    *,
    scale: float = 1.0,
    bias: Tensor | None = None,
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
        backend: ``"auto"``, ``"pyg"``, ``"torch"``, ``"native"`` or ``"triton"``.

    Returns:
        ``[N, C']``, and the attention ``[N, G, K]`` if ``return_weights``.

    Raises:
        TypeError: If ``query``, ``key`` or ``value`` is not of a floating-point dtype, or they
            differ in it.
        ValueError: If shapes or devices don't fit, ``groups`` does not divide the channels or is
            not that of ``near``, or ``backend`` is unknown or can't serve the call.

    Equivalent PyTorch:
        >>> import torch
        >>> from dyngraph import Grid, Neighborhood
        >>> from dyngraph.ops import interpolate, sampled_attention
        >>> near = Neighborhood(Grid([[4, 5]]), 5 * torch.rand(20, 3, 2) - 1)
        >>> query, key, value = torch.randn(3, 20, 8)
        >>> keys, values = (interpolate(x, near).view(20, 3, 2, 4) for x in (key, value))
        >>> alpha = torch.einsum("ngc,nkgc->ngk", query.view(20, 2, 4), keys).softmax(dim=2)
        >>> same = torch.einsum("ngk,nkgc->ngc", alpha, values).flatten(1)
        >>> torch.allclose(sampled_attention(query, key, value, near, groups=2), same, atol=1e-5)
        True
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
    kinds = ("attention",)
    name, (query_, key_, value_) = _cast(backend, near, kinds, query=query, key=key, value=value)
    bias_ = None if bias is None else bias.to(accumulator(query_.dtype))
    if _in_standard_operators(name):
        corners = _in_dtype(near.corners(), query_.dtype)
        shared = key_ if value is key else value_
        out, alpha = along_edges.sampled_attention(
            query_, key_, shared, corners, groups, scale=float(scale), bias=bias_
        )
    else:
        keep_scores = torch.is_grad_enabled() and not (recompute or load_kernels(name).RECOMPUTES)
        out, alpha, _ = operators.attention(
            query_,
            key_,
            None if value is key else value_,
            near.pos_of_groups,
            bias_,
            flatten_maps(near.maps),
            near.padding_mode == "border",
            groups,
            float(scale),
            keep_scores,
            name,
        )
    out = out.to(value.dtype)
    return (out, alpha) if return_weights else out


def _in_standard_operators(backend: str) -> bool:
    """Whether a call is made of operators that PyTorch knows: to be transformed, or exported."""
    return backend == "pyg" or transforms_active()


def _prepare(
    backend: str, near: Neighborhood, corners: Corners | None, **features: Tensor
) -> tuple[str, Corners, list[Tensor]]:
    """The backend, and corners and features in the dtype that it computes in."""
    name, computed = _cast(backend, near, _SUMS, **features)
    num_nodes, own, num_samples, num_axes = near.pos_of_groups.shape
    shape = [num_nodes, own, 2**num_axes, num_samples]
    if corners is None:
        corners = find_corners(near, backend=name)
    elif list(corners.index.shape) != shape:
        raise ValueError(
            f"corners: expected those of near, index [N, H, 2^P, K] = {shape}, "
            f"got {list(corners.index.shape)}"
        )
    return name, _in_dtype(corners, computed[0].dtype), computed


def _cast(
    backend: str, near: Neighborhood, kinds: Sequence[str], **features: Tensor
) -> tuple[str, list[Tensor]]:
    """The backend, and features in the dtype that it computes in."""
    _check_features(near, features)
    first = next(iter(features.values()))
    name = resolve_backend(backend, first.device, kinds)
    dtype = _computed_in(name, first.dtype)
    return name, [feature.to(dtype) for feature in features.values()]


def _computed_in(backend: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a backend reads features of a dtype; half types are summed in float32."""
    if _in_standard_operators(backend) or not load_kernels(backend).SUMS_HALF_TYPES:
        return accumulator(dtype)
    return dtype


def _in_dtype(corners: Corners, dtype: torch.dtype) -> Corners:
    """Corners with weights of the dtype that features are summed in."""
    return Corners(corners.index, corners.weight.to(accumulator(dtype)))


def _rows_of_samples(corners: Corners) -> tuple[Tensor, Tensor]:
    """Indices and weights ``[N K, H, 2^P]`` with a row for every sample."""
    index, weight = (part.permute(0, 3, 1, 2).flatten(0, 1) for part in corners)
    return index, weight


def _check_features(near: Neighborhood, features: dict[str, Tensor]) -> None:
    (first_name, first), *others = features.items()
    for name, feature in features.items():
        if not feature.is_floating_point():
            raise TypeError(f"{name}: expected floating-point features, got {feature.dtype}")
        if feature.device != near.pos.device:
            raise ValueError(
                f"{name}: expected features on the device of the samples, {near.pos.device}, "
                f"got them on {feature.device}"
            )
    for name, feature in others:
        if feature.dtype != first.dtype:
            raise TypeError(
                f"{name}: expected {first.dtype}, as {first_name} has, got {feature.dtype}"
            )


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

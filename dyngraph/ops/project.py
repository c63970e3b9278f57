"""The linear map of nodes, row by row or as contiguous maps."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Smaller inputs, and single threads, PyTorch does not give to oneDNN.
_LARGE = 20480


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r""":func:`torch.nn.functional.linear` on node features ``[N, C]``, the fastest way.

    On a CPU, oneDNN's 1x1 convolution of a ``channels_last`` map is faster than a matrix product.
    """
    # A compiler chooses for itself, and must not depend on the number of nodes.
    if torch.compiler.is_compiling() or not _is_fast_convolution(x, weight):
        return F.linear(x, weight, bias)
    maps = x.contiguous()[None, None].permute(0, 3, 1, 2)
    return F.conv2d(maps, weight[:, :, None, None], bias).permute(0, 2, 3, 1).flatten(0, 2)


def project_maps(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""The same linear map on contiguous maps ``[B, C, nodes of a map]``."""
    return F.conv1d(x, weight.unsqueeze(2), bias)


def project_maps_to_nodes(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""The same, without a copy, from maps ``[B, C, nodes of a map]`` to nodes ``[N, C']``."""
    out = torch.baddbmm(bias, x.transpose(1, 2), weight.t().expand(len(x), -1, -1))
    return out.flatten(0, 1)


def add_projected_nodes(maps: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    r"""Adds that of node features ``[N, C]`` to maps ``[B, C', nodes of a map]``, in place."""
    nodes = x.unflatten(0, (len(maps), maps.shape[2])).transpose(1, 2)
    # By `out=`: counters of products don't know the method.
    return torch.baddbmm(maps, weight.expand(len(maps), -1, -1), nodes, out=maps)


def _is_fast_convolution(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > _LARGE
        and weight.numel() > 0
        and torch.get_num_threads() > 1
        and torch.backends.mkldnn.is_available()
    )

"""The blocks on batches of maps, with nothing but 1x1 convolutions, grid_sample and softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def conv1x1(linear, maps: Tensor) -> Tensor:
    weight, bias = linear.weight.to(maps.dtype), linear.bias
    num_axes = maps.dim() - 2
    weight = weight.view(*weight.shape, *[1] * num_axes)
    return CONV[num_axes](maps, weight, None if bias is None else bias.to(maps.dtype))


def batch_norm(norm, maps: Tensor) -> Tensor:
    statistics = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    return F.batch_norm(maps, *statistics, norm.weight, norm.bias, training=norm.training)


def sample(maps: Tensor, pos: Tensor) -> Tensor:
    """``[B, C, *spatial], [B, K, N, P] -> [B, C, K, N]``, zero outside the maps."""
    if pos.shape[-1] == 1:
        maps = maps.unsqueeze(2)
        pos = torch.cat([torch.zeros_like(pos), pos], dim=-1)
    sizes = torch.tensor(maps.shape[2:], dtype=pos.dtype)
    # From units of nodes to [-1, 1], the outer edges of the map; the last axis comes first.
    grid = ((2 * pos + 1) / sizes - 1).flip(-1)
    if pos.shape[-1] == 3:
        grid = grid.unsqueeze(3)
    return F.grid_sample(maps, grid, align_corners=False).flatten(3)


def sample_positions(sampler, maps: Tensor) -> Tensor:
    """Where the nodes of the maps listen, ``[B, K, N, P]``."""
    num_axes, size, shape = sampler.num_axes, sampler.cell_size, maps.shape[2:]
    pooled = AVG_POOL[num_axes](maps, size, size, ceil_mode=True, count_include_pad=False)
    offset = F.interpolate(conv1x1(sampler.offset, pooled), scale_factor=float(size))
    for axis, length in enumerate(shape, start=2):
        offset = offset.narrow(axis, 0, length)
    offset = offset.flatten(2).unflatten(1, (-1, num_axes)).transpose(2, 3)
    nodes = torch.ones(shape).nonzero().to(maps.dtype)
    return nodes.div(size, rounding_mode="floor") * size + offset


def attention(query: Tensor, key: Tensor, value: Tensor, groups: int) -> Tensor:
    """Query ``[B, C, N]``; key and value ``[B, C, K, N]``, the nodes that each one listens to."""
    query, key, value = (part.unflatten(1, (groups, -1)) for part in (query, key, value))
    alpha = (query.unsqueeze(3) * key).sum(dim=2, keepdim=True).softmax(dim=3)
    return (alpha * value).sum(dim=3).flatten(1, 2)


def repgraph(conv, maps: Tensor) -> Tensor:
    pos = sample_positions(conv.sampler, maps)
    query = key = value = maps
    if conv.project:
        linears = (conv.lin_query, conv.lin_key, conv.lin_value)
        query, key, value = (conv1x1(linear, maps) for linear in linears)
    out = attention(query.flatten(2), sample(key, pos), sample(value, pos), conv.groups)
    return out.unflatten(2, maps.shape[2:])


def nonlocal_(conv, maps: Tensor) -> Tensor:
    linears = (conv.lin_query, conv.lin_key, conv.lin_value)
    query, key, value = (conv1x1(linear, maps).flatten(2) for linear in linears)
    num_nodes = query.shape[2]
    key, value = (part.unsqueeze(3).expand(-1, -1, -1, num_nodes) for part in (key, value))
    return attention(query, key, value, conv.groups).unflatten(2, maps.shape[2:])


def fuse(block, x: Tensor, y: Tensor) -> Tensor:
    return y + x if block.fusion.mode == "sum" else torch.cat([x, y], dim=1)


def nonlocal_block(block, maps: Tensor) -> Tensor:
    return fuse(block, maps, conv1x1(block.lin_out, nonlocal_(block.conv, maps)))


def repgraph_block(block, maps: Tensor) -> Tensor:
    return fuse(block, maps, conv1x1(block.lin_out, repgraph(block.conv, maps)))


def bottleneck_block(block, maps: Tensor) -> Tensor:
    reduced = batch_norm(block.norm_reduce, conv1x1(block.lin_reduce, maps)).relu()
    expanded = conv1x1(block.lin_expand, repgraph(block.conv, reduced))
    out = fuse(block, maps, batch_norm(block.norm_expand, expanded))
    return out if block.zero_init else out.relu()

"""What a program of a kernel works on: a tile of nodes times channels."""

import os
from contextlib import AbstractContextManager, nullcontext

import triton
import triton.language as tl
from torch import Tensor, cuda

# Elements of a program's tile, nodes times channels: 16 bytes of a half type for each of its 128
# threads, and no register spilled. And the most nodes of a program.
_TILE = 1024
_MOST_NODES = 64


def tile(width: int) -> tuple[int, int]:
    """Nodes and channels of the tile of a program, for groups of ``width`` channels."""
    channels = triton.next_power_of_2(width)
    return min(_MOST_NODES, max(1, _TILE // channels)), channels


def device(x: Tensor) -> AbstractContextManager:
    """Makes the GPU of a tensor the one that kernels are launched on."""
    if x.device.type == "cuda":
        return cuda.device(x.device)
    if os.environ.get("TRITON_INTERPRET") == "1":
        return nullcontext()
    raise ValueError(f"backend 'triton': expected tensors on CUDA, got them on {x.device}")


@triton.jit
def load_rows(table, row, live, column, inside, num_channels, dtype: tl.constexpr):
    """The tile ``[nodes, channels]`` of a row for each node."""
    place = row.to(tl.int64)[:, None] * num_channels + column[None, :]
    return tl.load(table + place, live[:, None] & inside[None, :], other=0).to(dtype)


@triton.jit
def add_rows(table, row, live, column, inside, num_channels, part):
    """Adds a tile ``[nodes, channels]`` to a row for each node, atomically."""
    place = row.to(tl.int64)[:, None] * num_channels + column[None, :]
    tl.atomic_add(table + place, part, live[:, None] & inside[None, :], sem="relaxed")


@triton.jit
def program_nodes(num_nodes, block_nodes: tl.constexpr):
    """The nodes of this program, and which of them there are."""
    node = tl.program_id(0).to(tl.int64) * block_nodes + tl.arange(0, block_nodes)
    return node, node < num_nodes


@triton.jit
def program_columns(width, block_channels: tl.constexpr):
    """The channels of this program's group, and which of them there are."""
    channel = tl.arange(0, block_channels)
    return tl.program_id(1) * width + channel, channel < width

"""What a program of a kernel works on: a tile of nodes times the channels of a group."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from math import prod
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.autotuner import Autotuner

from dyngraph.ops.kernels.triton.reasons import is_interpreted, reasons_against

# Elements of a tile and warps of a program. The first: 16 bytes of a half type for each thread, and
# no register spilled.
_TILES = [(1024, 4), (512, 2), (512, 4), (2048, 4), (2048, 8)]
_MOST_NODES = 64
# Of fewer elements, nodes times channels, the best tiles are not looked for.
_WORTH_TUNING = 2**20


def launch(
    kernel: Any,
    shape: tuple[int, int, int],
    *args: Any,
    kind: Sequence[str],
    adds_to: Sequence[str] = (),
    **kwargs: Any,
) -> None:
    """Runs a kernel in tiles of a fixed size, or, where there is much to do, in the fastest ones.

    Those are measured at the first call of a kind and kept on disk; never under
    :func:`torch.use_deterministic_algorithms`.

    Args:
        kernel: Takes ``block_nodes`` beside what follows.
        shape: The nodes, the groups, and the channels of a group.
        *args: The kernel's arguments, a tensor first.
        kind: The arguments that make calls of different kinds, beside dtypes and channels.
        adds_to: The arguments that a measurement has to leave as they were.
        **kwargs: The kernel's arguments by name.
    """
    num_nodes, groups, width = shape

    def grid(chosen: dict[str, Any]) -> tuple[int, int]:
        return triton.cdiv(num_nodes, chosen["block_nodes"]), groups

    with device(args[0]):
        if _is_worth_tuning(prod(shape)):
            _tuner(kernel, width, tuple(kind), tuple(adds_to))[grid](*args, **kwargs)
        else:
            kernel[grid](*args, **kwargs, **_tiles(width)[0].all_kwargs())


def _is_worth_tuning(size: int) -> bool:
    return size >= _WORTH_TUNING and not (
        torch.are_deterministic_algorithms_enabled() or is_interpreted()
    )


@cache
def _tuner(kernel: Any, width: int, kind: Sequence[str], adds_to: Sequence[str]) -> Autotuner:
    # What is kept on disk depends on compiled code: in the interpreter there is none.
    keeps = not is_interpreted()
    return triton.autotune(_tiles(width), kind, restore_value=adds_to, cache_results=keeps)(kernel)


def _tiles(width: int) -> list[triton.Config]:
    channels = block_channels(width)
    return [
        triton.Config({"block_nodes": min(_MOST_NODES, max(1, elements // channels))}, warps)
        for elements, warps in _TILES
    ]


def block_channels(width: int) -> int:
    """The channels of a tile, for groups of ``width`` channels."""
    length: int = triton.next_power_of_2(max(width, 1))
    return length


def device(x: Tensor) -> AbstractContextManager[object]:
    """Makes the GPU of a tensor the one that kernels are launched on."""
    if reasons := reasons_against(x.device, named=True):
        raise ValueError(f"backend 'triton': {'; '.join(reasons)}")
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


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

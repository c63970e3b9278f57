"""Whole blocks at the papers' sizes on a CPU: time, memory and multiply-adds.

    python benchmarks/blocks.py

Blocks of RepGraph's Table 2 (2048 channels, 256 hidden, 128x256 nodes) and of DGMN's Table 1 (512
channels, 97x97 nodes), each beside the Non-local block with PyTorch's fused attention. Maps are
channels_last, or contiguous where it says so. DGMN's Non-local is the one of its Table 1, a 3x3
convolution before 256 hidden channels. *Layer* is the graph layer's share of the block's time,
including its projections to queries, keys and values; the bottleneck block's layer has none, so
there it is the sampling alone. Autocast to bfloat16 is left out where the processor has no such
products: it takes minutes there.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from measure import arguments, bars, forward, peak_memory, table, times, write
from torch import Tensor, nn
from tqdm import tqdm

from dyngraph import Grid
from dyngraph.evaluate import count_multiply_adds
from dyngraph.models import NonLocalHead
from dyngraph.nn import BottleneckRepGraphBlock, DGMNBlock, NonLocalBlock, RepGraphBlock

REPGRAPH = (2048, (128, 256))
DGMN = (512, (97, 97))


class Case(NamedTuple):
    """Feature maps, and what runs on them; times are relative to the first."""

    shape: tuple[int, tuple[int, int]]
    layout: torch.memory_format
    contenders: dict[str, Callable[[int], nn.Module]]


def two_convolutions(channels: int) -> nn.Module:
    """What the bottleneck block multiplies."""
    return nn.Sequential(nn.Conv2d(channels, 256, 1), nn.Conv2d(256, channels, 1))


CASES = {
    "RepGraph's Table 2: 128x256 nodes, C 2048": Case(
        REPGRAPH,
        torch.channels_last,
        {
            "Non-local": lambda channels: NonLocalBlock(channels, 256),
            "RepGraph": lambda channels: RepGraphBlock(channels, 256),
            "bottleneck RepGraph": lambda channels: BottleneckRepGraphBlock(channels, 256),
        },
    ),
    "the same, contiguous": Case(
        REPGRAPH,
        torch.contiguous_format,
        {
            "Non-local": lambda channels: NonLocalBlock(channels, 256),
            "bottleneck RepGraph, concat": lambda channels: BottleneckRepGraphBlock(
                channels, 256, fusion="concat"
            ),
            "its two 1x1 convolutions": two_convolutions,
        },
    ),
    "DGMN's Table 1: 97x97 nodes, C 512": Case(
        DGMN,
        torch.channels_last,
        {
            "Non-local, as in the table": NonLocalHead,
            "Non-local, 128 hidden channels": NonLocalBlock,
            "bottleneck RepGraph": BottleneckRepGraphBlock,
            "DGMN, one rate": lambda channels: DGMNBlock(channels, rates=(1,)),
            "DGMN, five rates": DGMNBlock,
        },
    ),
}


def bf16(run: Callable[[], None], device: str = "cpu") -> Callable[[], None]:
    """The same under autocast."""
    return torch.autocast(device, dtype=torch.bfloat16)(run)


def training_step(module: nn.Module, maps: Tensor) -> Callable[[], None]:
    maps = maps.clone().requires_grad_()
    grad = torch.randn_like(module(maps))

    def run() -> None:
        module.train()
        torch.autograd.grad(module(maps), [maps, *module.parameters()], grad)

    return run


def layer(block: nn.Module, size: tuple[int, int], device: str = "cpu") -> Callable[[], None]:
    """The forward pass of the graph layer inside a block."""
    grid = Grid([size], device=device)
    x = torch.randn(grid.num_nodes, block.conv.in_channels, device=device)
    return forward(block.conv, x, grid)


def measure(case: Case, rounds: int) -> dict:
    channels, size = case.shape
    maps = torch.randn(1, channels, *size).contiguous(memory_format=case.layout)
    blocks = {
        name: make(channels).to(memory_format=case.layout) for name, make in case.contenders.items()
    }
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    passes = {
        "forward": {name: forward(block, maps) for name, block in blocks.items()},
        "forward, bf16": {
            name: bf16(forward(block, maps)) for name, block in blocks.items() if has_bf16
        },
        "layer": {
            name: layer(block, size) for name, block in blocks.items() if hasattr(block, "conv")
        },
        "training step": {name: training_step(block, maps) for name, block in blocks.items()},
    }
    results: dict[str, dict] = {
        name: {"multiply-adds": count_multiply_adds(block, *maps.shape).total}
        for name, block in blocks.items()
    }
    for label, runs in passes.items():
        for name, milliseconds in times(runs, rounds).items():
            results[name][label] = {"ms": milliseconds, "MB": peak_memory(runs[name])}
    return results


def report(results: dict) -> str:
    rows = []
    for case, blocks in results.items():
        rows.append([f"**{case}**", *[""] * 11])
        baseline = next(iter(blocks.values()))
        for name, block in blocks.items():
            cells = [name, f"{block['multiply-adds'] / 1e9:.1f}"]
            for label in ("forward", "forward, bf16", "training step"):
                if label not in block:
                    cells += [""] * 3
                    continue
                ratio = baseline[label]["ms"] / block[label]["ms"]
                cells += [f"{block[label]['ms']:.0f}", f"{ratio:.1f}", f"{block[label]['MB']:.0f}"]
            has_layer = "layer" in block
            share = f"{block['layer']['ms'] / block['forward']['ms']:.0%}" if has_layer else ""
            rows.append([*cells, share])
    header = ["", "multiply-adds, G"]
    for label in ("forward", "forward, bf16 autocast", "training step"):
        header += [f"{label}, ms", "times faster", "MB"]
    return table([*header, "layer"], rows)


def main() -> None:
    parser = arguments(__doc__, "blocks", rounds=3)
    parser.add_argument("--case", default="", help="only cases whose names contain this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    results = {}
    for name in tqdm([name for name in CASES if args.case in name], unit="case"):
        results[name] = measure(CASES[name], args.rounds)
        write(args.out, {"cases": results}, bars(results, ["forward", "training step"]))
    print(report(results))


if __name__ == "__main__":
    main()

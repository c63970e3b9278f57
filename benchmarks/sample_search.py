"""What the search for places of samples costs: iterations with and without it.

    python benchmarks/sample_search.py

The networks of `long_range.py` on its 24x24 nodes, and blocks alone at the size of RepGraph's Table
2 (2048 channels, 128x256 nodes), forward and backward. A training searches in a tenth of its
iterations, as `PlaceSamples` does by default: the last column is the time of all of it.
"""

from collections.abc import Callable
from functools import partial

import torch
from long_range import AT, BATCH, SINCE, SIZE, build
from measure import arguments, bars, peak_memory, table, times, write
from torch import Tensor, nn
from tqdm import tqdm

from dyngraph.nn import BottleneckRepGraphBlock, RepGraphBlock, SampleSearch

PLAIN, SEARCHING = "plain", "searching"


def small(name: str) -> tuple[Callable[[Tensor], Tensor], nn.Module, Tensor]:
    model = build(name)
    return lambda image: model(image)["out"], model, torch.randn(BATCH, 3, *SIZE)


def block(make: Callable[[int, int], nn.Module]) -> tuple[nn.Module, nn.Module, Tensor]:
    model = make(2048, 256).to(memory_format=torch.channels_last)
    maps = torch.randn(1, 2048, 128, 256).contiguous(memory_format=torch.channels_last)
    return model, model, maps


CASES = {
    "a segmenter with RepGraph, 24x24 nodes": partial(small, "RepGraph"),
    "a segmenter with bottleneck RepGraph, 24x24 nodes": partial(small, "bottleneck RepGraph"),
    "RepGraph, 128x256 nodes": partial(block, RepGraphBlock),
    "bottleneck RepGraph, 128x256 nodes": partial(block, BottleneckRepGraphBlock),
}


def measure(case: Callable, rounds: int) -> dict[str, dict]:
    function, model, x = case()
    parameters = list(model.parameters())
    grad = torch.randn_like(function(x))

    def plain() -> None:
        torch.autograd.grad(function(x), parameters, grad)

    def searching() -> None:
        search = SampleSearch(model)
        plain()
        search.stop()

    runs = {PLAIN: plain, SEARCHING: searching}
    return {
        name: {"iteration": {"ms": milliseconds, "MB": peak_memory(runs[name])}}
        for name, milliseconds in times(runs, rounds).items()
    }


def report(results: dict) -> str:
    rows = []
    for case, found in results.items():
        plain, searching = (found[name]["iteration"] for name in (PLAIN, SEARCHING))
        ratio = searching["ms"] / plain["ms"]
        cells = [f"{part[key]:.0f}" for part in (plain, searching) for key in ("ms", "MB")]
        rows.append([case, *cells, f"{ratio:.2f}", f"{1 + (AT - SINCE) * (ratio - 1):.3f}"])
    columns = ["plain, ms", "MB", "searching, ms", "MB", "ratio", "whole training, ratio"]
    return table(["", *columns], rows)


def main() -> None:
    args = arguments(__doc__, "sample_search", rounds=5).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    results = {}
    for name, case in tqdm(CASES.items(), unit="case"):
        results[name] = measure(case, args.rounds)
        write(args.out, {"cases": results}, bars(results, ["iteration"]))
    print(report(results))


if __name__ == "__main__":
    main()

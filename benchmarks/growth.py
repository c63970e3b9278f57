"""How time and memory grow with the number of nodes on a CPU, from 32x32 to 512x1024.

    python benchmarks/growth.py

Layers with 64 channels, forward. Fits time ~ nodes^exponent over each curve and over its larger
half, where the fixed cost of a call no longer counts, and draws the curves. Non-local stops where
one run would take minutes.
"""

from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from measure import arguments, peak_memory, table, times, write
from tqdm import tqdm

from dyngraph import Grid
from dyngraph.nn import DGMNConv, NonLocalConv, RepGraphConv

CHANNELS = 64
SIZES = [(32, 32), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 1024)]
SHOWN = [(32, 32), (128, 128), (256, 256), (512, 1024)]
LAYERS = {
    "Non-local": lambda: NonLocalConv(CHANNELS, CHANNELS),
    "RepGraph": lambda: RepGraphConv(CHANNELS, CHANNELS),
    "DGMN": lambda: DGMNConv(CHANNELS, rates=(1, 6, 12)),
}
NONLOCAL_LIMIT = 256 * 256


@torch.no_grad()
def measure(rounds: int, device: str = "cpu") -> dict[str, list[dict[str, float]]]:
    layers = {name: make().eval().to(device) for name, make in LAYERS.items()}
    curves: dict[str, list[dict[str, float]]] = {name: [] for name in layers}
    for size in tqdm(SIZES, unit="size"):
        grid = Grid([size], device=device)
        x = torch.randn(grid.num_nodes, CHANNELS, device=device)
        runs = {
            name: partial(layer, x, grid)
            for name, layer in layers.items()
            if name != "Non-local" or grid.num_nodes <= NONLOCAL_LIMIT
        }
        for name, milliseconds in times(runs, rounds, device).items():
            megabytes = peak_memory(runs[name], device)
            curves[name].append({"nodes": grid.num_nodes, "ms": milliseconds, "MB": megabytes})
    return curves


def exponent(points: list[dict[str, float]], quantity: str) -> float:
    """The slope of a curve on logarithmic axes."""
    nodes, values = ([np.log(point[key]) for point in points] for key in ("nodes", quantity))
    return float(np.polyfit(nodes, values, 1)[0])


def draw(curves: dict[str, list[dict[str, float]]]) -> Figure:
    figure = Figure((9, 4), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("ms", "MB"), strict=True):
        for name, curve in curves.items():
            nodes = [point["nodes"] for point in curve]
            axes.loglog(nodes, [point[quantity] for point in curve], "o-", label=name)
        axes.set_xlabel("nodes")
        axes.set_ylabel({"ms": "forward, ms", "MB": "memory beyond the inputs, MB"}[quantity])
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def report(curves: dict[str, list[dict[str, float]]]) -> str:
    rows = []
    for name, curve in curves.items():
        at = {point["nodes"]: point for point in curve}
        cells = [
            f"{at[nodes]['ms']:.1f} ms, {at[nodes]['MB']:.0f} MB" if nodes in at else ""
            for nodes in (height * width for height, width in SHOWN)
        ]
        slopes = [
            f"{exponent(points, quantity):.2f}"
            for quantity in ("ms", "MB")
            for points in (curve, curve[len(curve) // 2 :])
        ]
        rows.append([name, *cells, *slopes])
    sizes = [f"{height}x{width}" for height, width in SHOWN]
    slopes = ["exponent of time", "larger half", "exponent of memory", "larger half"]
    return table(["", *sizes, *slopes], rows)


def main() -> None:
    parser = arguments(__doc__, "growth", rounds=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    curves = measure(args.rounds)
    print(report(curves))
    write(args.out, {"curves": curves}, draw(curves))


if __name__ == "__main__":
    main()

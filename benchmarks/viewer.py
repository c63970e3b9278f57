"""How large the viewer's pages are, and how long it takes to make them.

Layers sample 128x256 nodes, those of an image of 1024x2048 at stride 8, anywhere and differently
for each node: noise, which compresses worse than what a trained network does.

    python benchmarks/viewer.py
"""

import json
import re
import time
from functools import partial

import torch
from torch import nn

from dyngraph.nn import DGMN2Block, DGMNBlock, NonLocalBlock, RepGraphBlock
from dyngraph.viz import explore

LAYERS = {
    "RepGraph, 9 samples": RepGraphBlock,
    "RepGraph, 18 samples": partial(RepGraphBlock, num_samples=18),
    "DGMN, 5 rates, 4 groups": DGMNBlock,
    "DGMN2, 2 heads": partial(DGMN2Block, heads=2, map_size=(56, 56)),
    "Non-local": NonLocalBlock,
}
CHANNELS = 16


class AtStride8(nn.Module):
    """A block on an eighth of the rows and columns."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, CHANNELS, 1))
        self.block = block
        for parameter in block.parameters():
            nn.init.normal_(parameter)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": self.block(self.features(image))}


def _layers(page: str) -> list[dict]:
    """The layers in a page's data."""
    data = re.search(r'id="data">(.*?)</script>', page)
    return json.loads(data[1])["models"][0]["layers"]


def main() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 1024, 2048)
    picture = torch.zeros(3, 1024, 2048, dtype=torch.uint8)
    print("| layer | samples of a node | nodes stored | page | seconds |")
    print("|---|---:|---:|---:|---:|")
    for name, block in LAYERS.items():
        model = AtStride8(block(CHANNELS))
        start = time.perf_counter()
        viewer = explore(model, image, picture=picture)
        seconds = time.perf_counter() - start
        (layer,) = _layers(viewer.page)
        samples = f"{layer['pos']['shape'][1] * layer['pos']['shape'][0]}"
        rows, columns = layer["stored"][0]
        print(
            f"| {name} | {samples} | {rows} x {columns} "
            f"| {len(viewer.page.encode()) / 1e6:.1f} MB | {seconds:.0f} |"
        )


if __name__ == "__main__":
    main()

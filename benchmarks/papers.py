"""What the blocks of RepGraph's Table 2 and the contexts of DGMN's Table 1 cost.

    python benchmarks/papers.py

Prints our figures beside the published ones of docs/reproduce.md. Nothing is computed: the counts
are exact. Weights are those of convolutions and matrices, without biases and normalisation.
"""

import torch
from torch import Tensor, nn

from dyngraph.evaluate import count_multiply_adds
from dyngraph.models import ASPPHead, DANetHead, NonLocalHead
from dyngraph.models.backbone import conv_bn_relu
from dyngraph.nn import BottleneckRepGraphBlock, DGMNBlock, NonLocalBlock, RepGraphBlock


class DANet(nn.Module):
    """DANet as in its paper: each part has its own 3x3 convolution before it."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.head = DANetHead(channels)
        self.reduce_position = conv_bn_relu(in_channels, channels)
        self.reduce_channel = conv_bn_relu(in_channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        position = self.head.position(self.reduce_position(maps))
        return position + self.head.channel(self.reduce_channel(maps))


RATES = (1, 6, 12, 24)
STATIC = {"affinity": False, "filters": False}
#: For each table: the channels, the map, and functions that make the module of each row.
TABLES = {
    ("RepGraph", "2"): (
        2048,
        (256, 128),
        {
            "NL": lambda: NonLocalBlock(2048, 256, fusion="concat"),
            "DANet": lambda: DANet(2048, 256),
            "SRG": lambda: RepGraphBlock(2048, 256, fusion="concat"),
            "BRG": lambda: BottleneckRepGraphBlock(2048, 256, fusion="concat"),
        },
    ),
    ("DGMN", "1"): (
        512,
        (97, 97),
        {
            "Deformable": lambda: DGMNBlock(512, RATES, walk=False, **STATIC),
            "Deformable, with walks": lambda: DGMNBlock(512, RATES, **STATIC),
            "ASPP": lambda: ASPPHead(512),
            "Non-local": lambda: NonLocalHead(512),
            "DA": lambda: DGMNBlock(512, (1,), filters=False, walk=False),
            "DA + DW": lambda: DGMNBlock(512, (1,), walk=False),
            "DA + DW + DS": lambda: DGMNBlock(512, walk=False),
            "DA + DW + DS, with walks": lambda: DGMNBlock(512),
        },
    ),
}


def costs() -> dict[tuple[str, str], dict[str, tuple[int, int, int]]]:
    """For each table, each row's weights, dense multiply-adds, and all with sampling."""
    found: dict[tuple[str, str], dict[str, tuple[int, int, int]]] = {}
    for table, (channels, size, rows) in TABLES.items():
        found[table] = {}
        for name, make in rows.items():
            with torch.device("meta"):
                module = make()
            weights = sum(p.numel() for p in module.parameters() if p.dim() > 1)
            counts = count_multiply_adds(module, 1, channels, *size)
            found[table][name] = weights, counts.dense, counts.total
    return found


def main() -> None:
    print("| table | row | weights | dense | with samples |\n|---|---|---:|---:|---:|")
    for (paper, table), rows in costs().items():
        for name, (weights, dense, total) in rows.items():
            print(
                f"| {paper}, {table} | {name} | {weights / 1e6:.2f} M "
                f"| {dense / 1e9:.2f} G | {total / 1e9:.2f} G |"
            )


if __name__ == "__main__":
    main()

"""DGMN's variants as constructor calls, with their parameters and multiply-adds.

    python benchmarks/ablations.py

Prints the tables of docs/ablations.md. Nothing is computed: the counts are exact.
"""

from typing import Any

from dyngraph.evaluate import count_multiply_adds
from dyngraph.nn import DGMNBlock

# The paper's block on Cityscapes: 512 channels, crops of 769x769 at stride 8, "concat".
CHANNELS, SIZE = 512, (97, 97)
SEGMENTATION = {
    "**Components**": {
        "deformable message passing": dict(rates=(1,), affinity=False, filters=False),
        "DA, one rate": dict(rates=(1,), groups=0, filters=False, walk=False),
        "DA + DW, one rate": dict(rates=(1,), walk=False),
        "DA + DW + DS, one rate": dict(rates=(1,)),
        "DA, all rates": dict(groups=0, filters=False, walk=False),
        "DA + DW, all rates": dict(walk=False),
        "DA + DW + DS, all rates": {},
    },
    "**Rates**": {
        "1": dict(rates=(1,)),
        "1, 6": dict(rates=(1, 6)),
        "1, 6, 12": dict(rates=(1, 6, 12)),
        "1, 6, 12, 24": dict(rates=(1, 6, 12, 24)),
        "1, 6, 12, 24, 36": {},
    },
    "**Groups**": {
        "affinities alone": dict(groups=0, filters=False),
        "1": dict(groups=1),
        "2": dict(groups=2),
        "4": dict(groups=4),
        "8": dict(groups=8),
        "16": dict(groups=16),
    },
    "**Steps**": {"1": dict(num_steps=1), "2": dict(num_steps=2), "3": dict(num_steps=3)},
}

# The paper's layer in Mask R-CNN: after a 3x3 convolution, "sum", an image of 800x1333 pixels.
COCO = {"rates": (1, 4, 8, 12), "fusion": "sum"}
DETECTION = {
    "**After each 3x3 convolution of res5, 25 x 42 nodes**": (512, (25, 42)),
    "**After each 3x3 convolution of res4, 50 x 84 nodes**": (256, (50, 84)),
}
DETECTION_ROWS = {
    "deformable message passing": COCO | dict(affinity=False, filters=False),
    "DA": COCO | dict(groups=0, filters=False, walk=False),
    "DA + DW": COCO | dict(walk=False),
    "DA + DW + DS": COCO,
    "DA + DW + DS, rate 4": dict(rates=(4,), fusion="sum"),
    "DA + DW + DS, rates 4, 8": dict(rates=(4, 8), fusion="sum"),
    "DA + DW + DS, rates 4, 8, 12": dict(rates=(4, 8, 12), fusion="sum"),
}

HEADER = "| row | call | parameters | dense | sampling |\n|---|---|---:|---:|---:|"


def row(name: str, channels: int, size: tuple[int, int], arguments: dict[str, Any]) -> str:
    block = DGMNBlock(channels, **arguments)
    call = ", ".join([str(channels), *(f"{key}={value!r}" for key, value in arguments.items())])
    parameters = sum(parameter.numel() for parameter in block.parameters())
    counts = count_multiply_adds(block, 1, channels, *size)
    return (
        f"| {name} | `DGMNBlock({call})` | {parameters:,} "
        f"| {counts.dense / 1e9:.4f} G | {counts.sampling / 1e9:.4f} G |"
    )


def segmentation_table() -> str:
    lines = [HEADER]
    for title, rows in SEGMENTATION.items():
        lines.append(f"| {title} | | | | |")
        lines += [row(name, CHANNELS, SIZE, arguments) for name, arguments in rows.items()]
    return "\n".join(lines)


def detection_table() -> str:
    lines = [HEADER]
    for title, (channels, size) in DETECTION.items():
        lines.append(f"| {title} | | | | |")
        lines += [row(name, channels, size, call) for name, call in DETECTION_ROWS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(segmentation_table(), detection_table(), sep="\n\n")

"""Parameters and multiply-adds of the papers' detectors on an image of 800x1333 pixels.

    python benchmarks/detectors.py

Prints the table of docs/reproduce.md. Nothing is computed: the counts are exact. They cover the
backbone with its context, the feature pyramid, the proposal head on all levels, and the box head on
1000 proposals; the mask head, which runs once per detected object, has its own column, for 100
objects. Interpolation, normalisation and activations are not counted.
"""

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from dyngraph.evaluate import count_multiply_adds
from dyngraph.models import mask_rcnn

SIZE = (800, 1333)
PROPOSALS, OBJECTS = 1000, 100
GIGA = 1e9

ROWS: dict[str, dict[str, str | None]] = {
    name: {"backbone": backbone, "context": context, "context_at": place}
    for backbone, title in (
        ("resnet50", "ResNet-50"),
        ("resnet101", "ResNet-101"),
        ("resnext101_32x8d", "ResNeXt-101"),
    )
    for name, context, place in (
        (title, None, "res4"),
        (f"{title}, Non-local, res4", "nonlocal", "res4"),
        (f"{title}, RepGraph, res4", "bottleneck_repgraph", "res4"),
        (f"{title}, DGMN, C5", "dgmn", "c5"),
        (f"{title}, DGMN, C4 and C5", "dgmn", "c4_c5"),
    )
}


class Dense(nn.Module):
    """The part that runs on the whole image."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.head = model.rpn.head

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return self.head(list(self.backbone(image).values()))


def count(model: MaskRCNN) -> tuple[float, float]:
    """Multiply-adds without the mask head, and those of the mask head."""
    heads = model.roi_heads
    channels = model.backbone.out_channels
    boxes = nn.Sequential(heads.box_head, heads.box_predictor)
    masks = nn.Sequential(heads.mask_head, heads.mask_predictor)
    parts = (
        count_multiply_adds(Dense(model), 1, 3, *SIZE),
        count_multiply_adds(boxes, PROPOSALS, channels, 7, 7),
    )
    of_masks = count_multiply_adds(masks, OBJECTS, channels, 14, 14)
    return sum(part.total for part in parts), of_masks.total


def main() -> None:
    print("| detector | trained parameters | multiply-adds | of 100 masks |\n|---|---:|---:|---:|")
    for name, arguments in ROWS.items():
        with torch.device("meta"):
            model = mask_rcnn(**arguments, freeze=True)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total, of_masks = (value / GIGA for value in count(model))
        print(f"| {name} | {trained / 1e6:.1f} M | {total:.1f} G | {of_masks:.1f} G |")


if __name__ == "__main__":
    main()

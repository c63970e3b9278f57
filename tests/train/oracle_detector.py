"""A detector that knows the objects of a data set, and is wrong about some."""

import torch
from torch import Tensor, nn

from dyngraph.data import CocoDetection


class OracleDetector(nn.Module):
    """What it finds is a function of the image."""

    def __init__(self, dataset: CocoDetection) -> None:
        super().__init__()
        self.targets = {image.sum().item(): target for image, target in dataset}
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self.detect(image) for image in images]

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        target = self.targets[image.sum().item()]
        generator = torch.Generator().manual_seed(target["image_id"])
        boxes, labels = target["boxes"].as_subclass(Tensor), target["labels"].clone()
        wrong = torch.rand(len(labels), generator=generator) < 0.3
        labels[wrong] = labels[wrong] % 4 + 1
        return {
            "boxes": boxes + 3 * torch.randn(boxes.shape, generator=generator).abs(),
            "labels": labels,
            "scores": torch.rand(len(labels), generator=generator),
            "masks": target["masks"].as_subclass(Tensor).unsqueeze(1).float(),
        }

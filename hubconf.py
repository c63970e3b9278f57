"""Models for torch.hub: ``torch.hub.load(FOLDER, "segmenter", "resnet18", source="local")``."""

from dyngraph.models import (
    dgmn2_large,
    dgmn2_medium,
    dgmn2_small,
    dgmn2_tiny,
    from_pretrained,
    mask_rcnn,
    segmenter,
)

__all__ = [
    "dgmn2_large",
    "dgmn2_medium",
    "dgmn2_small",
    "dgmn2_tiny",
    "from_pretrained",
    "mask_rcnn",
    "segmenter",
]

dependencies = ["torch", "torch_geometric", "torchvision"]

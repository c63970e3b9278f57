"""What happens to an image and its objects before a detector sees them."""

from __future__ import annotations

import torch
from torchvision.transforms import v2


def detection_train_transform() -> v2.Transform:
    r"""Random horizontal flip and :func:`detection_eval_transform`.

    The recipe of Mask R-CNN on COCO. Boxes and masks are flipped with the image. torchvision's
    detectors resize and normalise images themselves.
    """
    return v2.Compose([v2.RandomHorizontalFlip(), detection_eval_transform()])


def detection_eval_transform() -> v2.Transform:
    r"""Images uint8 to float32 in ``[0, 1]``."""
    return v2.ToDtype(torch.float32, scale=True)

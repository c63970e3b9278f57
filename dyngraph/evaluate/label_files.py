"""Scores of predictions in files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from dyngraph.data.files import MAX_PIXELS, read_image
from dyngraph.data.labels import IGNORE
from dyngraph.evaluate.segmentation import class_iou, mean_iou, pixel_accuracy


def score_predictions(
    predictions: Sequence[Path],
    labels: Iterable[Tensor],
    class_names: Sequence[str],
    *,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, float]:
    r"""The scores of predictions in files.

    Args:
        predictions: PNG files of classes, 8-bit grey.
        labels: The true classes ``[H, W]`` for each, 255 = ignored.
        class_names: The name of each class.
        max_pixels: The most pixels that a file may have.

    Returns:
        The IoU of each class by its name, and ``"miou"`` and ``"pixel_accuracy"``.

    Raises:
        OSError: If a file cannot be read as a PNG image, or has more pixels than ``max_pixels``.
        ValueError: If there is not one label per prediction, or a file's size or values don't fit.
    """
    num_classes = len(class_names)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.long)
    for path, label in zip(predictions, labels, strict=True):
        classes = F.pil_to_tensor(read_image(path, ("PNG",), max_pixels=max_pixels))[0].long()
        if classes.shape != label.shape:
            raise ValueError(f"{path}: expected {list(label.shape)}, got {list(classes.shape)}")
        if classes.max() >= num_classes:
            raise ValueError(f"{path}: expected classes below {num_classes}, got {classes.max()}")
        pairs = (num_classes * label + classes)[label != IGNORE]
        confusion += pairs.bincount(minlength=num_classes**2).view(num_classes, num_classes)
    scores = zip(class_names, class_iou(confusion).tolist(), strict=True)
    return {
        **dict(scores),
        "miou": mean_iou(confusion),
        "pixel_accuracy": pixel_accuracy(confusion),
    }

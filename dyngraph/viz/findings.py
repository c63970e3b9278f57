"""What a model finds on an image, read from what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_CELLS = 2**15
"""The most places whose class scores are kept."""
MOST_CLASSES = 8
"""The classes with the highest scores that are kept there."""


@dataclass(frozen=True)
class Segmentation:
    r"""The classes of an image."""

    classes: Tensor
    """The class with the highest score, ``[H, W]``, int64."""
    every: int
    """The distance of the pixels whose scores are kept, in rows and columns."""
    scores: Tensor
    """Their highest probabilities, ``[classes, rows, columns]``."""
    best: Tensor
    """The classes that have them, likewise."""
    num_classes: int


@dataclass(frozen=True)
class Objects:
    r"""The objects on an image."""

    boxes: Tensor
    """``[n, 4]``, (x, y, x, y), in pixels."""
    labels: Tensor
    """The numbers of their classes, ``[n]``, from 0."""
    scores: Tensor | None
    """``[n]``; true objects have none."""
    queries: Tensor | None
    """Which query has found each, ``[n]``, if queries have."""
    masks: Tensor | None
    """Which object each pixel belongs to, ``[H, W]``: 0 for none, or its number from 1."""


def read_output(
    output: Any, size: tuple[int, int], threshold: float
) -> tuple[Segmentation | None, Objects | None]:
    r"""What is in a model's output, as far as its form is known.

    Scores of classes are ``[1, C, h, w]``, alone or as ``"out"`` (of segmenters) or ``logits`` (of
    models of transformers). Objects are those of torchvision's detectors, or ``pred_boxes`` and
    ``logits`` of detectors of transformers.

    Args:
        output: What the model returns for one image.
        size: The height and width of the image.
        threshold: The smallest score of an object.
    """
    if isinstance(output, (list, tuple)) and output and isinstance(output[0], dict):
        output = output[0]
    if isinstance(output, Tensor):
        output = {"out": output}
    if not isinstance(output, dict):
        return None, None
    if {"boxes", "labels", "scores"} <= set(output):
        return None, read_objects(output, size, threshold)
    if {"pred_boxes", "logits"} <= set(output) and output["pred_boxes"].shape[2] == 4:
        return None, _objects_of_transformers(output, size, threshold)
    scores = output.get("out", output.get("logits"))
    if isinstance(scores, Tensor) and scores.dim() == 4 and scores.shape[1] > 1:
        return _segmentation(scores[:1], size), None
    return None, None


def _segmentation(scores: Tensor, size: tuple[int, int]) -> Segmentation:
    scores = scores.detach().float()
    if tuple(scores.shape[2:]) != size:
        scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    every = 1
    while -(-size[0] // every) * -(-size[1] // every) > MOST_CELLS:
        every += 1
    probabilities = scores[0, :, every // 2 :: every, every // 2 :: every].softmax(dim=0)
    num_classes = len(probabilities)
    best = probabilities.topk(min(MOST_CLASSES, num_classes), dim=0)
    classes = scores[0].argmax(dim=0)
    return Segmentation(classes.cpu(), every, best.values.cpu(), best.indices.cpu(), num_classes)


def read_objects(
    objects: Mapping[str, Any], size: tuple[int, int], threshold: float = 0.0
) -> Objects:
    r"""The objects of torchvision's detectors, or their targets, which have no scores.

    Args:
        objects: ``boxes``, ``labels`` from 1, and ``scores`` and ``masks``, if there are any.
        size: The height and width of the image.
        threshold: The smallest score of an object.
    """
    names = ("boxes", "labels", "scores", "masks")
    parts = {name: objects[name].detach().cpu() for name in names if name in objects}
    if "scores" in parts:
        kept = parts["scores"] >= threshold
        parts = {name: part[kept] for name, part in parts.items()}
    masks = None
    if "masks" in parts:
        masks = torch.zeros(size, dtype=torch.long)
        # The first on top: detectors give the most certain first.
        inside = parts["masks"].reshape(-1, *size) >= 0.5
        for number in reversed(range(len(inside))):
            masks[inside[number]] = number + 1
    # Label 0 is the background.
    return Objects(parts["boxes"], parts["labels"] - 1, parts.get("scores"), None, masks)


def _objects_of_transformers(
    output: dict[str, Any], size: tuple[int, int], threshold: float
) -> Objects:
    scores, labels = output["logits"][0].detach().float().cpu().sigmoid().max(dim=1)
    queries = (scores >= threshold).nonzero().flatten()
    queries = queries[scores[queries].argsort(descending=True)]
    middle, extent = output["pred_boxes"][0][queries].detach().float().cpu().split(2, dim=1)
    corners = torch.cat([middle - extent / 2, middle + extent / 2], dim=1)
    boxes = corners * torch.tensor([*size[::-1], *size[::-1]])
    return Objects(boxes, labels[queries], scores[queries], queries, None)

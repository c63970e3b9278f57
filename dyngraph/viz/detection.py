"""Detections drawn over an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

_DRAWN = ("boxes", "labels", "scores", "masks")


def draw_detections(
    image: Tensor,
    objects: Mapping[str, Tensor],
    class_names: Sequence[str],
    palette: Tensor,
    *,
    threshold: float = 0.5,
) -> Tensor:
    r"""Draws boxes, masks, classes and scores over an image.

    Args:
        image: ``[3, H, W]``, uint8.
        objects: Detections or targets: ``boxes [n, 4]`` (x, y, x, y), ``labels [n]`` in
            1..num_classes, and, if there are any, ``scores [n]`` and ``masks [n, H, W]`` or
            ``[n, 1, H, W]`` (at least 1/2 inside).
        class_names: The name of each class.
        palette: Its colour, ``[C, 3]``, uint8.
        threshold: The smallest score of what is drawn.

    Returns:
        ``[3, H, W]``, uint8, on the CPU.

    Raises:
        ValueError: If ``image`` is not ``[3, H, W]``, uint8.
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(
            f"image: expected [3, H, W], uint8, got {list(image.shape)}, {image.dtype}"
        )
    objects = {name: tensor.detach().cpu() for name, tensor in objects.items() if name in _DRAWN}
    if "scores" in objects:
        kept = objects["scores"] >= threshold
        objects = {name: tensor[kept] for name, tensor in objects.items()}
    picture = image.cpu()
    labels = objects["labels"].tolist()
    if not labels:
        return picture
    colours = [tuple(palette[label - 1].tolist()) for label in labels]
    texts = [class_names[label - 1] for label in labels]
    if "scores" in objects:
        scores = objects["scores"].tolist()
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores, strict=True)]
    if "masks" in objects:
        masks = objects["masks"].reshape(len(labels), *picture.shape[-2:]) >= 0.5
        picture = draw_segmentation_masks(picture, masks, alpha=0.5, colors=colours)
    boxes = torch.as_tensor(objects["boxes"])
    return draw_bounding_boxes(picture, boxes, texts, colors=colours, width=2)

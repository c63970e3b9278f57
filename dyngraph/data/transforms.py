"""Transforms of an image and its label, or its objects, before a network sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from dyngraph.data.labels import IGNORE

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class RandomScale(v2.Transform):
    r"""Resizes images and masks by one factor drawn uniformly from a range.

    Images are interpolated bilinearly, masks by nearest neighbour. If the size stays the same, so
    does every pixel.

    Args:
        scale: The smallest and the largest factor.

    Raises:
        ValueError: If ``scale`` is not ``0 < smallest <= largest``.
    """

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] < math.inf:
            raise ValueError(f"scale: expected 0 < smallest <= largest, got {tuple(scale)}")
        self.scale = scale

    def draw(self) -> float:
        r"""Draws a factor."""
        smallest, largest = self.scale
        return smallest + float(torch.rand(())) * (largest - smallest)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        factor = self.draw()
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(v2.functional.resize, inpt, size=params["size"], antialias=True)


class RandomScaleOf(RandomScale):
    r"""Resizes images and masks by one of several factors, all equally likely.

    Args:
        scales: The factors.

    Raises:
        ValueError: If there is none, or one that is not positive.
    """

    def __init__(self, scales: Sequence[float]) -> None:
        if not scales or not all(0 < factor < math.inf for factor in scales):
            raise ValueError(f"scales: expected positive factors, at least one, got {scales}")
        super().__init__((min(scales), max(scales)))
        self.scales = tuple(scales)

    def draw(self) -> float:
        return self.scales[int(torch.randint(len(self.scales), ()))]


def train_transform(
    crop_size: int | tuple[int, int],
    *,
    scale: tuple[float, float] | None = None,
    scales: Sequence[float] | None = None,
) -> v2.Transform:
    r"""Random scale, random crop, random horizontal flip and :func:`eval_transform`.

    If a scaled image is smaller than the crop, it is padded with ImageNet's mean colour, and its
    label with 255. The recipe of "Representative Graph Neural Network" (ECCV 2020) crops 769 x 769
    on Cityscapes, at one of the scales 0.75, 1, 1.25, 1.5, 1.75 and 2.

    Args:
        crop_size: The height and width of the crop, or one number for both.
        scale: The range that the scale is drawn from uniformly; ``(1, 1)`` keeps the size, and
            every pixel. Defaults to ``(0.5, 2)`` without ``scales``.
        scales: Scales to draw from, instead of ``scale``.

    Raises:
        ValueError: If ``crop_size`` is not positive, ``scale`` not ``0 < smallest <= largest``,
            ``scales`` has none or one that is not positive, or both are given.
    """
    size = (crop_size, crop_size) if isinstance(crop_size, int) else tuple(crop_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"crop_size: expected a positive height and width, got {crop_size}")
    if scale is not None and scales is not None:
        raise ValueError(
            "scale, scales: expected a range or a list, and None for the other; "
            f"got {scale} and {scales}"
        )
    if scales is None:
        resize = RandomScale((0.5, 2.0) if scale is None else scale)
    else:
        resize = RandomScaleOf(scales)
    mean_colour = [round(255 * mean) for mean in IMAGENET_MEAN]
    fill = {tv_tensors.Image: mean_colour, tv_tensors.Mask: IGNORE}
    return v2.Compose(
        [
            resize,
            v2.RandomCrop(size, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
            eval_transform(),
        ]
    )


def eval_transform(
    mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> v2.Transform:
    r"""Converts images from uint8 to float32, normalised by each colour's mean and deviation.

    Args:
        mean: The mean, of colours in 0..1. Defaults to ImageNet's.
        std: The standard deviation. Defaults to ImageNet's.
    """
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def detection_train_transform() -> v2.Transform:
    r"""Random horizontal flip and :func:`detection_eval_transform`.

    The recipe of Mask R-CNN on COCO. Boxes and masks are flipped with the image. torchvision's
    detectors resize and normalise images themselves.
    """
    return v2.Compose([v2.RandomHorizontalFlip(), detection_eval_transform()])


def detection_eval_transform() -> v2.Transform:
    r"""Converts images from uint8 to float32 in ``[0, 1]``."""
    return v2.ToDtype(torch.float32, scale=True)


def denormalize(image: Tensor) -> Tensor:
    r"""The picture behind a normalised image: the inverse of :func:`eval_transform`.

    Args:
        image: Normalised images ``[..., 3, H, W]``.

    Returns:
        The images of the same shape, uint8.

    Raises:
        ValueError: If ``image`` does not have three channels.
    """
    if image.dim() < 3 or image.shape[-3] != 3:
        raise ValueError(f"image: expected shape [..., 3, H, W], got {list(image.shape)}")
    mean = image.new_tensor(IMAGENET_MEAN)[:, None, None]
    std = image.new_tensor(IMAGENET_STD)[:, None, None]
    return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

"""Values and colours of label files that several data sets share."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE = 255
"""The class of pixels that count neither in training nor in evaluation."""


def encode_one_based(values: Tensor, num_classes: int) -> Tensor:
    r"""The classes of values that count from 1.

    Args:
        values: Values ``0..num_classes`` of any shape, uint8.
        num_classes: The number of classes.

    Returns:
        Classes ``0..num_classes - 1``, or 255 for 0, of the shape of ``values``, uint8.

    Raises:
        ValueError: If a value is above ``num_classes``.
    """
    unknown = values > num_classes
    if unknown.any():
        raise ValueError(f"values: expected 0..{num_classes}, got {int(values[unknown][0])}")
    # In uint8, 0 - 1 is 255.
    return values - 1


def voc_palette(num_classes: int) -> Tensor:
    r"""The colours of the values ``1..num_classes`` in the colour map of PASCAL VOC.

    The bits of a value, from the lowest on, go to red, green and blue in turn and fill these from
    the highest bit on. Value 0, the background, is black and not a class.

    Args:
        num_classes: The number of classes, 0..255.

    Returns:
        RGB colours ``[num_classes, 3]``, uint8, no two equal.
    """
    values = torch.arange(1, num_classes + 1)
    colours = torch.zeros(num_classes, 3, dtype=torch.uint8)
    for bit in range(8):
        channel, place = bit % 3, 7 - bit // 3
        colours[:, channel] |= ((values >> bit & 1) << place).to(torch.uint8)
    return colours

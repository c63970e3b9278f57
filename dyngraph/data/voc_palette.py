"""The colours that PASCAL VOC publishes for the values of its label files."""

from __future__ import annotations

import torch
from torch import Tensor


def voc_palette(num_classes: int) -> Tensor:
    r"""The colours of the values ``1..num_classes`` in the colour map of PASCAL VOC.

    The bits of a value, from the lowest on, are dealt to red, green and blue in turn and fill these
    from the highest bit on. Value 0, the background, is black and no class.

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

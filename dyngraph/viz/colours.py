"""Colours for classes that have none of their own."""

import torch
from torch import Tensor


def distinct_colours(count: int) -> Tensor:
    r"""RGB colours ``[count, 3]``, uint8, whose hues are far from each other, however many."""
    hues = (torch.arange(count) * 0.618034) % 1 * 6
    turned = (hues.unsqueeze(1) + torch.tensor([0.0, 4.0, 2.0])) % 6
    shade = 1 - 0.6 * (1 - ((turned - 3).abs() - 1).clamp(0, 1))
    return (shade * 230).round().to(torch.uint8)

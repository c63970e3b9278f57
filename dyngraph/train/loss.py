"""The loss of a segmenter."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dyngraph.data.labels import IGNORE


def segmentation_loss(scores: Tensor, label: Tensor, *, num_pixels: Tensor | None = None) -> Tensor:
    r"""Mean cross-entropy over the pixels that are not ignored; 0 where all are.

    Args:
        scores: ``[B, C, H, W]``.
        label: Classes ``[B, H, W]``, 255 = ignored.
        num_pixels: The divisor of the sum over the pixels. Defaults to their number. With their
            mean number over several processes, the mean of the processes' gradients is that of the
            whole batch.
    """
    if num_pixels is None:
        num_pixels = (label != IGNORE).sum()
    total = F.cross_entropy(scores.float(), label, ignore_index=IGNORE, reduction="sum")
    return total / num_pixels.clamp(min=1)


@torch.no_grad()
def ignore_easy_pixels(scores: Tensor, label: Tensor, threshold: float, min_kept: int) -> Tensor:
    r"""Online hard example mining (OHEM): keeps only the labels of hard pixels.

    A pixel is hard if its class gets a probability of at most ``threshold``, or if it is one of the
    ``min_kept`` pixels of the batch whose classes get the smallest probabilities, ties included.

    Args:
        scores: ``[B, C, H, W]``.
        label: Classes ``[B, H, W]``, 255 = ignored.
        threshold: The largest probability of a hard pixel.
        min_kept: The least number of hard pixels.

    Returns:
        ``label``, but 255 where a pixel is easy.
    """
    losses = F.cross_entropy(scores.float(), label, ignore_index=IGNORE, reduction="none")
    losses = losses.masked_fill(label == IGNORE, -1)
    smallest = torch.tensor(-math.log(threshold), device=losses.device)
    kept = min(min_kept, int((label != IGNORE).sum()))
    if kept:
        smallest = torch.minimum(smallest, losses.flatten().topk(kept).values[-1])
    return label.masked_fill(losses < smallest, IGNORE)

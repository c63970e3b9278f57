"""Scores of a segmentation, all from one confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def class_iou(confusion: Tensor) -> Tensor:
    r"""Intersection over union of each class.

    .. math::
        \mathrm{IoU}_c = \frac{TP_c}{TP_c + FP_c + FN_c}

    Args:
        confusion: Numbers of pixels ``[C, C]``, one row per true class and one column per predicted
            one, without ignored pixels.

    Returns:
        ``[C]``, float64. A class that is neither in the labels nor in the predictions is NaN, as in
        ``cityscapesscripts``.
    """
    hits = confusion.diagonal().double()
    return hits / (confusion.sum(dim=0) + confusion.sum(dim=1) - hits)


def mean_iou(confusion: Tensor, classes: list[int] | None = None) -> float:
    r"""The mean of :func:`class_iou` over the classes that occur.

    Args:
        confusion: Numbers of pixels ``[C, C]``.
        classes: The classes to average over. Defaults to all.
    """
    iou = class_iou(confusion)
    return float(torch.nanmean(iou if classes is None else iou[classes]))


def pixel_accuracy(confusion: Tensor) -> float:
    r"""The share of pixels whose class is predicted; NaN if there are no pixels."""
    return float(confusion.diagonal().sum().double() / confusion.sum())

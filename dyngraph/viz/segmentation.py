"""Label maps in colour."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dyngraph.data.cityscapes import PALETTE
from dyngraph.data.labels import IGNORE
from dyngraph.viz.panels import draw_panels


def colorize(label: Tensor, palette: Tensor = PALETTE) -> Tensor:
    r"""The colours of classes.

    Args:
        label: Classes ``[H, W]`` in 0..255. Those without a colour become black.
        palette: The RGB colours ``[C, 3]``, uint8, of at most 255 classes. Defaults to those of
            Cityscapes' training ids.

    Returns:
        ``[3, H, W]``, uint8, on the CPU.
    """
    colors = torch.zeros(IGNORE + 1, 3, dtype=torch.uint8)
    colors[: len(palette)] = palette
    return colors[label.cpu().long()].permute(2, 0, 1)


def draw_segmentation(
    image: Tensor, panels: dict[str, Tensor], *, palette: Tensor = PALETTE
) -> Figure:
    r"""Draws an image and label maps of it side by side.

    Args:
        image: ``[3, H, W]``, uint8.
        panels: Classes ``[H, W]`` by title, e.g. the labels and the predictions of models.
        palette: The RGB colours of the classes, as :func:`colorize` takes them.
    """
    coloured = {title: colorize(label, palette) for title, label in panels.items()}
    return draw_panels({"image": image, **coloured})

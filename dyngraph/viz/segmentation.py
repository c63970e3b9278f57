"""Label maps in colour."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dyngraph.data.labels import IGNORE, PALETTE


def colorize(label: Tensor, palette: Tensor = PALETTE) -> Tensor:
    r"""The colours of classes.

    Args:
        label: Classes ``[H, W]`` in 0..255. Those without a colour become black.
        palette: The RGB colours ``[C, 3]``, uint8, of at most 255 classes. Defaults to those of the
            Cityscapes training ids.

    Returns:
        ``[3, H, W]``, uint8, on the CPU.
    """
    colors = torch.zeros(IGNORE + 1, 3, dtype=torch.uint8)
    colors[: len(palette)] = palette
    return colors[label.cpu().long()].permute(2, 0, 1)


def draw_segmentation(
    image: Tensor, panels: dict[str, Tensor], palette: Tensor = PALETTE
) -> Figure:
    r"""Draws an image and label maps of it side by side.

    Args:
        image: ``[3, H, W]``, uint8.
        panels: Classes ``[H, W]`` by title, e.g. the labels and the predictions of models.
        palette: The RGB colours of the classes, as :func:`colorize` takes them.
    """
    coloured = {title: colorize(label, palette) for title, label in panels.items()}
    pictures = {"image": image, **coloured}
    height, width = image.shape[-2:]
    columns = min(3, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(4 * columns, (4 * height / width + 0.3) * rows), layout="constrained")
    for number, (title, picture) in enumerate(pictures.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(picture.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        axes.set(title=title, xticks=[], yticks=[])
    return figure

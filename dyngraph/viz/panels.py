"""Pictures side by side."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor


def draw_panels(pictures: Mapping[str, Tensor]) -> Figure:
    r"""Draws pictures ``[3, H, W]``, uint8, of one size side by side, below their titles."""
    height, width = next(iter(pictures.values())).shape[-2:]
    columns = min(3, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(4 * columns, (4 * height / width + 0.3) * rows), layout="constrained")
    for number, (title, picture) in enumerate(pictures.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(picture.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        axes.set(title=title, xticks=[], yticks=[])
    return figure

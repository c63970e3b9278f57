"""Pictures side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

_INCHES = 12.0
_MOST_COLUMNS = 3


def draw_panels(pictures: Mapping[str, Tensor]) -> Figure:
    r"""Draws pictures ``[3, H, W]``, uint8, of one size side by side, below their titles."""
    figure, panels = image_panels(list(pictures.values()), text_height=0.35)
    for axes, title in zip(panels, pictures, strict=True):
        axes.set_title(title)
        # Colours of classes must not mix.
        axes.images[0].set_interpolation("nearest")
    return figure


def image_panels(
    pictures: Sequence[Tensor], text_height: float, legend_height: float = 0.0
) -> tuple[Figure, list[Axes]]:
    r"""A figure that shows pictures ``[3, H, W]``, uint8, of one size, each in its own pixels.

    Args:
        pictures: At least one.
        text_height: The space for text above and below each row of pictures, in inches.
        legend_height: The space for a legend of the whole figure, below it.
    """
    height, width = pictures[0].shape[-2:]
    columns = min(_MOST_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    panel_width = _INCHES / max(columns, 2)
    figure_height = (panel_width * height / width + text_height) * rows + legend_height
    figure = Figure(figsize=(panel_width * columns, figure_height), layout="compressed")
    panels = []
    for number, picture in enumerate(pictures, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(picture.permute(1, 2, 0).cpu().numpy())
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
        axes.set_autoscale_on(False)
        panels.append(axes)
    return figure, panels

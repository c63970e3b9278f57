"""A pixel and its samples as points, larger for larger weights."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.typing import ColorType
from torch import Tensor

# Areas in points squared. Samples of nearly no weight get the smallest, "for better view"
# (RepGraph, Figure 6).
FULL_AREA = 400.0
LEAST_AREA = 12.0
PIXEL_AREA = 80.0

_EDGE, _EDGE_WIDTH = "black", 0.6


def draw_samples(axes: Axes, points: Tensor, share: Tensor, color: ColorType) -> None:
    r"""Draws samples over an image, the small ones in front of the large ones.

    Args:
        axes: The axes of the image.
        points: Their positions ``[K, 2]`` (y, x), in pixels.
        share: Each one's share of the full area, ``[K]`` in 0..1.
        color: Their colour.
    """
    order = share.argsort(descending=True)
    y, x = points[order].unbind(dim=1)
    areas = (FULL_AREA * share[order]).clamp(min=LEAST_AREA)
    axes.scatter(x, y, areas, [color], alpha=0.85, edgecolors=_EDGE, linewidths=_EDGE_WIDTH)


def draw_pixel(axes: Axes, pixel: tuple[int, int], color: ColorType) -> None:
    r"""Draws the pixel (row, column) that listens, in front of its samples."""
    y, x = pixel
    axes.scatter(
        x,
        y,
        PIXEL_AREA,
        [color],
        edgecolors=_EDGE,
        linewidths=_EDGE_WIDTH,
        zorder=3,
        clip_on=False,
    )


def legend_point(label: str, color: ColorType, area: float) -> Line2D:
    r"""A point for a legend that explains its colour or its area."""
    return Line2D(
        [],
        [],
        linestyle="none",
        marker="o",
        markersize=area**0.5,
        color=color,
        markeredgecolor=_EDGE,
        markeredgewidth=_EDGE_WIDTH,
        label=label,
    )

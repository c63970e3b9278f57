"""The nodes that a pixel samples at every rate, drawn over the image (DGMN, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

from dyngraph.neighborhood import Neighborhood
from dyngraph.nn import DGMNConv
from dyngraph.viz.capture import capture_input
from dyngraph.viz.nodes import is_outside, pixel_positions
from dyngraph.viz.panels import image_panels
from dyngraph.viz.points import (
    FULL_AREA,
    LEAST_AREA,
    PIXEL_AREA,
    draw_pixel,
    draw_samples,
    legend_point,
)

_PIXEL = "red"
# Within a colour, darker means a larger rate.
_YELLOWS = LinearSegmentedColormap.from_list("yellows", ["#fff47a", "#ffcc00", "#a87900"])
_BLUES = LinearSegmentedColormap.from_list("blues", ["#a6d8ff", "#2f86e8", "#082c85"])


@torch.no_grad()
def dynamic_nodes(model: nn.Module, image: Any) -> list[tuple[Neighborhood, Tensor, Tensor | None]]:
    r"""What the nodes of the first DGMN layer of a model sample, for each of its rates.

    Args:
        model: Any model with a :class:`~dyngraph.nn.DGMNConv` inside.
        image: A batch as the model takes it.

    Returns:
        For each rate the samples, their filters ``[N, G, K]`` and their affinities ``[N, 1, K]``,
        or None if the layer predicts none.

    Raises:
        ValueError: If the model has no such layer.
    """
    conv, x, grid = capture_input(model, DGMNConv, image)
    nears = [message.sampler(x, grid) for message in conv.messages]
    pairs = zip(conv.messages, nears, strict=True)
    return [(near, *message.predict(x, near)) for message, near in pairs]


def draw_rates(
    image: Tensor,
    samples: Sequence[tuple[Neighborhood, Tensor, Tensor | None]],
    rates: Sequence[int],
    pixel: tuple[int, int],
    *,
    batch_index: int = 0,
) -> Figure:
    r"""Draws the samples of one pixel at every rate over the image.

    As in "Dynamic Graph Message Passing Networks" (CVPR 2020), Figure 4: the pixel is red, the
    samples are yellow in the panel of filters and blue in that of affinities, if there are any, and
    every rate has its own shade. The area of a point is the affinity, or the size of the filter
    averaged over the groups, relative to the largest in the panel; the smallest are enlarged, so
    that they are visible. Samples outside the image are not drawn but counted.

    Args:
        image: The image ``[3, H, W]``, uint8.
        samples: As :func:`dynamic_nodes` returns them.
        rates: The sampling rates, for the legend.
        pixel: Row and column of the pixel.
        batch_index: Which map of the batch belongs to the image.

    Raises:
        ValueError: If the map does not have two axes or the pixel is outside the image.
    """
    points, filters, affinities = [], [], []
    for near, w, alpha in samples:
        node, positions = pixel_positions(image, near, pixel, batch_index)
        points.append(positions)
        filters.append(w[node].detach().abs().mean(dim=0).float().cpu())
        if alpha is not None:
            affinities.append(alpha[node].detach().mean(dim=0).float().cpu())
    families = [("filters", "$|w|$", filters, _YELLOWS)]
    if affinities:
        families.append(("affinities", r"$\alpha$", affinities, _BLUES))
    figure, panels = image_panels([image] * len(families), text_height=0.75)
    for axes, (name, symbol, weights, colors) in zip(panels, families, strict=True):
        axes.set_title(f"{name} {symbol}")
        largest = float(torch.cat(weights).max()) or 1.0
        shades = colors(torch.linspace(0, 1, len(rates)).numpy())
        legend = [legend_point("receiving node", _PIXEL, PIXEL_AREA)]
        for positions, rate, shade in zip(points, rates, shades, strict=True):
            outside = int(is_outside(image, positions).sum())
            text = f"rate {rate}, {outside} outside" if outside else f"rate {rate}"
            legend.append(legend_point(text, shade, PIXEL_AREA))
        # Small rates are in front: their samples lie close together.
        drawn = list(zip(points, weights, shades, strict=True))
        for positions, weight, shade in reversed(drawn):
            draw_samples(axes, positions, weight / largest, shade)
        draw_pixel(axes, pixel, _PIXEL)
        least = largest * LEAST_AREA / FULL_AREA
        legend += [
            legend_point(f"{symbol} = {largest / 2:.2g}", "white", FULL_AREA / 2),
            legend_point(f"{symbol} ≤ {least:.2g}", "white", LEAST_AREA),
        ]
        axes.legend(
            handles=legend,
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            ncols=4,
            labelspacing=0.8,
            fontsize="small",
            frameon=False,
        )
    return figure

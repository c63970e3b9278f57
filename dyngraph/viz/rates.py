"""The nodes that a pixel samples at every rate, drawn over the image (DGMN, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn

from dyngraph.neighborhood import Neighborhood
from dyngraph.nn import DGMNConv
from dyngraph.nn.conv import DynamicMessage
from dyngraph.viz.capture import capture_input
from dyngraph.viz.nodes import image_axes, pixel_positions

# A colour family a rate, from light to dark with the weight.
_FAMILIES = ("Reds", "Blues", "Greens", "Purples", "Oranges", "Greys")
_LARGEST_AREA = 300.0


@torch.no_grad()
def dynamic_nodes(model: nn.Module, image: Any) -> list[tuple[Neighborhood, Tensor, Tensor]]:
    r"""What the nodes of the first DGMN layer of a model sample, for each of its rates.

    Args:
        model: Any model with a :class:`~dyngraph.nn.DGMNConv` inside.
        image: A batch as the model takes it.

    Returns:
        For each rate the samples, their filters ``[N, G, K]`` and their affinities ``[N, 1, K]``,
        uniform where none are predicted.

    Raises:
        ValueError: If the model has no such layer.
    """
    conv, x, grid = capture_input(model, DGMNConv, image)
    samples = []
    for message in conv.messages:
        near, filters, affinity = cast(DynamicMessage, message).predict(x, grid)
        uniform = torch.full_like(filters[:, :1], 1 / near.num_samples)
        samples.append((near, filters, uniform if affinity is None else affinity))
    return samples


def draw_rates(
    image: Tensor,
    samples: Sequence[tuple[Neighborhood, Tensor, Tensor]],
    rates: Sequence[int],
    pixel: tuple[int, int],
    batch_index: int = 0,
) -> Figure:
    r"""Draws the samples of one pixel at every rate over the image.

    Every rate has a colour family. The area of a disc is the affinity of its sample, its shade the
    size of the filter there, averaged over the groups, in relation to the largest of its rate.

    Args:
        image: The image ``[3, H, W]``, uint8.
        samples: As :func:`dynamic_nodes` returns them.
        rates: The sampling rates, for the legend.
        pixel: Row and column of the pixel.
        batch_index: Which map of the batch belongs to the image.

    Raises:
        ValueError: If the pixel is outside the image.
    """
    figure, axes = image_axes(image)
    for number, ((near, filters, affinity), rate) in enumerate(zip(samples, rates, strict=True)):
        node, points = pixel_positions(image, near, pixel, batch_index)
        share = affinity[node].mean(dim=0).float().cpu()
        size = filters[node].abs().mean(dim=0).float().cpu()
        shade = 0.35 + 0.65 * size / size.max().clamp(min=torch.finfo(size.dtype).tiny)
        axes.scatter(
            points[:, 1],
            points[:, 0],
            _LARGEST_AREA * share / share.max(),
            colormaps[_FAMILIES[number % len(_FAMILIES)]](shade.numpy()),
            edgecolors="black",
            linewidths=0.5,
            label=f"rate {rate}",
        )
    axes.scatter(pixel[1], pixel[0], 120, "yellow", marker="+", linewidths=3)
    axes.legend(loc="upper right", fontsize="small")
    return figure

"""The nodes that pixels listen to, drawn over the image (RepGraph, Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from dyngraph.neighborhood import Neighborhood
from dyngraph.nn import RepGraphConv
from dyngraph.viz.capture import capture_input
from dyngraph.viz.panels import image_panels
from dyngraph.viz.points import (
    FULL_AREA,
    LEAST_AREA,
    PIXEL_AREA,
    draw_pixel,
    draw_samples,
    legend_point,
)

_PIXEL, _SAMPLE = "blue", "red"


@torch.no_grad()
def representative_nodes(model: nn.Module, image: Any) -> tuple[Neighborhood, Tensor]:
    r"""The samples of all nodes in the first RepGraph layer of a model, and their attention.

    Args:
        model: Any model with a :class:`~dyngraph.nn.RepGraphConv` inside.
        image: A batch as the model takes it.

    Returns:
        The samples, and the attention ``[N, G, K]``.

    Raises:
        ValueError: If the model has no such layer.
    """
    conv, x, grid = capture_input(model, RepGraphConv, image)
    _, near, attention = conv.sample(x, grid)
    return near, attention


def draw_nodes(
    image: Tensor,
    near: Neighborhood,
    attention: Tensor,
    pixels: Sequence[tuple[int, int]],
    *,
    batch_index: int = 0,
) -> Figure:
    r"""Draws the representative nodes of some pixels over the image, one panel per pixel.

    As in "Representative Graph Neural Network" (ECCV 2020), Figure 6: the pixel is blue, the
    samples of the node below it are red. The area of a red point is the weight of its sample, the
    attention averaged over the groups; samples that weigh next to nothing are enlarged, so that
    they are visible. Samples outside the image are not drawn but counted.

    Args:
        image: The image ``[3, H, W]``, uint8.
        near: The samples of the nodes of its feature map, as
            :func:`representative_nodes` returns them.
        attention: Their attention ``[N, G, K]``, likewise.
        pixels: Rows and columns of pixels of the image, at least one.
        batch_index: Which map of the batch belongs to the image.

    Raises:
        ValueError: If the map does not have two axes, there is no pixel or one outside the image.
    """
    if not pixels:
        raise ValueError("pixels: expected at least one, got none")
    figure, panels = image_panels([image] * len(pixels), text_height=0.3, legend_height=0.35)
    for axes, pixel in zip(panels, pixels, strict=True):
        node, points = pixel_positions(image, near, pixel, batch_index)
        weight = attention[node].detach().mean(dim=0).float().cpu()
        draw_samples(axes, points, weight, _SAMPLE)
        draw_pixel(axes, pixel, _PIXEL)
        outside = is_outside(image, points)
        if outside.any():
            axes.set_xlabel(
                f"outside: {int(outside.sum())} of {len(points)} samples, "
                f"weight {weight[outside].sum():.2f}",
                fontsize="small",
            )
    figure.legend(
        handles=[
            legend_point("current position", _PIXEL, PIXEL_AREA),
            legend_point("sampled position of weight 0.5", _SAMPLE, FULL_AREA * 0.5),
            legend_point("0.1", _SAMPLE, FULL_AREA * 0.1),
            legend_point(f"at most {LEAST_AREA / FULL_AREA:g}", _SAMPLE, LEAST_AREA),
        ],
        loc="outside lower center",
        ncols=4,
        fontsize="small",
        frameon=False,
    )
    return figure


def pixel_positions(
    image: Tensor, near: Neighborhood, pixel: tuple[int, int], batch_index: int
) -> tuple[int, Tensor]:
    r"""The node below a pixel, and the pixel positions of that node's samples, ``[K, 2]``.

    Raises:
        ValueError: If the map does not have two axes or the pixel is outside the image.
    """
    if near.grid.num_axes != 2:
        raise ValueError(f"near: expected maps with 2 axes, got {near.grid.num_axes}")
    height, width = image.shape[-2:]
    y, x = pixel
    if not (0 <= y < height and 0 <= x < width):
        raise ValueError(
            f"pixels: expected rows below {height} and columns below {width}, got {(y, x)}"
        )
    rows, columns = near.receiver.shapes[batch_index]
    first = int(near.receiver.ptr[batch_index])
    node = first + int(y * rows / height) * columns + int(x * columns / width)
    # Node centres lie evenly on the image: pixel = (node + 1/2) * stride - 1/2.
    rows, columns = near.grid.shapes[batch_index]
    stride = torch.tensor([height / rows, width / columns], device=near.pos.device)
    return node, ((near.pos[node].detach() + 0.5) * stride - 0.5).cpu()


def is_outside(image: Tensor, points: Tensor) -> Tensor:
    r"""Which of the pixel positions ``[K, 2]`` lie outside the pixels of an image, ``[K]``."""
    size = torch.tensor(image.shape[-2:])
    return ((points < -0.5) | (points > size - 0.5)).any(dim=1)

"""The nodes that pixels listen to, drawn over the image (RepGraph, Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from dyngraph.neighborhood import Neighborhood
from dyngraph.nn import RepGraphConv
from dyngraph.viz.capture import capture_input

# The area of a point that has all the attention, in points squared.
_FULL_AREA = 400.0


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
    batch_index: int = 0,
) -> Figure:
    r"""Draws the representative nodes of some pixels over the image.

    A cross marks a pixel, discs of its colour mark the samples of the node below it. The area of a
    disc is the attention that the sample gets, averaged over the groups.

    Args:
        image: The image ``[3, H, W]``, uint8.
        near: The samples of the nodes of its feature map, as
            :func:`representative_nodes` returns them.
        attention: Their attention ``[N, G, K]``, likewise.
        pixels: Rows and columns of pixels of the image.
        batch_index: Which map of the batch belongs to the image.

    Raises:
        ValueError: If the map does not have two axes or a pixel is outside the image.
    """
    figure, axes = image_axes(image)
    for number, (y, x) in enumerate(pixels):
        node, points = pixel_positions(image, near, (y, x), batch_index)
        share = attention[node].detach().mean(dim=0).float().cpu()
        color = f"C{number}"
        axes.scatter(
            points[:, 1], points[:, 0], _FULL_AREA * share, color, alpha=0.7, edgecolors="white"
        )
        axes.scatter(x, y, 120, "white", marker="+", linewidths=4)
        axes.scatter(x, y, 100, color, marker="+", linewidths=2)
    return figure


def image_axes(image: Tensor) -> tuple[Figure, Axes]:
    r"""A figure that shows an image ``[3, H, W]``, uint8, in its own pixels."""
    height, width = image.shape[-2:]
    figure = Figure(figsize=(8, 8 * height / width), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(image.permute(1, 2, 0).cpu().numpy())
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_autoscale_on(False)
    return figure, axes


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
    rows, columns = near.grid.shapes[batch_index]
    first = int(near.grid.ptr[batch_index])
    node = first + int(y * rows / height) * columns + int(x * columns / width)
    # Node centres lie evenly on the image: pixel = (node + 1/2) * stride - 1/2.
    stride = torch.tensor([height / rows, width / columns], device=near.pos.device)
    return node, ((near.pos[node].detach() + 0.5) * stride - 0.5).cpu()

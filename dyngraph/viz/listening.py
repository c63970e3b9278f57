"""Drawing where a network listens, whatever its layers are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from dyngraph.data.transforms import denormalize
from dyngraph.nn import DGMNConv, RepGraphConv
from dyngraph.viz.nodes import draw_nodes, representative_nodes
from dyngraph.viz.rates import draw_rates, dynamic_nodes

_MOST_BOXES = 9


def draw_listening(
    model: nn.Module, inputs: Any, picture: Tensor, pixels: Sequence[tuple[int, int]]
) -> Iterator[tuple[str, Figure]]:
    r"""Draws what some pixels listen to, in the first layer of each kind that a model has.

    Args:
        model: Any model of images.
        inputs: One image, as the model takes it.
        picture: The picture that the feature maps cover, ``[3, H, W]``, uint8.
        pixels: Rows and columns of the picture.

    Yields:
        ``"nodes"`` and a picture of RepGraph's nodes; ``"rates"`` and a picture of DGMN's samples
        at all rates, for the pixel in the middle of the list.
    """
    layers = [type(module) for module in model.modules()]
    if RepGraphConv in layers:
        near, attention = representative_nodes(model, inputs)
        yield "nodes", draw_nodes(picture, near, attention, pixels)
    if DGMNConv in layers:
        rates = next(m.rates for m in model.modules() if isinstance(m, DGMNConv))
        pixel = pixels[len(pixels) // 2]
        yield "rates", draw_rates(picture, dynamic_nodes(model, inputs), rates, pixel)


def draw_detector_listening(
    model: MaskRCNN, image: Tensor, boxes: Tensor
) -> Iterator[tuple[str, Figure]]:
    r"""Draws what the middles of the first nine boxes listen to, as :func:`draw_listening` does.

    The picture is what the detector's feature maps cover: the image, resized and padded.

    Args:
        model: A detector with one of dyngraph's blocks.
        image: ``[3, H, W]`` in 0..1, as the model takes it.
        boxes: ``[n, 4]`` (x, y, x, y), in pixels. Without any, draws the middle of the picture.
    """
    inputs, (target,) = model.transform([image], [{"boxes": boxes}])
    picture = denormalize(inputs.tensors[0]).cpu()
    height, width = picture.shape[-2:]
    boxes = target["boxes"][:_MOST_BOXES]
    middles = boxes.view(-1, 2, 2).mean(dim=1).tolist() or [(width / 2, height / 2)]
    pixels = [(min(int(y), height - 1), min(int(x), width - 1)) for x, y in middles]
    yield from draw_listening(model, [image], picture, pixels)

"""What a layer inside a model receives."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

from dyngraph.evaluation_mode import evaluation_mode
from dyngraph.grid import Grid

Layer = TypeVar("Layer", bound=nn.Module)


def capture_input(
    model: nn.Module, layer_type: type[Layer], image: Any
) -> tuple[Layer, Tensor, Grid]:
    r"""Runs a model in evaluation mode; returns its first layer of a type and that layer's input.

    Args:
        model: Any model of images.
        layer_type: A layer on nodes, such as :class:`~dyngraph.nn.RepGraphConv`.
        image: A batch as the model takes it.

    Returns:
        The layer, its node features ``[N, C]`` and their grid.

    Raises:
        ValueError: If the model has no such layer.
    """
    layer = next((m for m in model.modules() if isinstance(m, layer_type)), None)
    if layer is None:
        raise ValueError(
            f"model: expected one with a {layer_type.__name__}, got {type(model).__name__}"
        )
    received: list[tuple[Tensor, Grid]] = []
    handle = layer.register_forward_pre_hook(lambda _, args: received.append(args[:2]))
    with handle, evaluation_mode(model):
        model(image)
    x, grid = received[0]
    return layer, x, grid

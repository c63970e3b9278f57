"""Deformable convolution in models of torchvision and of all who use its layer."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

try:
    from torchvision.ops import DeformConv2d
except ImportError as error:
    raise ImportError(
        "dyngraph.integrations.torchvision needs torchvision: pip install 'dyngraph[train]'"
    ) from error

from dyngraph.integrations.subclass import (
    Accelerated,
    accelerate_modules,
    restore_modules,
    subclass,
)
from dyngraph.ops import deform_conv2d


def accelerate(model: nn.Module) -> int:
    r"""Lets all :class:`torchvision.ops.DeformConv2d` of a model sample by our operator, in place.

    They keep their weights and compute what they did, by :func:`~dyngraph.ops.deform_conv2d`.
    Models can be trained, copied, pickled, compiled and exported as before. Subclasses with a
    forward of their own are left alone.

    Args:
        model: The model, or any module of it.

    Returns:
        The number of layers that sample by our operator now and didn't before.

    Example:
        >>> from torch import nn
        >>> from torchvision.ops import DeformConv2d
        >>> from dyngraph.integrations.torchvision import accelerate, restore
        >>> model = nn.ModuleList([DeformConv2d(4, 8, 3), nn.Conv2d(4, 8, 3)])
        >>> accelerate(model), accelerate(model), restore(model)
        (1, 0, 1)
    """
    return accelerate_modules(model, _find)


def restore(model: nn.Module) -> int:
    r"""Undoes :func:`accelerate`.

    Returns:
        The number of layers that it changed.
    """
    return restore_modules(model, accelerated)


def _find(module: nn.Module) -> type[Accelerated] | None:
    base: Any = type(module)  # mypy finds no hash in types of modules
    return accelerated(base) if base.forward is DeformConv2d.forward else None


@cache
def accelerated(base: Any) -> type[Accelerated]:
    r"""The subclass of a deformable convolution's class that samples by our operator."""
    return subclass(base, "forward", _forward, accelerated, (base,))


def _forward(
    self: DeformConv2d, input: Tensor, offset: Tensor, mask: Tensor | None = None
) -> Tensor:
    return deform_conv2d(
        input,
        offset,
        self.weight,
        self.bias,
        stride=self.stride,
        padding=self.padding,
        dilation=self.dilation,
        mask=mask,
    )

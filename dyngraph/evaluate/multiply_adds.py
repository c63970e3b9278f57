"""Counting the multiply-adds of a model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dyngraph.ops import use_backend


@dataclass(frozen=True)
class MultiplyAdds:
    r"""Multiply-adds of one forward pass.

    Attributes:
        dense: Those of convolutions and matrix products.
        sampling: Those of dyngraph's operators. Attention counts by its definition, as in the
            papers: each table is interpolated once, then scored, then summed. The other operators
            count what they compute, one per corner and channel.
    """

    dense: int
    sampling: int

    @property
    def total(self) -> int:
        r"""Their sum."""
        return self.dense + self.sampling


def count_multiply_adds(module: nn.Module, *shape: int) -> MultiplyAdds:
    r"""Counts the multiply-adds of ``module`` on an input of the given shape.

    Runs on the meta device: nothing is computed and no memory is used, whatever the size.
    Elementwise work (normalisation, activations, softmax) is not counted. torchvision's deformable
    convolution counts as an ordinary convolution of its interpolated samples.

    Args:
        module: Any module that takes one tensor. It is copied, and counted in evaluation mode.
        *shape: The shape of the input.
    """
    module = copy.deepcopy(module).to("meta").eval()
    counter = FlopCounterMode(display=False, custom_mapping=_mapping())
    with torch.no_grad(), use_backend("torch"), counter:
        module(torch.empty(shape, device="meta"))
    counts = counter.get_flop_counts().get("Global", {})
    sampling = sum(flops for op, flops in counts.items() if str(op).startswith("dyngraph"))
    return MultiplyAdds(
        dense=(sum(counts.values()) - sampling) // 2,
        sampling=sampling // 2,
    )


def _mapping() -> dict[Any, Callable[..., int]]:
    """The operators that PyTorch's counter does not know, and their numbers of operations."""
    # Exists only if torchvision is imported.
    known = hasattr(torch.ops.torchvision, "deform_conv2d")
    return {torch.ops.torchvision.deform_conv2d: _deformable} if known else {}


def _deformable(
    maps: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])

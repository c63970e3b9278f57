"""Counting the multiply-adds of a model."""

from __future__ import annotations

import copy
from dataclasses import dataclass

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
            count what they compute, one for each corner and channel.
    """

    dense: int
    sampling: int

    @property
    def total(self) -> int:
        r"""All of them."""
        return self.dense + self.sampling


def count_multiply_adds(module: nn.Module, *shape: int) -> MultiplyAdds:
    r"""Counts the multiply-adds of ``module`` on an input of the given shape.

    Runs on the meta device: nothing is computed and no memory is taken, whatever the size.
    Elementwise work (normalisation, activations, softmax) is not counted.

    Args:
        module: Any module that takes one tensor. It is copied, and counted in evaluation mode.
        *shape: The shape of the input.
    """
    module = copy.deepcopy(module).to("meta").eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), use_backend("torch"), counter:
        module(torch.empty(shape, device="meta"))
    counts = counter.get_flop_counts().get("Global", {})
    sampling = sum(flops for op, flops in counts.items() if str(op).startswith("dyngraph"))
    return MultiplyAdds(
        dense=(sum(counts.values()) - sampling) // 2,
        sampling=sampling // 2,
    )

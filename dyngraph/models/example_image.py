"""An image for trying out a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def example_image(model: nn.Module) -> Tensor:
    r"""A random image ``[1, 3, 64, 64]`` on the device and in the dtype of a model's weights."""
    weight = next(model.parameters(), torch.empty(0))
    # Its own generator: building a model draws only weights from the global one.
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 64, 64, generator=generator, device="cpu", dtype=torch.float32)
    return image.to(weight.device, weight.dtype)

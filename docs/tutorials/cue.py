"""Small scenes with a cue: the bar at the top decides the class of the squares below."""

import torch
from torch import Tensor

SIZE = 32
CLASSES = ("background", "square under a red bar", "square under a blue bar")


def scenes(count: int) -> tuple[Tensor, Tensor]:
    """Images ``[B, 3, 32, 32]`` and labels ``[B, 32, 32]``."""
    images = 0.2 * torch.randn(count, 3, SIZE, SIZE)
    labels = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    for image, label in zip(images, labels, strict=True):
        blue = int(torch.randint(2, ()))
        image[2 * blue, :4] += 1.0
        for _ in range(3):
            top, left = int(torch.randint(16, SIZE - 6, ())), int(torch.randint(SIZE - 6, ()))
            image[1, top : top + 6, left : left + 6] += 1.0
            label[top : top + 6, left : left + 6] = 1 + blue
    return images, labels

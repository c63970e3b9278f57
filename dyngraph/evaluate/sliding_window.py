"""The scores of an image, window by window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Size = tuple[int, int]


def window_corners(size: Size, window: Size, stride: Size) -> list[tuple[int, int]]:
    r"""The top left corners of the windows that cover an image.

    Windows are ``stride`` apart. The last one along each axis ends with the image; one larger than
    the image starts with it.

    Args:
        size: The height and width of the image.
        window: The height and width of a window.
        stride: The rows and columns from window to window, at most ``window``.
    """
    rows, columns = map(_starts, size, window, stride)
    return [(top, left) for top in rows for left in columns]


def sliding_scores(
    model: Callable[[Tensor], Tensor], image: Tensor, window: Size, stride: Size
) -> Tensor:
    r"""The scores of an image, averaged over the windows that cover a pixel.

    Every window goes through the model separately, cropped to the image. With a window that covers
    the image the scores are the model's, bit for bit.

    Args:
        model: From images to class scores of their size.
        image: ``[B, 3, H, W]``.
        window: The height and width of a window.
        stride: The rows and columns from window to window, at most ``window``.

    Returns:
        ``[B, C, H, W]``, in float32 where the model's scores are of a half type.

    Raises:
        ValueError: If the model returns anything but scores of its input's size.
    """
    height, width = image.shape[-2:]
    total = torch.empty(0)
    count = torch.zeros(height, width, device=image.device)
    for top, left in window_corners((height, width), window, stride):
        area = (..., slice(top, top + window[0]), slice(left, left + window[1]))
        scores = model(image[area])
        _check_scores(scores, image[area])
        if total.numel() == 0:
            # Sums of half types would be rounded with every window.
            dtype = torch.promote_types(scores.dtype, torch.float32)
            total = scores.new_zeros((*scores.shape[:2], height, width), dtype=dtype)
        total[area] += scores
        count[area] += 1
    return total.div_(count)


def _starts(length: int, window: int, stride: int) -> Sequence[int]:
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def _check_scores(scores: Tensor, image: Tensor) -> None:
    batch_size, _, height, width = image.shape
    found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if len(found) != 4 or found[0] != batch_size or found[2:] != [height, width]:
        raise ValueError(
            f"model: expected scores [{batch_size}, C, {height}, {width}], got {found}"
        )

"""How the class probabilities of an image are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from dyngraph.evaluate.sliding_window import Size, sliding_scores, window_corners


@dataclass(frozen=True)
class Inference:
    r"""How a segmenter sees an image: at which scales, through which windows, flipped or not.

    ``inference(model, image)`` resizes the image bilinearly to each scale, runs the model window by
    window, averages the scores where windows overlap, resizes them bilinearly to the image's size
    and turns them into probabilities. It does the same to the flipped image and flips the result
    back. All these probabilities are averaged. By default, the model sees the image once, as it is.

    Only sums are kept, so memory does not grow with the number of windows, scales and flips, and
    nothing is kept for gradients.

    Args:
        window: The height and width of the windows in pixels of the resized image, cropped to it.
            Defaults to the whole resized image.
        stride: The rows and columns from window to window. The last window of each axis ends with
            the image. Defaults to two thirds of the window, rounded up.
        scales: The factors of the image's size; sizes are rounded.
        flip: Whether the model also sees the image flipped horizontally.

    Raises:
        ValueError: If ``window`` or ``stride`` is not a positive height and width, ``stride`` is
            larger than ``window`` or given without it, or ``scales`` is empty or holds anything but
            positive numbers.
    """

    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    _: KW_ONLY
    scales: Sequence[float] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        _check_size("window", self.window)
        _check_size("stride", self.stride)
        if self.stride is not None:
            if self.window is None:
                raise ValueError(f"stride: expected None without a window, got {self.stride}")
            if any(step > extent for step, extent in zip(self.stride, self.window, strict=True)):
                raise ValueError(
                    f"stride: expected at most the window {self.window}, or pixels would be "
                    f"missed; got {self.stride}"
                )
        is_list = isinstance(self.scales, Sequence) and len(self.scales) > 0
        if not is_list or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"scales: expected positive numbers, got {self.scales!r}")

    @torch.no_grad()
    def __call__(
        self, model: Callable[[Tensor], Tensor], image: Tensor, progress: bool = False
    ) -> Tensor:
        r"""The class probabilities of an image.

        Args:
            model: From images ``[B, 3, h, w]`` to class scores ``[B, C, h, w]``, such as a
                :class:`~dyngraph.train.SegmentationTask` in evaluation mode.
            image: ``[B, 3, H, W]``, normalised.
            progress: Whether to show a progress bar of forward passes, which disappears at the end.

        Returns:
            ``[B, C, H, W]``, in float32 where the model's scores are of a half type.

        Raises:
            ValueError: If ``image`` is not a batch of images, or the model returns anything but
                scores of its input's size.
        """
        if image.dim() != 4 or image.numel() == 0:
            raise ValueError(f"image: expected shape [B, 3, H, W], got {list(image.shape)}")
        height, width = image.shape[-2:]
        sizes = [
            (max(1, round(scale * height)), max(1, round(scale * width))) for scale in self.scales
        ]
        flips = (False, True) if self.flip else (False,)
        num_passes = len(flips) * sum(
            len(window_corners(size, *self._windows(size))) for size in sizes
        )
        with tqdm(
            total=num_passes,
            desc="inference",
            unit="pass",
            leave=False,
            disable=not progress or None,
        ) as bar:

            def counted_model(window: Tensor) -> Tensor:
                scores = model(window)
                bar.update()
                return scores

            views = (
                self._probabilities(counted_model, image, size, flip)
                for size in sizes
                for flip in flips
            )
            total = next(views)
            for probabilities in views:
                total += probabilities
        return total.div_(len(sizes) * len(flips))

    def _windows(self, size: Size) -> tuple[Size, Size]:
        """Window and stride on an image of a size."""
        height, width = window = self.window or size
        return window, self.stride or (-(-2 * height // 3), -(-2 * width // 3))

    def _probabilities(
        self, model: Callable[[Tensor], Tensor], image: Tensor, size: Size, flip: bool
    ) -> Tensor:
        view = _resize(image, size)
        scores = sliding_scores(model, view.flip(-1) if flip else view, *self._windows(size))
        probabilities = _resize(scores, image.shape[-2:]).softmax(dim=1)
        return probabilities.flip(-1) if flip else probabilities


def _check_size(name: str, size: tuple[int, int] | None) -> None:
    if size is None:
        return
    is_pair = isinstance(size, Sequence) and len(size) == 2
    if not is_pair or not all(isinstance(extent, int) and extent > 0 for extent in size):
        raise ValueError(f"{name}: expected a positive height and width, got {size!r}")


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if list(maps.shape[-2:]) == list(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)

"""The images that a file of COCO lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dyngraph.checks import check_at_least
from dyngraph.data.files import MAX_PIXELS, read_rgb, read_rgb_size, turned


class CocoImages:
    r"""The images that a file of COCO lists, sorted by id.

    They are upright: turned as their EXIF orientation says. Sizes in the list are those of upright
    images.

    Args:
        path: The file, for errors.
        entries: Its ``"images"``, checked.
        folder: The folder that holds the images.
        max_pixels: The most pixels that an image may have.

    Attributes:
        ids: The id of each image.
        paths: The file of each image.
        sizes: The height and width of each image, as the file says.

    Raises:
        ValueError: If the list is empty.
        FileNotFoundError: If some are missing. The error names the first.
    """

    def __init__(
        self,
        path: Path,
        entries: Sequence[dict[str, Any]],
        folder: Path,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if not entries:
            raise ValueError(f"{path}: expected images, got none")
        entries = sorted(entries, key=lambda image: image["id"])
        self.ids: list[int] = [image["id"] for image in entries]
        self.paths = [folder / image["file_name"] for image in entries]
        missing = [pair for pair in zip(self.ids, self.paths, strict=True) if not pair[1].is_file()]
        if missing:
            id, first = missing[0]
            others = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise FileNotFoundError(
                f"{path}: images, id {id}: expected {first}, which is missing{others}"
            )
        self._path = path
        check_at_least(1, max_pixels=max_pixels)
        self._max_pixels = max_pixels
        self.sizes = [(image["height"], image["width"]) for image in entries]

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Tensor:
        r"""The colours of an image, ``[3, H, W]``, uint8.

        Raises:
            OSError: If it cannot be read as an image, or has more pixels than ``max_pixels``.
            ValueError: If it does not have the size in the file, or has 16-bit values.
        """
        image = read_rgb(self.paths[index], self._max_pixels)
        self._check_size(index, tuple(image.shape[1:]))
        return image

    def check_header(self, index: int) -> None:
        r"""Checks what can be known about an image without decoding its pixels.

        Errors are those of :meth:`read`.
        """
        self._check_size(index, read_rgb_size(self.paths[index], self._max_pixels))

    def _check_size(self, index: int, found: tuple[int, ...]) -> None:
        path, size = self.paths[index], self.sizes[index]
        if found != size:
            raise ValueError(
                f"{path}: expected height and width {[*size]}, as in {self._path}, images, "
                f"id {self.ids[index]}; got {[*found]}{turned(path, self._max_pixels)}"
            )

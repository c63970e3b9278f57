"""The images that a file of COCO lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dyngraph.data.files import read_rgb


class CocoImages:
    r"""The images that a file of COCO lists, sorted by id.

    Args:
        path: The file, for errors.
        entries: Its ``"images"``, checked.
        folder: The folder that holds the images.

    Attributes:
        ids: The id of each image.
        paths: The file of each image.

    Raises:
        ValueError: If there is none.
        FileNotFoundError: If some are missing. The error names the first.
    """

    def __init__(self, path: Path, entries: Sequence[dict[str, Any]], folder: Path) -> None:
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
        self._sizes = [(image["height"], image["width"]) for image in entries]

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Tensor:
        r"""The colours of an image, ``[3, H, W]``, uint8.

        Raises:
            OSError: If it cannot be read as an image.
            ValueError: If it is not of the size that the file says.
        """
        image, size = read_rgb(self.paths[index]), self._sizes[index]
        if tuple(image.shape[1:]) != size:
            raise ValueError(
                f"{self.paths[index]}: expected height and width {list(size)}, as in {self._path}, "
                f"images, id {self.ids[index]}; got {list(image.shape[1:])}"
            )
        return image

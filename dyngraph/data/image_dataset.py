"""Data sets of image files that can be checked before they are needed."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from dyngraph.data.seeded_dataset import Item, SeededDataset


class ImageDataset(SeededDataset[Item]):
    r"""Image files with labels, whose faults need not wait until an item is loaded."""

    image_paths: list[Path]
    """The image of each item."""

    @abstractmethod
    def check_headers(self, index: int) -> tuple[int, int]:
        r"""Checks what can be known of an item without decoding pixels.

        Returns:
            The height and width of its image.

        Raises:
            OSError: If a file cannot be read as an image.
            ValueError: If a file is not of the kind or size that it should be.
        """

    @abstractmethod
    def check_labels(self, index: int) -> None:
        r"""Decodes the labels of an item, whose headers are checked, and checks their values.

        Raises:
            OSError: If a file cannot be read as an image.
            ValueError: If a value is no class, or a segmentation is broken.
        """

"""What data sets share: augmentation by seed, and checks before an item is needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.data import ConcatDataset, Dataset

Item = TypeVar("Item", covariant=True)


class SeededDataset(Dataset[Item], ABC):
    r"""Takes an index, or a pair ``(index, seed)``.

    With a seed, the item's random augmentation is a function of the seed alone, and torch's global
    random state stays as it was.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, index: int) -> Item:
        r"""An item, augmented by torch's global random state."""

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        if isinstance(index, tuple):
            index, seed = index
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return self.load(index)
        return self.load(index)


class ImageDataset(SeededDataset[Item]):
    r"""Image files with labels, which can be checked before an item is loaded."""

    image_paths: list[Path]
    """The image of each item."""

    @abstractmethod
    def check_headers(self, index: int) -> tuple[int, int]:
        r"""Checks what can be known about an item without decoding pixels.

        Returns:
            The height and width of its image.

        Raises:
            OSError: If a file cannot be read as an image.
            ValueError: If a file has the wrong format or size.
        """

    @abstractmethod
    def check_labels(self, index: int) -> None:
        r"""Decodes the labels of an item whose headers have been checked, and checks their values.

        Raises:
            OSError: If a file cannot be read as an image.
            ValueError: If a value is no class, or a segmentation is broken.
        """


class JoinedDataset(SeededDataset[Item]):
    r"""The items of several data sets: those of the first, then those of the next.

    Args:
        parts: The data sets.
    """

    def __init__(self, parts: Sequence[SeededDataset[Item]]) -> None:
        self.parts: ConcatDataset[Item] = ConcatDataset(parts)

    def __len__(self) -> int:
        return len(self.parts)

    def load(self, index: int) -> Item:
        return self.parts[index]

"""Data sets whose random augmentation a seed determines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch.utils.data import Dataset

Item = TypeVar("Item", covariant=True)


class SeededDataset(Dataset[Item], ABC):
    r"""Takes pairs ``(index, seed)`` besides an index.

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

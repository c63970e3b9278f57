"""Data sets one after the other, as one."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import ConcatDataset

from dyngraph.data.seeded_dataset import Item, SeededDataset


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

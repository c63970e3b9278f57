"""A data loader that can go on where an interrupted run stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from dyngraph.data.sampler import SeededSampler


class ResumableLoader(DataLoader):
    r"""Batches of a :class:`~dyngraph.data.SeededSampler`, counted as they are taken.

    Its state is the number of batches taken so far, not the state of any worker: what the next
    batch holds is a function of the seed and of that number.

    Args:
        dataset: A data set that takes ``(index, seed)`` pairs.
        sampler: Which items, in which order, augmented by which seeds.
        batch_size: The number of items of a batch on this process.
        **kwargs: Arguments of :class:`torch.utils.data.DataLoader`.
    """

    sampler: SeededSampler

    def __init__(
        self, dataset: Dataset, sampler: SeededSampler, batch_size: int, **kwargs: Any
    ) -> None:
        super().__init__(dataset, batch_size, sampler=sampler, drop_last=True, **kwargs)
        self._taken = 0
        self._taken_before = 0

    def __len__(self) -> int:
        r"""The number of batches of the whole run, those before it was resumed too.

        Lightning counts the batches of a resumed run from the very first one.
        """
        return self._taken_before + super().__len__()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            self._taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        r"""The number of batches taken."""
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        r"""Goes on after the batches of ``state``."""
        self._taken = self._taken_before = state["taken"]
        self.sampler.start = self._taken * (self.batch_size or 1) * self.sampler.world_size

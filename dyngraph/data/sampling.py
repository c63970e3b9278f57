"""The ordered samples of a whole training run, which can be resumed at any step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler


def derive_seed(*key: int | str) -> int:
    r"""A seed in ``[0, 2^63)`` for the integers and strings of ``key``.

    Different keys get unrelated seeds; the same key gets the same seed on every machine.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class SeededSampler(Sampler[tuple[int, int]]):
    r"""Yields the pairs ``(index, seed)`` of an iteration-based training run.

    Sample ``t`` of the run is item ``t % num_items`` of the shuffled epoch ``t // num_items``. The
    order of an epoch is a function of the run's seed and the epoch, and a sample's own seed is a
    function of the run's seed and ``t``: a run that resumes at ``start`` sees what an uninterrupted
    one would have seen. Rank r takes the samples ``t`` with ``t % world_size == r``, so Lightning
    must not replace this sampler (``use_distributed_sampler=False``).

    Args:
        num_items: The number of items of the data set.
        num_samples: The number of samples of the whole run, all ranks together.
        seed: The seed of the run.
        start: The number of samples that all ranks together have already consumed.
        rank: The rank of this process.
        world_size: The number of processes.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        num_items: int,
        num_samples: int,
        seed: int,
        *,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_items < 1:
            raise ValueError(f"num_items: expected at least 1, got {num_items}")
        if num_samples < 0:
            raise ValueError(f"num_samples: expected at least 0, got {num_samples}")
        if not 0 <= start <= num_samples:
            raise ValueError(f"start: expected 0..{num_samples}, got {start}")
        if world_size < 1:
            raise ValueError(f"world_size: expected at least 1, got {world_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0..{world_size - 1}, got {rank}")
        self.num_items = num_items
        self.num_samples = num_samples
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size

    @property
    def _samples(self) -> range:
        first = self.start + (self.rank - self.start) % self.world_size
        return range(first, self.num_samples, self.world_size)

    def __len__(self) -> int:
        r"""The number of samples from ``start`` on that this rank will get."""
        return len(self._samples)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, []
        for t in self._samples:
            if t // self.num_items != epoch:
                epoch = t // self.num_items
                order = self._order(epoch)
            yield order[t % self.num_items], derive_seed("sample", self.seed, t)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(derive_seed("epoch", self.seed, epoch))
        return torch.randperm(self.num_items, generator=generator).tolist()


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
        r"""The number of batches of the whole run, including those before it was resumed.

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
        r"""Continues after the batches of ``state``."""
        self._taken = self._taken_before = state["taken"]
        self.sampler.start = self._taken * (self.batch_size or 1) * self.sampler.world_size

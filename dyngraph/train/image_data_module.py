"""What the data of all tasks share: a sequence of samples that a resumed run continues."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from dyngraph.checks import check_at_least
from dyngraph.data import ResumableLoader, SeededSampler
from dyngraph.data.files import MAX_PIXELS
from dyngraph.data.image_dataset import ImageDataset, JoinedDataset

GENERATED = Path("runs/generated")

TRAIN_SPLITS = {"train": ("train",), "trainval": ("train", "val")}
"""The values of ``train_split``, and the splits that each trains on."""

_SMALL = 2000
"""The most images of a set whose labels are checked by default."""

_CHUNK = 16
"""How many items a thread checks at a time."""


class ImageDataModule(lightning.LightningDataModule, ABC):
    r"""A data set as it is on disk: augmented samples for training, whole images for validation.

    The whole training run is one sequence of samples that is a function of ``seed``: every pass
    over the images has its own order, every sample its own augmentation.

    Args:
        root: The folder of the data set; ``"generated"``: a small one in its format, generated in
            ``runs/generated``.
        dataset: The name of the data set.
        batch_size: The number of images of a step, over all processes and accumulated batches.
        num_workers: The number of loading processes of each training process.
        seed: What order and augmentation are derived from.
        val_batch_size: The number of validation images at a time, on each process.
        train_split: ``"train"``, or ``"trainval"`` to train on the validation images too, for
            results on a test set. Validation stays the same, but then says nothing about unseen
            images.
        max_pixels: The most pixels that an image may have.
        check: Whether :meth:`check` decodes all labels too. By default, it does if there are at
            most 2,000.

    Raises:
        ValueError: If ``train_split`` is unknown or a number is out of range.
    """

    train: JoinedDataset
    val: ImageDataset

    collate: Callable[[list[Any]], Any] | None = None
    """Makes a batch of samples, if PyTorch's own way doesn't work."""

    def __init__(
        self,
        root: str | Path,
        dataset: str,
        *,
        batch_size: int,
        num_workers: int,
        seed: int,
        val_batch_size: int,
        train_split: str,
        max_pixels: int = MAX_PIXELS,
        check: bool | None = None,
    ) -> None:
        super().__init__()
        if train_split not in TRAIN_SPLITS:
            raise ValueError(
                f"train_split: expected one of {(*TRAIN_SPLITS,)}, got {train_split!r}"
            )
        check_at_least(
            1, batch_size=batch_size, val_batch_size=val_batch_size, max_pixels=max_pixels
        )
        check_at_least(0, num_workers=num_workers, seed=seed)
        self.root = Path(GENERATED, dataset) if root == "generated" else Path(root)
        self.is_generated = root == "generated"
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.val_batch_size = val_batch_size
        self.train_split = train_split
        self.max_pixels = max_pixels
        self.checks_labels = check

    @abstractmethod
    def generate(self) -> None:
        r"""Writes a small data set to ``root``."""

    @abstractmethod
    def load(self, split: str, augmented: bool) -> ImageDataset:
        r"""The images of a split, augmented for training or as they are."""

    def prepare_data(self) -> None:
        if self.is_generated:
            self.generate()

    def setup(self, stage: str) -> None:
        # Lightning calls it several times; listing the files once is enough.
        if not hasattr(self, "val"):
            self.val = self.load("val", augmented=False)
        if stage == "fit" and not hasattr(self, "train"):
            splits = TRAIN_SPLITS[self.train_split]
            self._train_parts = {split: self.load(split, augmented=True) for split in splits}
            self.train = JoinedDataset([*self._train_parts.values()])

    @rank_zero_only
    def check(self) -> None:
        r"""Checks the files of all images and labels before they are needed.

        Headers (format, mode and size) always, the labels themselves only as the argument ``check``
        says, because they have to be decoded. It shows progress bars.

        Raises:
            OSError: If a file cannot be read as an image.
            ValueError: If anything else is wrong with it, or validation images of one batch differ
                in size.
        """
        self.prepare_data()
        self.setup("fit")
        parts = {"val": self.val, **self._train_parts}
        with ThreadPool(max(1, self.num_workers)) as pool:
            check_all = partial(_check_all, pool)
            sizes = {
                split: check_all(part.check_headers, len(part), f"check headers, {split}")
                for split, part in parts.items()
            }
            if self.collate is None and self.val_batch_size > 1:
                self._check_equal(sizes["val"])
            num_items = sum(len(part) for part in parts.values())
            if num_items <= _SMALL if self.checks_labels is None else self.checks_labels:
                for split, part in parts.items():
                    check_all(part.check_labels, len(part), f"check labels, {split}")

    def _check_equal(self, sizes: list[tuple[int, int]]) -> None:
        for path, size in zip(self.val.image_paths, sizes, strict=True):
            if size != sizes[0]:
                raise ValueError(
                    "val_batch_size: expected 1 for validation images of different sizes, got "
                    f"{self.val_batch_size} for {self.val.image_paths[0]}, {[*sizes[0]]}, and "
                    f"{path}, {[*size]}"
                )

    def train_dataloader(self) -> ResumableLoader:
        trainer = self.trainer
        assert trainer is not None
        shares = trainer.world_size * trainer.accumulate_grad_batches
        if self.batch_size % shares:
            raise ValueError(
                f"batch_size: expected a multiple of {trainer.world_size} processes x "
                f"{trainer.accumulate_grad_batches} accumulated batches, got {self.batch_size}"
            )
        sampler = SeededSampler(
            num_items=len(self.train),
            num_samples=trainer.max_steps * self.batch_size,
            seed=self.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return ResumableLoader(
            self.train,
            sampler,
            self.batch_size // shares,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            collate_fn=self.collate,
        )

    def val_dataloader(self) -> DataLoader:
        # Every image once: a sampler that gives all processes equally many would repeat some.
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        share = Subset(self.val, range(rank, len(self.val), world_size))
        return DataLoader(
            share, self.val_batch_size, num_workers=self.num_workers, collate_fn=self.collate
        )


def _check_all(
    pool: ThreadPool, check: Callable[[int], Any], num_items: int, description: str
) -> list[Any]:
    """What ``check`` returns for each item."""
    results = pool.imap(check, range(num_items), _CHUNK)
    return [*tqdm(results, description, num_items, unit="image", disable=None)]

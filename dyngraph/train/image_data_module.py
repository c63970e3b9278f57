"""What the data of all tasks share: a sequence of samples that a resumed run goes on with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
from torch.utils.data import DataLoader, Dataset, Subset

from dyngraph.data import ResumableLoader, SeededSampler
from dyngraph.data.joined_dataset import JoinedDataset
from dyngraph.data.seeded_dataset import SeededDataset

GENERATED = Path("runs/generated")

TRAIN_SPLITS = {"train": ("train",), "trainval": ("train", "val")}
"""The splits whose images are trained on, by name."""


class ImageDataModule(lightning.LightningDataModule, ABC):
    r"""A data set as it is on disk: augmented samples for training, whole images for validation.

    The whole training run is one sequence of samples that is a function of ``seed``: every pass
    over the images has its own order, every sample its own augmentation.

    Args:
        root: The folder of the data set; ``"generated"``: a small one in its format, which is
            generated in ``runs/generated``.
        dataset: The name of the data set.
        batch_size: The number of images of a step, over all processes and accumulated batches.
        num_workers: The number of loading processes of each training process.
        seed: What order and augmentation are derived from.
        val_batch_size: The number of validation images at a time, on each process.
        train_split: ``"train"``, or ``"trainval"`` to train on the validation images too, for
            results on a test set. Validation stays as it is, but then tells nothing about others.

    Raises:
        ValueError: If ``train_split`` is unknown.
    """

    train: JoinedDataset
    val: Dataset

    collate: Callable[[list[Any]], Any] | None = None
    """Makes a batch of samples, if PyTorch's own way does not do."""

    def __init__(
        self,
        root: str | Path,
        dataset: str,
        batch_size: int,
        num_workers: int,
        seed: int,
        val_batch_size: int,
        train_split: str,
    ) -> None:
        super().__init__()
        if train_split not in TRAIN_SPLITS:
            raise ValueError(
                f"train_split: expected one of {(*TRAIN_SPLITS,)}, got {train_split!r}"
            )
        self.root = Path(GENERATED, dataset) if root == "generated" else Path(root)
        self.is_generated = root == "generated"
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.val_batch_size = val_batch_size
        self.train_split = train_split

    @abstractmethod
    def generate(self) -> None:
        r"""Writes a small data set to ``root``."""

    @abstractmethod
    def load(self, split: str, augmented: bool) -> SeededDataset:
        r"""The images of a split, augmented for training or as they are."""

    def prepare_data(self) -> None:
        if self.is_generated:
            self.generate()

    def setup(self, stage: str) -> None:
        self.val = self.load("val", augmented=False)
        if stage == "fit":
            splits = TRAIN_SPLITS[self.train_split]
            self.train = JoinedDataset([self.load(split, augmented=True) for split in splits])

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
        # Every image once: a sampler that gives all processes as many would repeat some.
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        num_images = len(self.val)  # type: ignore[arg-type]
        share = Subset(self.val, range(rank, num_images, world_size))
        return DataLoader(
            share, self.val_batch_size, num_workers=self.num_workers, collate_fn=self.collate
        )

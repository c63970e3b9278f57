"""The data of a Cityscapes run."""

from __future__ import annotations

from pathlib import Path

import lightning
from torch.utils.data import DataLoader

from dyngraph.data import (
    CityscapesSegmentation,
    ResumableLoader,
    SeededSampler,
    eval_transform,
    train_transform,
)


class CityscapesDataModule(lightning.LightningDataModule):
    r"""Cityscapes as it is on disk: augmented crops for training, whole images for validation.

    The whole training run is one sequence of samples that is a function of ``seed``: every pass
    over the images has its own order, every sample its own augmentation.

    Args:
        root: The folder with ``leftImg8bit`` and ``gtFine``.
        crop_size: Height and width of the training crops, in pixels.
        batch_size: The number of images of a step, over all processes and accumulated batches.
        scale: The range of the random scale.
        num_workers: The number of loading processes of each training process.
        seed: What order and augmentation are derived from.
        val_batch_size: The number of validation images at a time, on each process.
    """

    def __init__(
        self,
        root: str | Path,
        crop_size: tuple[int, int] = (769, 769),
        batch_size: int = 8,
        scale: tuple[float, float] = (0.5, 2.0),
        num_workers: int = 2,
        seed: int = 0,
        val_batch_size: int = 1,
    ) -> None:
        super().__init__()
        self.root = root
        self.crop_size = crop_size
        self.batch_size = batch_size
        self.scale = scale
        self.num_workers = num_workers
        self.seed = seed
        self.val_batch_size = val_batch_size

    def setup(self, stage: str) -> None:
        self.val = CityscapesSegmentation(self.root, "val", eval_transform())
        if stage == "fit":
            transform = train_transform(self.crop_size, self.scale)
            self.train = CityscapesSegmentation(self.root, "train", transform)

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
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.val_batch_size, num_workers=self.num_workers)

"""The data of a run."""

from __future__ import annotations

from pathlib import Path

import lightning
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from dyngraph.data import (
    DATASETS,
    GENERATORS,
    ResumableLoader,
    SeededSampler,
    SegmentationDataset,
    eval_transform,
    train_transform,
)

GENERATED = Path("runs/generated")


class SegmentationDataModule(lightning.LightningDataModule):
    r"""A data set as it is on disk: augmented crops for training, whole images for validation.

    The whole training run is one sequence of samples that is a function of ``seed``: every pass
    over the images has its own order, every sample its own augmentation.

    Args:
        root: The folder of the data set; ``"generated"``: a small one in its format, which is
            generated in ``runs/generated``.
        dataset: ``"cityscapes"``, ``"ade20k"``, ``"pascal_context"`` or ``"folder"``, one's own.
        crop_size: Height and width of the training crops, in pixels.
        batch_size: The number of images of a step, over all processes and accumulated batches.
        scale: The range of the random scale.
        num_workers: The number of loading processes of each training process.
        seed: What order and augmentation are derived from.
        val_batch_size: The number of validation images at a time, on each process.

    Raises:
        ValueError: If ``dataset`` is unknown.
    """

    def __init__(
        self,
        root: str | Path = "generated",
        dataset: str = "cityscapes",
        crop_size: tuple[int, int] = (769, 769),
        batch_size: int = 8,
        scale: tuple[float, float] = (0.5, 2.0),
        num_workers: int = 2,
        seed: int = 0,
        val_batch_size: int = 1,
    ) -> None:
        super().__init__()
        if dataset not in DATASETS:
            raise ValueError(f"dataset: expected one of {(*DATASETS,)}, got {dataset!r}")
        self.root = Path(GENERATED, dataset) if root == "generated" else Path(root)
        self.is_generated = root == "generated"
        self.dataset = dataset
        self.crop_size = crop_size
        self.batch_size = batch_size
        self.scale = scale
        self.num_workers = num_workers
        self.seed = seed
        self.val_batch_size = val_batch_size

    def prepare_data(self) -> None:
        if self.is_generated:
            GENERATORS[self.dataset](self.root)

    def setup(self, stage: str) -> None:
        self.val = self._images("val", eval_transform())
        if stage == "fit":
            self.train = self._images("train", train_transform(self.crop_size, self.scale))

    def _images(self, split: str, transform: v2.Transform) -> SegmentationDataset:
        return DATASETS[self.dataset](self.root, split, transform)

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
        # Every image once: a sampler that gives all processes as many would repeat some.
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        share = Subset(self.val, range(rank, len(self.val), world_size))
        return DataLoader(share, self.val_batch_size, num_workers=self.num_workers)

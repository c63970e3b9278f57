"""The data of a run that trains a segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dyngraph.data import (
    DATASETS,
    GENERATORS,
    SegmentationDataset,
    eval_transform,
    train_transform,
)
from dyngraph.data.files import MAX_PIXELS
from dyngraph.train.image_data_module import ImageDataModule


class SegmentationDataModule(ImageDataModule):
    r"""A data set as it is on disk: augmented crops for training, whole images for validation.

    The whole training run is one sequence of samples that is a function of ``seed``: every pass
    over the images has its own order, every sample its own augmentation.

    Args:
        root: The folder of the data set; ``"generated"``: a small one in its format, generated in
            ``runs/generated``.
        dataset: ``"cityscapes"``, ``"ade20k"``, ``"camvid"``, ``"pascal_context"``, or ``"folder"``
            for your own.
        crop_size: Height and width of the training crops in pixels, or one number for both.
        batch_size: The number of images of a step, over all processes and accumulated batches.
        scale: The range that the random scale is drawn from uniformly; ``(1, 1)`` keeps the size.
            Defaults to ``(0.5, 2)`` without ``scales``.
        scales: Scales to draw from, as in RepGraph, instead of ``scale``.
        num_workers: The number of loading processes of each training process.
        seed: What order and augmentation are derived from.
        val_batch_size: The number of validation images at a time, on each process.
        train_split: ``"train"``, or ``"trainval"`` to train on the validation images too, as the
            papers do for Cityscapes' test images. Validation stays the same, but then says nothing
            about unseen images.
        max_pixels: The most pixels that an image or label may have; more counts as an attack on
            memory.
        check: Whether all labels are decoded before the first step, to find values that are no
            classes; by default, if there are at most 2,000. Headers and sizes of all files are
            always checked.

    Raises:
        ValueError: If ``dataset`` or ``train_split`` is unknown, ``crop_size``, ``scale`` or
            ``scales`` is not positive, both ``scale`` and ``scales`` are given, or another number
            is out of range.
    """

    val: SegmentationDataset

    def __init__(
        self,
        root: str | Path = "generated",
        dataset: str = "cityscapes",
        *,
        crop_size: int | tuple[int, int] = (769, 769),
        batch_size: int = 8,
        scale: tuple[float, float] | None = None,
        scales: Sequence[float] | None = None,
        num_workers: int = 2,
        seed: int = 0,
        val_batch_size: int = 1,
        train_split: Literal["train", "trainval"] = "train",
        max_pixels: int = MAX_PIXELS,
        check: bool | None = None,
    ) -> None:
        if dataset not in DATASETS:
            raise ValueError(f"dataset: expected one of {(*DATASETS,)}, got {dataset!r}")
        super().__init__(
            root,
            dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            val_batch_size=val_batch_size,
            train_split=train_split,
            max_pixels=max_pixels,
            check=check,
        )
        self.augment = train_transform(crop_size, scale=scale, scales=scales)

    def generate(self) -> None:
        GENERATORS[self.dataset](self.root)

    def load(self, split: str, augmented: bool) -> SegmentationDataset:
        transform = self.augment if augmented else eval_transform()
        dataset = DATASETS[self.dataset]
        return dataset(self.root, split, transform=transform, max_pixels=self.max_pixels)

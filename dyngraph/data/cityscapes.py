"""Cityscapes and data sets in its format, for semantic segmentation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor
from torchvision.datasets import Cityscapes

from dyngraph.data.labels import CLASS_NAMES, PALETTE, encode_labels
from dyngraph.data.segmentation_dataset import SegmentationDataset


class CityscapesSegmentation(SegmentationDataset):
    r"""The images of Cityscapes and the train ids of their pixels, sorted by file name.

    Files are those of :class:`torchvision.datasets.Cityscapes`: ``leftImg8bit/<split>/<city>/`` and
    ``gtFine/<split>/<city>/``. Classes are the train ids 0..18. What is not said here is as for
    :class:`~dyngraph.data.SegmentationDataset`.

    Args:
        root: The folder that holds ``leftImg8bit`` and ``gtFine``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        transform: A transform of :mod:`torchvision.transforms.v2`, called with image and label.
        max_pixels: The most pixels that an image or label may have.
    """

    splits = ("train", "val", "test")
    class_names = CLASS_NAMES
    palette = PALETTE

    def folders(self, root: Path, split: str) -> tuple[Path, Path]:
        return root / "leftImg8bit" / split, root / "gtFine" / split

    def find_pairs(self, root: Path, split: str) -> Iterator[tuple[Path, Path]]:
        files = Cityscapes(str(root), split, mode="fine", target_type="semantic")
        for image, (label,) in zip(files.images, files.targets, strict=True):
            yield Path(image), Path(label)

    def encode(self, values: Tensor) -> Tensor:
        return encode_labels(values)

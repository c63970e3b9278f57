"""Cityscapes and data sets in its format, for semantic segmentation.

Its files hold 34 ids, 19 of which networks predict as train ids. The table comes from
:class:`torchvision.datasets.Cityscapes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import Cityscapes

from dyngraph.data.labels import IGNORE
from dyngraph.data.segmentation_dataset import SegmentationDataset

# The license plate has the id -1, which no file can hold.
_CLASSES = sorted((c for c in Cityscapes.classes if c.id >= 0), key=lambda c: c.id)
_TRAIN_CLASSES = sorted((c for c in _CLASSES if c.train_id != IGNORE), key=lambda c: c.train_id)

CLASS_NAMES: tuple[str, ...] = tuple(c.name for c in _TRAIN_CLASSES)
"""The names of the 19 train ids."""

PALETTE = torch.tensor([c.color for c in _TRAIN_CLASSES], dtype=torch.uint8)
"""The RGB colours of the 19 train ids, ``[19, 3]``, uint8."""

ID_TO_TRAIN_ID = torch.full((256,), IGNORE, dtype=torch.uint8)
"""The train id of each id, ``[256]``, uint8; 255 where the id is ignored or doesn't exist."""
for _class in _CLASSES:
    ID_TO_TRAIN_ID[_class.id] = _class.train_id

TRAIN_ID_TO_ID = torch.zeros(256, dtype=torch.uint8)
"""The id of each train id, ``[256]``, uint8; 0, "unlabeled", for 255 and unknown ones."""
for _class in _TRAIN_CLASSES:
    TRAIN_ID_TO_ID[_class.train_id] = _class.id

_IS_ID = torch.zeros(256, dtype=torch.bool)
_IS_ID[[c.id for c in _CLASSES]] = True

_IS_TRAIN_ID = torch.zeros(256, dtype=torch.bool)
_IS_TRAIN_ID[[c.train_id for c in _CLASSES]] = True


class CityscapesSegmentation(SegmentationDataset):
    r"""The images of Cityscapes and the train ids of their pixels, sorted by file name.

    Files are those of :class:`torchvision.datasets.Cityscapes`: ``leftImg8bit/<split>/<city>/`` and
    ``gtFine/<split>/<city>/``. Classes are the train ids 0..18. Everything else is as in
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


def encode_labels(ids: Tensor) -> Tensor:
    r"""The train ids of Cityscapes ids.

    Args:
        ids: Ids of any shape and integer dtype, as the ``*_labelIds.png`` files hold them.

    Returns:
        Train ids 0..18 or 255, of the shape of ``ids``, uint8.

    Raises:
        TypeError: If ``ids`` are not integers.
        ValueError: If one of them is not in the table.
    """
    return _look_up(ids, ID_TO_TRAIN_ID, _IS_ID, "ids", "Cityscapes ids 0..33")


def decode_labels(train_ids: Tensor) -> Tensor:
    r"""The Cityscapes ids of train ids: the format that ``cityscapesscripts`` scores.

    Args:
        train_ids: Train ids 0..18 or 255, of any shape and integer dtype.

    Returns:
        Ids of the shape of ``train_ids``, uint8; 0, "unlabeled", for 255.

    Raises:
        TypeError: If ``train_ids`` are not integers.
        ValueError: If one of them is neither 0..18 nor 255.
    """
    return _look_up(train_ids, TRAIN_ID_TO_ID, _IS_TRAIN_ID, "train_ids", "train ids 0..18 or 255")


def _look_up(keys: Tensor, table: Tensor, is_known: Tensor, name: str, expected: str) -> Tensor:
    if keys.dtype.is_floating_point or keys.dtype.is_complex or keys.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, got {keys.dtype}")
    index = keys.long()
    is_known = is_known.to(index.device)[index.clamp(0, 255)] & (index >= 0) & (index <= 255)
    if not is_known.all():
        raise ValueError(f"{name}: expected {expected}, got {int(index[~is_known][0])}")
    return table.to(index.device)[index]

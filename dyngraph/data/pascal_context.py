"""PASCAL-Context with its 59 frequent classes, for semantic segmentation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from dyngraph.data.files import read_names
from dyngraph.data.labels import encode_one_based, voc_palette
from dyngraph.data.segmentation_dataset import SegmentationDataset

_CLASS_NAMES = """
aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle,
building, bus, cabinet, car, cat, ceiling, chair, cloth, computer, cow,
cup, curtain, dog, door, fence, floor, flower, food, grass, ground,
horse, keyboard, light, motorbike, mountain, mouse, person, plate, platform, pottedplant,
road, rock, sheep, shelves, sidewalk, sign, sky, snow, sofa, table,
track, train, tree, truck, tvmonitor, wall, water, window, wood
"""


class PascalContextSegmentation(SegmentationDataset):
    r"""The images of PASCAL-Context and the 59 classes of their pixels, sorted by file name.

    ``ImageSets/SegmentationContext/<split>.txt`` lists the names of a split, one per line. Images
    are ``JPEGImages/<name>.jpg``, labels ``SegmentationClassContext/<name>.png``. The value 0 of a
    label file, "background", is ignored. Everything else is as in
    :class:`~dyngraph.data.SegmentationDataset`.

    Args:
        root: The folder ``VOC2010``.
        split: ``"train"`` or ``"val"``.
        transform: A transform of :mod:`torchvision.transforms.v2`, called with image and label.
        max_pixels: The most pixels that an image or label may have.

    Raises:
        ValueError: If the list has no name, or one that is not a file name.
        FileNotFoundError: If the list is missing.
    """

    splits = ("train", "val")
    class_names = tuple(name.strip() for name in _CLASS_NAMES.split(","))
    palette = voc_palette(59)
    label_modes = ("L", "P")

    def folders(self, root: Path, split: str) -> tuple[Path, Path]:
        return root / "JPEGImages", root / "SegmentationClassContext"

    def find_pairs(self, root: Path, split: str) -> Iterator[tuple[Path, Path]]:
        image_folder, label_folder = self.folders(root, split)
        names = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        for name in read_names(names):
            # An untrusted list must not lead out of the folders.
            if set(name) & set("/\\\0"):
                raise ValueError(f"{names}: expected names of files, got {name!r}")
            yield image_folder / f"{name}.jpg", label_folder / f"{name}.png"

    def encode(self, values: Tensor) -> Tensor:
        return encode_one_based(values, self.num_classes)

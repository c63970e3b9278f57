"""ADE20K as in the scene parsing challenge of 2016, for semantic segmentation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from dyngraph.data.labels import encode_one_based, voc_palette
from dyngraph.data.segmentation_dataset import SegmentationDataset

_FOLDERS = {"train": "training", "val": "validation"}

# The first synonym of each row of the challenge's objectInfo150.txt, in its order.
_CLASS_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass,
cabinet, sidewalk, person, earth, door, table, mountain, plant, curtain, chair,
car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel,
bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television,
airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet,
poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool,
stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball,
food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher,
screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""


class ADE20KSegmentation(SegmentationDataset):
    r"""The images of ADE20K and the 150 classes of their pixels, sorted by file name.

    Files are those of the challenge: ``images/training/*.jpg`` and ``annotations/training/*.png``,
    and the same for ``validation``. The value 0 of a label file, "other", is ignored. Colours are
    those of PASCAL VOC. Everything else is as in :class:`~dyngraph.data.SegmentationDataset`.

    Args:
        root: The folder ``ADEChallengeData2016``.
        split: ``"train"`` or ``"val"``.
        transform: A transform of :mod:`torchvision.transforms.v2`, called with image and label.
        max_pixels: The most pixels that an image or label may have.
    """

    splits = tuple(_FOLDERS)
    class_names = tuple(name.strip() for name in _CLASS_NAMES.split(","))
    palette = voc_palette(150)

    def folders(self, root: Path, split: str) -> tuple[Path, Path]:
        return root / "images" / _FOLDERS[split], root / "annotations" / _FOLDERS[split]

    def find_pairs(self, root: Path, split: str) -> Iterator[tuple[Path, Path]]:
        image_folder, label_folder = self.folders(root, split)
        for image in image_folder.glob("*.jpg"):
            yield image, label_folder / f"{image.stem}.png"

    def encode(self, values: Tensor) -> Tensor:
        return encode_one_based(values, self.num_classes)

"""COCO, for the detection of objects and their masks."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from dyngraph.data.coco_images import CocoImages
from dyngraph.data.coco_json import read_instances
from dyngraph.data.coco_masks import decode_mask
from dyngraph.data.files import MAX_PIXELS
from dyngraph.data.image_dataset import ImageDataset
from dyngraph.data.labels import voc_palette
from dyngraph.data.segmentation_dataset import Transform

Target = dict[str, Any]


class CocoClasses(NamedTuple):
    r"""The classes of an annotation file, sorted by the id of their category."""

    names: tuple[str, ...]
    r"""The name of each of the C classes."""
    ids: tuple[int, ...]
    r"""The ids of their categories: that of label i is ``ids[i - 1]``."""
    palette: Tensor
    r"""Their RGB colours, ``[C, 3]``, uint8: those of PASCAL VOC."""


class CocoDetection(ImageDataset[tuple[Tensor, Target]]):
    r"""The images of COCO, with the boxes, classes and masks of their objects, sorted by id.

    Files are ``annotations/instances_train2017.json`` and the images in ``train2017/``, and the
    same for ``val2017``. Images without annotations are items too. Images are upright, as viewers
    show them: turned as their EXIF orientation says. So are the sizes and objects in the file.

    Targets leave out crowd regions and objects that can't be learnt: those whose box, clipped to
    the image, is less than a pixel wide or high, and those whose mask has no pixel. A mask of a
    single pixel stays. :func:`~dyngraph.evaluate.coco.judge_detections` scores by the annotation
    file, whatever the targets leave out.

    Besides an index, ``dataset[index, seed]`` is possible: then the item's random augmentation is a
    function of the seed alone, and torch's global random state stays as it was.

    Args:
        root: The folder that holds ``annotations``, ``train2017`` and ``val2017``.
        split: ``"train"`` or ``"val"``.
        transform: A transform of :mod:`torchvision.transforms.v2`, called with image and target.
        max_pixels: The most pixels that an image may have.

    Attributes:
        class_names: The name of each of the C classes, sorted by the id of the category.
        category_ids: The ids of their categories: that of label i is ``category_ids[i - 1]``.
        palette: The RGB colour of each class, ``[C, 3]``, uint8: those of PASCAL VOC.
        image_ids: The id of each image.
        image_paths: The file of each image.
        annotation_path: The annotation file.

    Shapes:
        - **image:** ``[3, H, W]``, :class:`~torchvision.tv_tensors.Image`, uint8 before
          ``transform``
        - **target:** a dictionary of n objects:

          - **boxes:** ``[n, 4]``, :class:`~torchvision.tv_tensors.BoundingBoxes`, float32, the
            left, upper, right and lower edges in pixels, clipped to the image
          - **labels:** ``[n]``, int64, ``1..C``; 0 is the background of torchvision's detectors
          - **masks:** ``[n, H, W]``, :class:`~torchvision.tv_tensors.Mask`, uint8, 0 or 1
          - **image_id:** int

    Raises:
        ValueError: If ``split`` is unknown, or the annotation file is not JSON, names no image or
            has a broken entry. When an item is loaded: if a segmentation is broken or the image
            does not have the size in the file. The error names the file and the entry.
        FileNotFoundError: If the annotation file or an image that it names is missing.
        ImportError: When an item is loaded: if it has polygons and ``pycocotools`` is missing.
        OSError: When an item is loaded: if its image cannot be read or has more pixels than
            ``max_pixels``.
    """

    splits = ("train", "val")

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        transform: Transform | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.annotation_path = self.annotation_file(root, split)
        content = read_instances(self.annotation_path)
        self._annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        self.class_names, self.category_ids, self.palette = _classes(content)
        self._labels = {id: label for label, id in enumerate(self.category_ids, start=1)}

        folder = Path(root, f"{split}2017")
        self._images = CocoImages(self.annotation_path, content["images"], folder, max_pixels)
        self.image_ids, self.image_paths = self._images.ids, self._images.paths
        self.transform = transform

    @classmethod
    def annotation_file(cls, root: str | Path, split: str) -> Path:
        r"""The annotation file of a split."""
        if split not in cls.splits:
            raise ValueError(f"split: expected one of {cls.splits}, got {split!r}")
        return Path(root, "annotations", f"instances_{split}2017.json")

    @classmethod
    def classes(cls, root: str | Path) -> CocoClasses:
        r"""The classes in the annotation file of ``"val"``; images may be missing."""
        return _classes(read_instances(cls.annotation_file(root, "val")))

    def __len__(self) -> int:
        return len(self._images)

    def load(self, index: int) -> tuple[Tensor, Target]:
        image = self._images.read(index)
        target = self._target(self.image_ids[index], (image.shape[1], image.shape[2]))
        item = tv_tensors.Image(image), target
        return item if self.transform is None else self.transform(*item)

    def check_headers(self, index: int) -> tuple[int, int]:
        self._images.check_header(index)
        return self._images.sizes[index]

    def check_labels(self, index: int) -> None:
        for annotation in self._annotations.get(self.image_ids[index], []):
            self._mask(annotation, self._images.sizes[index])

    def _mask(self, annotation: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
        try:
            return decode_mask(annotation["segmentation"], *size)
        except ValueError as error:
            raise ValueError(
                f"{self.annotation_path}: annotations, id {annotation['id']}: {error}"
            ) from error

    def _target(self, image_id: int, size: tuple[int, int]) -> Target:
        height, width = size
        boxes, labels, masks = [], [], []
        for annotation in self._annotations.get(image_id, []):
            if annotation["iscrowd"]:
                continue
            mask = self._mask(annotation, size)
            left, top, box_width, box_height = annotation["bbox"]
            right, bottom = min(left + box_width, width), min(top + box_height, height)
            left, top = max(left, 0), max(top, 0)
            if right - left >= 1 and bottom - top >= 1 and mask.any():
                boxes.append([left, top, right, bottom])
                labels.append(self._labels[annotation["category_id"]])
                masks.append(mask)
        pixels = np.stack(masks) if masks else np.zeros((0, height, width), dtype=np.uint8)
        return {
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                format=tv_tensors.BoundingBoxFormat.XYXY,
                canvas_size=size,
            ),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": tv_tensors.Mask(torch.from_numpy(pixels)),
            "image_id": image_id,
        }


def _classes(content: dict[str, Any]) -> CocoClasses:
    categories = sorted(content["categories"], key=lambda category: category["id"])
    return CocoClasses(
        tuple(category["name"] for category in categories),
        tuple(category["id"] for category in categories),
        voc_palette(len(categories)),
    )

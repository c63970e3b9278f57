"""What all data sets for semantic segmentation share: pairs of files, read and checked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from dyngraph.checks import check_at_least
from dyngraph.data.files import (
    MAX_PIXELS,
    open_image,
    read_image,
    read_rgb,
    read_rgb_size,
    turned,
)
from dyngraph.data.image_dataset import ImageDataset

Transform = Callable[[Any, Any], tuple[Any, Any]]


class SegmentationDataset(ImageDataset[tuple[Tensor, Tensor]]):
    r"""Images and the classes of their pixels, sorted by file name.

    Images are PNG or JPEG files, labels are PNG files of one 8-bit value per pixel. Images are
    upright, as viewers show them: turned as their EXIF orientation says. Labels are those of
    upright images. A subclass says where the files are (:meth:`folders`, :meth:`find_pairs`) and
    which classes the values mean (:meth:`encode`).

    Besides an index, ``dataset[index, seed]`` is possible: then the item's random augmentation is a
    function of the seed alone, and torch's global random state stays as it was.

    Args:
        root: The folder of the data set.
        split: One of ``splits``.
        transform: A transform of :mod:`torchvision.transforms.v2`, called with image and label.
        max_pixels: The most pixels that an image or label may have.

    Attributes:
        splits: The names of the splits.
        class_names: The name of each class.
        palette: The RGB colour of each class, ``[C, 3]``, uint8.
        image_paths: The image of each item.
        label_paths: The label of each item.

    Shapes:
        - **image:** ``[3, H, W]``, :class:`~torchvision.tv_tensors.Image`, uint8 before
          ``transform``
        - **label:** ``[H, W]``, :class:`~torchvision.tv_tensors.Mask`, int64, classes
          ``0..num_classes - 1`` or 255, ignored

    Raises:
        ValueError: If ``split`` is unknown or has no image. When an item is loaded: if its files'
            sizes differ, its image has 16-bit grey values, or its label file is not of 8-bit values
            or has a value that is no class.
        FileNotFoundError: If a folder or the image or label of an item is missing.
        OSError: When an item is loaded: if one of its files cannot be read as an image or has more
            pixels than ``max_pixels``.
    """

    splits: tuple[str, ...]
    class_names: tuple[str, ...]
    palette: Tensor
    label_paths: list[Path]

    label_modes: tuple[str, ...] = ("L",)
    """Pillow's modes that a label file may have: ``"L"``, grey values, ``"P"``, palette indices."""

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        transform: Transform | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if split not in self.splits:
            raise ValueError(f"split: expected one of {self.splits}, got {split!r}")
        root = Path(root)
        image_folder, label_folder = self.folders(root, split)
        for folder in (root, image_folder, label_folder):
            if not folder.is_dir():
                raise FileNotFoundError(f"root: expected the folder {folder}, which is missing")

        pairs = sorted(self.find_pairs(root, split))
        if not pairs:
            raise ValueError(f"root: expected images in {image_folder}, got none")
        for image, label in pairs:
            if not image.is_file():
                raise FileNotFoundError(f"root: expected the image {image}, which is missing")
            if not label.is_file():
                raise FileNotFoundError(f"root: expected {label}, the label of {image}")
        self.image_paths = [image for image, _ in pairs]
        self.label_paths = [label for _, label in pairs]
        self.transform = transform
        check_at_least(1, max_pixels=max_pixels)
        self.max_pixels = max_pixels

    @classmethod
    def classes(cls, root: str | Path) -> tuple[tuple[str, ...], Tensor]:
        r"""The names and the colours of the classes; images may be missing."""
        return cls.class_names, cls.palette

    @abstractmethod
    def folders(self, root: Path, split: str) -> tuple[Path, Path]:
        r"""The folders that hold the images and the labels of a split."""

    @abstractmethod
    def find_pairs(self, root: Path, split: str) -> Iterable[tuple[Path, Path]]:
        r"""The image and the label file of each item, in any order, whether they exist or not."""

    @abstractmethod
    def encode(self, values: Tensor) -> Tensor:
        r"""The classes of a label file's values.

        Args:
            values: ``[H, W]``, uint8.

        Returns:
            Classes ``0..num_classes - 1`` or 255, ``[H, W]``, uint8.

        Raises:
            ValueError: If a value is no class.
        """

    @property
    def num_classes(self) -> int:
        r"""The number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.image_paths)

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        image = tv_tensors.Image(read_rgb(self.image_paths[index], self.max_pixels))
        label = tv_tensors.Mask(self._read_label(self.label_paths[index]))
        self._check_sizes(index, tuple(image.shape[-2:]), tuple(label.shape))
        if self.transform is not None:
            image, label = self.transform(image, label)
        # Labels stay uint8 until here, which makes their transforms cheaper.
        return image, tv_tensors.Mask(label, dtype=torch.int64)

    def check_headers(self, index: int) -> tuple[int, int]:
        size = read_rgb_size(self.image_paths[index], self.max_pixels)
        path = self.label_paths[index]
        with open_image(path, ("PNG",), max_pixels=self.max_pixels) as label:
            self._check_label(path, label)
            self._check_sizes(index, size, label.size[::-1])
        return size

    def check_labels(self, index: int) -> None:
        self._read_label(self.label_paths[index])

    def _check_sizes(self, index: int, image: tuple[int, ...], label: tuple[int, ...]) -> None:
        if image != label:
            path = self.image_paths[index]
            raise ValueError(
                f"expected image and label of one size, got {[*image]} in {path}"
                f"{turned(path, self.max_pixels)} and {[*label]} in {self.label_paths[index]}"
            )

    def _read_label(self, path: Path) -> Tensor:
        image = read_image(path, ("PNG",), max_pixels=self.max_pixels)
        self._check_label(path, image)
        try:
            return self.encode(F.pil_to_tensor(image)[0])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _check_label(self, path: Path, image: Image.Image) -> None:
        if image.mode not in self.label_modes:
            modes = " or ".join(self.label_modes)
            raise ValueError(f"{path}: expected 8-bit values, mode {modes}, got mode {image.mode}")
        if image.mode == "L" and (depth := _bit_depth(path)) != 8:
            # Pillow would stretch them to 0..255, which would change their classes.
            raise ValueError(f"{path}: expected 8-bit grey values, got {depth} bits")


def _bit_depth(png: Path) -> int:
    with png.open("rb") as file:
        return file.read(25)[24]

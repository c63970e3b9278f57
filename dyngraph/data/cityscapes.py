"""Cityscapes and data sets in its format, for semantic segmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.datasets import Cityscapes
from torchvision.transforms.v2 import functional as F

from dyngraph.data.files import read_image
from dyngraph.data.labels import encode_labels

_SPLITS = ("train", "val", "test")
_FORMATS = ("PNG",)


class CityscapesSegmentation(Dataset[tuple[Tensor, Tensor]]):
    r"""The images of Cityscapes and the train ids of their pixels, sorted by file name.

    Files are those of :class:`torchvision.datasets.Cityscapes`: ``leftImg8bit/<split>/<city>/`` and
    ``gtFine/<split>/<city>/``. Besides an index, ``dataset[index, seed]`` is possible: then the
    item's random augmentation is a function of the seed alone, and torch's global random state
    stays as it was.

    Args:
        root: The folder that holds ``leftImg8bit`` and ``gtFine``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        transform: A transform of :mod:`torchvision.transforms.v2`, called with image and label.

    Shapes:
        - **image:** ``[3, H, W]``, :class:`~torchvision.tv_tensors.Image`, uint8 before
          ``transform``
        - **label:** ``[H, W]``, :class:`~torchvision.tv_tensors.Mask`, int64, train ids 0..18
          or 255

    Raises:
        ValueError: If ``split`` is unknown or has no image. When an item is loaded: if its files'
            sizes differ, or its label file holds anything but 8-bit Cityscapes ids.
        FileNotFoundError: If a folder or the label file of an image is missing.
        OSError: When an item is loaded: if one of its files cannot be read as a PNG image.
    """

    image_paths: list[Path]
    label_paths: list[Path]

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Callable[[Any, Any], tuple[Any, Any]] | None = None,
    ) -> None:
        if split not in _SPLITS:
            raise ValueError(f"split: expected one of {_SPLITS}, got {split!r}")
        folders = [Path(root), *(Path(root, part, split) for part in ("leftImg8bit", "gtFine"))]
        for folder in folders:
            if not folder.is_dir():
                raise FileNotFoundError(f"root: expected the folder {folder}, which is missing")

        files = Cityscapes(str(root), split, mode="fine", target_type="semantic")
        pairs = sorted(
            (Path(image), Path(label))
            for image, (label,) in zip(files.images, files.targets, strict=True)
        )
        if not pairs:
            raise ValueError(f"root: expected images in {folders[1]}, got none")
        for image, label in pairs:
            if not label.is_file():
                raise FileNotFoundError(f"root: expected {label}, the label of {image}")
        self.image_paths = [image for image, _ in pairs]
        self.label_paths = [label for _, label in pairs]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        if isinstance(index, tuple):
            index, seed = index
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return self._load(index)
        return self._load(index)

    def _load(self, index: int) -> tuple[Tensor, Tensor]:
        image_path, label_path = self.image_paths[index], self.label_paths[index]
        image = tv_tensors.Image(F.pil_to_tensor(read_image(image_path, _FORMATS).convert("RGB")))
        label = tv_tensors.Mask(_read_label(label_path))
        if image.shape[-2:] != label.shape[-2:]:
            raise ValueError(
                f"expected image and label of one size, got {list(image.shape[-2:])} in "
                f"{image_path} and {list(label.shape[-2:])} in {label_path}"
            )
        if self.transform is not None:
            image, label = self.transform(image, label)
        # Labels stay uint8 up to here, which makes their transforms cheaper.
        return image, tv_tensors.Mask(label, dtype=torch.int64)


def _read_label(path: Path) -> Tensor:
    image = read_image(path, _FORMATS)
    if image.mode != "L":
        raise ValueError(f"{path}: expected an 8-bit grey image of ids, got mode {image.mode}")
    try:
        return encode_labels(F.pil_to_tensor(image)[0])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error

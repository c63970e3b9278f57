"""A folder of your own images and masks, for semantic segmentation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from dyngraph.data.files import MAX_PIXELS, read_names
from dyngraph.data.labels import IGNORE, voc_palette
from dyngraph.data.segmentation_dataset import SegmentationDataset, Transform

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class FolderSegmentation(SegmentationDataset):
    r"""Your own images and masks, sorted by file name.

    ``classes.txt`` holds the names of the classes, one per line. The images of a split are the
    files ``*.jpg``, ``*.jpeg`` and ``*.png`` in ``images/<split>`` and the folders in it. The mask
    of ``images/<split>/<name>.jpg`` is ``masks/<split>/<name>.png``. Its values, grey or palette
    indices, are the classes: 0 is that of the first line; 255 is ignored. Colours are those of
    PASCAL VOC. Everything else is as in :class:`~dyngraph.data.SegmentationDataset`.

    Args:
        root: The folder that holds ``classes.txt``, ``images`` and ``masks``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        transform: A transform of :mod:`torchvision.transforms.v2`, called with image and label.
        max_pixels: The most pixels that an image or mask may have.

    Raises:
        ValueError: If ``classes.txt`` has no name, a name twice or more than 255 names.
        FileNotFoundError: If ``classes.txt`` is missing.
    """

    splits = ("train", "val", "test")
    label_modes = ("L", "P")

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        transform: Transform | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(root, split, transform=transform, max_pixels=max_pixels)
        self.class_names, self.palette = self.classes(root)

    @classmethod
    def classes(cls, root: str | Path) -> tuple[tuple[str, ...], Tensor]:
        path = Path(root, "classes.txt")
        names = read_names(path)
        if len(names) > IGNORE:
            raise ValueError(f"{path}: expected at most {IGNORE} names, got {len(names)}")
        return names, voc_palette(len(names))

    def folders(self, root: Path, split: str) -> tuple[Path, Path]:
        return root / "images" / split, root / "masks" / split

    def find_pairs(self, root: Path, split: str) -> Iterator[tuple[Path, Path]]:
        image_folder, label_folder = self.folders(root, split)
        for image in image_folder.rglob("*"):
            # macOS writes ._<name> beside a file on foreign disks.
            if image.suffix.lower() in _IMAGE_SUFFIXES and not image.name.startswith("._"):
                mask = image.relative_to(image_folder).with_suffix(".png")
                yield image, label_folder / mask

    def encode(self, values: Tensor) -> Tensor:
        unknown = (values >= self.num_classes) & (values != IGNORE)
        if unknown.any():
            raise ValueError(
                f"values: expected classes 0..{self.num_classes - 1} or {IGNORE}, "
                f"got {int(values[unknown][0])}"
            )
        return values

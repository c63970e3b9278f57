"""Pictures of shapes in the colours of their classes, in the formats of several data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from dyngraph.data.ade20k import ADE20KSegmentation
from dyngraph.data.camvid import CamVidSegmentation
from dyngraph.data.generated.scene_writer import write_scenes
from dyngraph.data.labels import IGNORE, voc_palette
from dyngraph.data.pascal_context import PascalContextSegmentation
from dyngraph.data.sampling import derive_seed

FOLDER_CLASSES: tuple[str, ...] = ("maroon", "green", "olive", "navy", "purple", "teal")
"""The classes of :func:`generate_folder`, the names of PASCAL VOC's first colours."""

# The version of the pictures' look: a finished set of another version is not reused.
_VERSION = 1

_SIZE = (96, 128)
_RIM = 1.15
_AMPLITUDE = 12.0
_NOISE = 5.0


class Shapes(NamedTuple):
    image: np.ndarray
    classes: np.ndarray


class _Format(NamedTuple):
    """How a data set names its files and writes its labels."""

    name: str
    palette: Tensor
    paths: Callable[[str, int], tuple[Path, Path]]
    to_label: Callable[[np.ndarray], Image.Image]


def generate_ade20k(
    root: str | Path, *, num_train: int = 16, num_val: int = 8, seed: int = 0, progress: bool = True
) -> None:
    r"""Writes pictures of coloured shapes in the format of ADE20K.

    A few rectangles and ellipses lie on a wavy background. All have the colours of their classes in
    the data set's palette. The black rims of the shapes are ignored. Heights and widths vary by an
    eighth around 96 and 128 pixels.

    A picture is a function of the seed, its split and its number. If the set is already there, it
    returns at once; an interrupted set is completed.

    Args:
        root: The folder to write, made if it's missing.
        num_train: The number of pictures of the split ``train``.
        num_val: The number of pictures of the split ``val``.
        seed: The seed of the set.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a number of pictures is out of range, or ``root`` holds pictures with other
            parameters or another data set.
    """
    _generate(_ADE20K, root, {"train": num_train, "val": num_val}, seed, {}, progress)


def generate_camvid(
    root: str | Path, *, num_train: int = 16, num_val: int = 8, seed: int = 0, progress: bool = True
) -> None:
    r"""Writes the same as :func:`generate_ade20k`, in the format of CamVid."""
    _generate(_CAMVID, root, {"train": num_train, "val": num_val}, seed, {}, progress)


def generate_pascal_context(
    root: str | Path, *, num_train: int = 16, num_val: int = 8, seed: int = 0, progress: bool = True
) -> None:
    r"""Writes the same as :func:`generate_ade20k`, in the format of PASCAL-Context."""
    counts = {"train": num_train, "val": num_val}
    lists = {
        f"ImageSets/SegmentationContext/{split}.txt": partial(_pascal_context_names, split, count)
        for split, count in counts.items()
    }
    _generate(_PASCAL_CONTEXT, root, counts, seed, lists, progress)


def generate_folder(
    root: str | Path, *, num_train: int = 16, num_val: int = 8, seed: int = 0, progress: bool = True
) -> None:
    r"""The same as :func:`generate_ade20k`, for :class:`~dyngraph.data.FolderSegmentation`."""
    classes = {"classes.txt": lambda: "".join(f"{name}\n" for name in FOLDER_CLASSES)}
    _generate(_FOLDER, root, {"train": num_train, "val": num_val}, seed, classes, progress)


def draw_shapes(seed: int, split: str, number: int, palette: Tensor) -> Shapes:
    r"""One picture of :func:`generate_ade20k`: image ``[H, W, 3]``, classes ``[H, W]``, uint8."""
    rng = np.random.default_rng(derive_seed("shapes", seed, split, number))
    height, width = (int(rng.integers(side * 7 // 8, side * 9 // 8 + 1)) for side in _SIZE)
    rows, columns = np.mgrid[:height, :width]
    colours = palette.numpy().astype(np.float32)

    background = rng.integers(len(colours))
    row_step, column_step = rng.uniform(0.2, 0.8, 2)
    wave = _AMPLITUDE * np.sin(row_step * rows + column_step * columns)
    image = colours[background] + wave[..., None]
    classes = np.full((height, width), background, dtype=np.uint8)
    for _ in range(rng.integers(2, 6)):
        row, column = rng.uniform(0, (height, width))
        radii = rng.uniform(0.1, 0.3, 2) * (height, width)
        # The points within a distance of the middle: an ellipse or a rectangle.
        order = 2 if rng.random() < 0.5 else np.inf
        offsets = np.stack([(rows - row) / radii[0], (columns - column) / radii[1]])
        distance = np.linalg.norm(offsets, ord=order, axis=0)
        shape = rng.integers(len(colours))
        image[distance <= _RIM], classes[distance <= _RIM] = 0, IGNORE
        image[distance <= 1], classes[distance <= 1] = colours[shape], shape
    image += rng.normal(0, _NOISE, image.shape)
    return Shapes(image.round().clip(0, 255).astype(np.uint8), classes)


def _generate(
    form: _Format,
    root: str | Path,
    counts: dict[str, int],
    seed: int,
    texts: Mapping[str, Callable[[], str]],
    progress: bool,
) -> None:
    def draw(split: str, number: int) -> tuple[Image.Image, Image.Image]:
        image, classes = draw_shapes(seed, split, number, form.palette)
        return Image.fromarray(image), form.to_label(classes)

    parameters = {"format": form.name, "version": _VERSION, "seed": seed}
    write_scenes(root, counts, parameters, form.paths, draw, texts, progress)


def _ade20k_paths(split: str, number: int) -> tuple[Path, Path]:
    folder = {"train": "training", "val": "validation"}[split]
    name = f"ADE_{split}_{number + 1:08d}"
    return Path("images", folder, f"{name}.jpg"), Path("annotations", folder, f"{name}.png")


def _camvid_paths(split: str, number: int) -> tuple[Path, Path]:
    name = f"0001TP_{number:06d}.png"
    return Path(split, name), Path(f"{split}annot", name)


def _pascal_context_paths(split: str, number: int) -> tuple[Path, Path]:
    # All splits share one folder.
    name = f"{2008 if split == 'train' else 2009}_{number:06d}"
    return Path("JPEGImages", f"{name}.jpg"), Path("SegmentationClassContext", f"{name}.png")


def _pascal_context_names(split: str, count: int) -> str:
    paths = (_pascal_context_paths(split, number)[0] for number in range(count))
    return "".join(f"{path.stem}\n" for path in paths)


def _folder_paths(split: str, number: int) -> tuple[Path, Path]:
    name = f"{number:06d}.png"
    return Path("images", split, name), Path("masks", split, name)


def _camvid_label(classes: np.ndarray) -> Image.Image:
    unlabelled = len(CamVidSegmentation.class_names)
    return Image.fromarray(np.where(classes == IGNORE, np.uint8(unlabelled), classes))


def _one_based(classes: np.ndarray) -> Image.Image:
    # In uint8, 255 + 1 is 0.
    return Image.fromarray(classes + np.uint8(1))


def _one_based_indexed(classes: np.ndarray) -> Image.Image:
    label = _one_based(classes)
    label.putpalette([0, 0, 0, *PascalContextSegmentation.palette.flatten().tolist()])
    return label


_ADE20K = _Format("ade20k", ADE20KSegmentation.palette, _ade20k_paths, _one_based)
_CAMVID = _Format("camvid", CamVidSegmentation.palette, _camvid_paths, _camvid_label)
_PASCAL_CONTEXT = _Format(
    "pascal_context", PascalContextSegmentation.palette, _pascal_context_paths, _one_based_indexed
)
_FOLDER = _Format("folder", voc_palette(len(FOLDER_CLASSES)), _folder_paths, Image.fromarray)

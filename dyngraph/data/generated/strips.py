"""Strips of shapes in the format of COCO, where some classes depend on something far away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dyngraph.data.coco_masks import decode_mask, encode_masks
from dyngraph.data.generated.scene_writer import write_scenes
from dyngraph.data.sampling import derive_seed

NEAR_CLASSES: tuple[str, ...] = ("disc", "square")
"""The classes of :func:`generate_coco` that have their own shape."""

FAR_CLASSES: tuple[str, ...] = ("sun", "sea")
"""Those that look the same, triangles: the colour of a far beacon says which is which."""

# The version of the strips' look: a finished set of another version is not reused.
_VERSION = 1

# As in COCO, some numbers are missing.
_CATEGORY_IDS = {"disc": 1, "square": 3, "sun": 7, "sea": 18}

_BEACON_COLOURS = {"sun": (240, 150, 30), "sea": (40, 80, 220)}
# Whole blocks of JPEG, so that its compression does not spread the beacon's colour.
_BLOCK = 16
_BEACON_WIDTH = 2 * _BLOCK
_HEIGHT = 64

# What RoIAlign reads in a box, from a pyramid of features on a backbone whose receptive field is
# 195 pixels wide, depends on at most 161 pixels around.
_DISTANCES = (168, 176)

# Where objects stand: one square each, in this many columns.
_SLOT = 32
_COLUMNS = 3
_RADII = (11.0, 15.5)

_AMPLITUDE = 12.0
_NOISE = 6.0


class StripObject(NamedTuple):
    r"""An object or crowd region.

    Attributes:
        category: The name of the class.
        segmentation: As COCO writes it.
        is_crowd: Whether it's a group of objects.
        mask: ``[H, W]``, uint8.
        colour: RGB.
    """

    category: str
    segmentation: Any
    is_crowd: bool
    mask: np.ndarray
    colour: np.ndarray


class Strip(NamedTuple):
    r"""What a picture shows.

    Attributes:
        size: The height and width in pixels.
        beacon: Its rows and columns.
        far_class: The far class that the beacon's colour stands for.
        objects: From the first to the last drawn.
        seed: What the background is drawn from.
    """

    size: tuple[int, int]
    beacon: tuple[slice, slice]
    far_class: str
    objects: list[StripObject]
    seed: int


def generate_coco(
    root: str | Path,
    *,
    num_train: int = 800,
    num_val: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> None:
    r"""Writes strips of shapes in the format of COCO, for detectors that relate distant places.

    Up to six objects stand near one end of a strip 64 pixels high and 320 or 336 wide. Discs and
    squares are classes of their own (:obj:`NEAR_CLASSES`). Triangles are of the class ``"sun"`` or
    ``"sea"`` (:obj:`FAR_CLASSES`) and look the same: an orange or blue beacon says which. It stands
    at least 168 pixels from the objects. That is farther than :func:`~dyngraph.models.mask_rcnn`
    with ``"resnet10"`` sees around a box of this size, unless the picture is shrunk.

    A tenth of the pictures has no object, and some have a crowd region, dots in the middle of the
    strip. Masks of discs and crowds are run-length encodings, others polygons.

    A picture is a function of the seed, its split and its number. If the set is already there, it
    returns at once; an interrupted set is completed.

    Args:
        root: The folder to write, made if it's missing.
        num_train: The number of pictures of the split ``train``.
        num_val: The number of pictures of the split ``val``.
        seed: The seed of the set.
        progress: Whether to show a progress bar.

    Raises:
        ImportError: If ``pycocotools`` is missing.
        ValueError: If a number of pictures is out of range, or ``root`` holds pictures with other
            parameters or another data set.
    """

    def draw(split: str, number: int) -> tuple[Image.Image]:
        return (Image.fromarray(draw_strip(plan_strip(seed, split, number))),)

    counts = {"train": num_train, "val": num_val}
    annotations = {
        f"annotations/instances_{split}2017.json": partial(_annotations, seed, split, count)
        for split, count in counts.items()
    }
    parameters = {"format": "coco", "version": _VERSION, "seed": seed}
    write_scenes(root, counts, parameters, _paths, draw, annotations, progress)


def plan_strip(seed: int, split: str, number: int) -> Strip:
    r"""What a picture of :func:`generate_coco` shows."""
    rng = np.random.default_rng(derive_seed("strip", seed, split, number))
    # Drawn on its own, so that nothing else in the picture depends on it.
    far_class = FAR_CLASSES[derive_seed("beacon", seed, split, number) % 2]
    width = _BLOCK * int(rng.integers(20, 22))
    distance = int(rng.integers(_DISTANCES[0], _DISTANCES[1] + 1))
    places = (width - _BEACON_WIDTH - _DISTANCES[1] - _COLUMNS * _SLOT) // _BLOCK
    start = _BLOCK * int(rng.integers(places + 1))
    top, bottom = (int(margin) for margin in (rng.integers(2, 9), _HEIGHT - rng.integers(2, 9)))
    mirrored = rng.random() < 0.5
    size = (_HEIGHT, width)

    def place(column: float, row: float) -> np.ndarray:
        return np.array([width - column if mirrored else column, row])

    objects: list[StripObject] = []
    if rng.random() < 0.9:
        near_edge = start + _BEACON_WIDTH + distance
        for left, low in product(range(0, _COLUMNS * _SLOT, _SLOT), range(0, _HEIGHT, _SLOT)):
            if rng.random() < 0.75:
                radius = rng.uniform(*_RADII)
                shift = rng.uniform(radius, _SLOT - radius, 2)
                centre = place(near_edge + left + shift[0], low + shift[1])
                objects.append(_object(rng, centre, radius, size, far_class))
        if rng.random() < 0.2:
            centre = place(start + _BEACON_WIDTH + distance / 2, _HEIGHT / 2)
            objects.insert(0, _crowd(rng, centre, size))
    if mirrored:
        start = width - start - _BEACON_WIDTH
    columns = slice(start, start + _BEACON_WIDTH)
    return Strip(
        size,
        (slice(top, bottom), columns),
        far_class,
        objects,
        seed=derive_seed("strip's background", seed, split, number),
    )


def draw_strip(strip: Strip) -> np.ndarray:
    r"""The picture of a strip, ``[H, W, 3]``, uint8."""
    rng = np.random.default_rng(strip.seed)
    # Waves along rows plus waves along columns are cheap to compute.
    steps, phases = rng.uniform(0.2, 0.8, 2), rng.uniform(0, 2 * np.pi, 2)
    rows, columns = (
        np.sin(step * np.arange(side) + phase)
        for step, phase, side in zip(steps, phases, strip.size, strict=True)
    )
    wave = (_AMPLITUDE / 2) * (rows[:, None] + columns)
    image = (rng.uniform(100, 150, 3) + wave[..., None]).astype(np.float32)
    image[strip.beacon] = _BEACON_COLOURS[strip.far_class]
    for thing in strip.objects:
        image[thing.mask.astype(bool)] = thing.colour
    image += _NOISE * rng.standard_normal(image.shape, dtype=np.float32)
    return image.round().clip(0, 255).astype(np.uint8)


def _object(
    rng: np.random.Generator,
    centre: np.ndarray,
    radius: float,
    size: tuple[int, int],
    far_class: str,
) -> StripObject:
    """An object inside a circle; its class, colour, place and size don't depend on each other."""
    colour, angle = _colour(rng), rng.uniform(0, 2 * np.pi)
    corners = {0: 0, 1: 4}.get(int(rng.integers(5)), 3)
    if corners == 0:
        mask = _disc(centre, 0.8 * radius, size)
        return StripObject("disc", encode_masks(mask[None])[0], False, mask, colour)
    angles = angle + 2 * np.pi * np.arange(corners) / corners
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    segmentation = [points.round(2).flatten().tolist()]
    category = "square" if corners == 4 else far_class
    return StripObject(category, segmentation, False, decode_mask(segmentation, *size), colour)


def _crowd(rng: np.random.Generator, centre: np.ndarray, size: tuple[int, int]) -> StripObject:
    mask = np.zeros(size, dtype=np.uint8)
    for _ in range(rng.integers(6, 12)):
        mask |= _disc(centre + rng.uniform(-24, 24, 2), 4, size)
    # Runs of zeros and ones in turn, column by column.
    pixels = np.concatenate([[0], mask.T.flatten(), [2]])
    edges = np.flatnonzero(np.diff(pixels))
    runs = np.diff(edges, prepend=0).tolist()
    return StripObject("disc", {"size": list(size), "counts": runs}, True, mask, _colour(rng))


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A colour that stands out against the background: each channel is dark or bright."""
    return np.where(rng.random(3) < 0.5, 20, 200) + rng.uniform(0, 50, 3)


def _disc(centre: np.ndarray, radius: float, size: tuple[int, int]) -> np.ndarray:
    rows, columns = np.ogrid[: size[0], : size[1]]
    distance = np.hypot(columns + 0.5 - centre[0], rows + 0.5 - centre[1])
    return (distance <= radius).astype(np.uint8)


def _image_id(split: str, number: int) -> int:
    # No two splits share them.
    return number + {"train": 1, "val": 1_000_001}[split]


def _paths(split: str, number: int) -> tuple[Path]:
    return (Path(f"{split}2017", f"{_image_id(split, number):012d}.jpg"),)


def _annotations(seed: int, split: str, count: int) -> str:
    """The annotation file of a split."""
    strips = [(number, plan_strip(seed, split, number)) for number in range(count)]
    images = [
        {
            "id": _image_id(split, number),
            "file_name": _paths(split, number)[0].name,
            "height": strip.size[0],
            "width": strip.size[1],
            "license": 1,
        }
        for number, strip in strips
    ]
    categories = [
        {"id": id, "name": name, "supercategory": "near" if name in NEAR_CLASSES else "far"}
        for name, id in _CATEGORY_IDS.items()
    ]
    content = {
        "info": {"description": "Strips of shapes", "version": str(_VERSION), "year": 2017},
        "licenses": [{"id": 1, "name": "CC0", "url": ""}],
        "images": images,
        "annotations": [*_entries(split, strips)],
        "categories": categories,
    }
    return json.dumps(content)


def _entries(split: str, strips: list[tuple[int, Strip]]) -> Iterator[dict[str, Any]]:
    ids = count(1)
    for number, strip in strips:
        for thing in strip.objects:
            rows, columns = (np.flatnonzero(thing.mask.any(axis)) for axis in (1, 0))
            left, top = int(columns[0]), int(rows[0])
            yield {
                "id": next(ids),
                "image_id": _image_id(split, number),
                "category_id": _CATEGORY_IDS[thing.category],
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "area": int(thing.mask.sum()),
                "iscrowd": int(thing.is_crowd),
                "segmentation": thing.segmentation,
            }

"""Procedural street scenes whose labels depend on what is near and on what is far away."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torchvision.datasets import Cityscapes

from dyngraph.data.cityscapes import TRAIN_ID_TO_ID
from dyngraph.data.generated.scene_writer import write_scenes
from dyngraph.data.sampling import derive_seed

OBJECT_CLASSES: tuple[int, ...] = (13, 14, 15, 16)
"""The train ids of the objects on the road: car, truck, bus and train.

Class ``2 * texture + shape``: cars and trucks stand below a fence, buses and trains below a wall;
cars and buses are tall boxes, trucks and trains are wide ones.
"""

# The version of the scenes' look: a finished set of another version is not reused.
_VERSION = 2

# Rows of a scene of 64 units: the end of the strip, and where the street's parts begin.
_STRIP = 12
_PERIOD = 6
_SIDEWALK = 38
_ROAD = 42
_EGO_VEHICLE = 62

_PANELS = 4

_AMPLITUDE = 30.0
_NOISE = 10.0

_IDS = {c.name: c.id for c in Cityscapes.classes}
_TEXTURE_IDS = (_IDS["fence"], _IDS["wall"])


class Scene(NamedTuple):
    image: np.ndarray
    ids: np.ndarray


def generate_scenes(
    root: str | Path,
    *,
    num_train: int = 800,
    num_val: int = 200,
    size: tuple[int, int] = (64, 128),
    seed: int = 0,
    cue: bool = True,
    panels: bool = False,
    progress: bool = True,
) -> None:
    r"""Writes street scenes in the format of Cityscapes, for networks that relate distant places.

    The class of an object on the road depends on its shape, which a local network can see, and on
    what stands at the top of the image, more than 30 pixels above any object: a fence (vertical
    stripes) or a wall (horizontal ones). The labels of that strip teach a network to tell fence
    from wall, but one whose receptive field is smaller than the distance can only guess what they
    mean for the objects. See :obj:`OBJECT_CLASSES`.

    A scene is a function of the seed, its split and its number. If the set is already there, it
    returns at once; an interrupted set is completed.

    Args:
        root: The folder to write, made if it's missing.
        num_train: The number of scenes of the split ``train``.
        num_val: The number of scenes of the split ``val``.
        size: The height and width in pixels. Everything is drawn in units of ``height // 64``
            pixels.
        seed: The seed of the set.
        cue: Whether the texture says the class. False is the control: textures are drawn anew, and
            everything below them stays the same, pixel for pixel.
        panels: Whether each object has its own cue: four objects, each under a panel of fence or
            wall in the object's colour. Two panels have one texture and two the other, so the strip
            as a whole says nothing; a network has to look at the right panel.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a number of scenes is out of range, ``size`` is too small, or ``root`` holds
            scenes with other parameters or another data set.
    """
    _check_size(size)

    def draw(split: str, number: int) -> tuple[Image.Image, Image.Image]:
        image, ids = draw_scene(seed, split, number, size=size, cue=cue, panels=panels)
        return Image.fromarray(image), Image.fromarray(ids)

    parameters = {
        "version": _VERSION,
        "size": list(size),
        "seed": seed,
        "cue": cue,
        "panels": panels,
    }
    counts = {"train": num_train, "val": num_val}
    write_scenes(root, counts, parameters, _paths, draw, texts={}, progress=progress)


def draw_scene(
    seed: int, split: str, number: int, *, size: tuple[int, int], cue: bool, panels: bool
) -> Scene:
    r"""One scene of :func:`generate_scenes`: image ``[H, W, 3]`` and ids ``[H, W]``, uint8."""
    _check_size(size)
    rng = np.random.default_rng(derive_seed("texture", seed, split, number))
    if panels:
        balanced = np.arange(_PANELS) % 2
        textures, unrelated = rng.permutation(balanced), rng.permutation(balanced)
    else:
        textures, unrelated = rng.integers(2, size=(2, 1))
    return _draw(
        np.random.default_rng(derive_seed("scene", seed, split, number)),
        size,
        textures,
        drawn_textures=textures if cue else unrelated,
    )


def _check_size(size: tuple[int, int]) -> None:
    height, width = size
    if height < 64 or width < 96 * (height // 64):
        raise ValueError(
            f"size: expected at least 64 rows and 96 columns per 64 rows, got {tuple(size)}"
        )


def _paths(split: str, number: int) -> tuple[Path, Path]:
    # Predictions are matched by these names, so no two splits share them.
    city = f"{split}burg"
    name = f"{city}_{number:06d}_000000"
    return (
        Path("leftImg8bit", split, city, f"{name}_leftImg8bit.png"),
        Path("gtFine", split, city, f"{name}_gtFine_labelIds.png"),
    )


def _draw(
    rng: np.random.Generator,
    size: tuple[int, int],
    textures: np.ndarray,
    drawn_textures: np.ndarray,
) -> Scene:
    """A scene whose objects have the classes of ``textures``, under a strip of ``drawn_textures``.

    One texture for the strip and all objects, or several, one per panel and object.
    """
    canvas = _Canvas(rng, size)
    panels = canvas.slots(len(textures))
    colours = _panel_colours(rng, len(textures)) if len(textures) > 1 else [None]
    _draw_sky(canvas)
    for panel, colour, texture in zip(panels, colours, drawn_textures, strict=True):
        _draw_stripes(canvas, panel, colour, texture)
    _draw_buildings(canvas)
    _draw_vegetation(canvas)
    _draw_street(canvas)
    _draw_roadside(canvas)
    if len(textures) == 1:
        panels = canvas.slots(int(rng.integers(2, 5)))
        textures, colours = textures.repeat(len(panels)), colours * len(panels)
    for panel, colour, texture in zip(panels, colours, textures, strict=True):
        _draw_object(canvas, panel, colour, texture)
    _draw_ego_vehicle(canvas)
    return canvas.to_scene()


def _panel_colours(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Colours of equally distant hues."""
    hues = (rng.random() + rng.permutation(count) / count) % 1
    return [255 * np.array(hsv_to_rgb(hue, 0.6, 0.75)) for hue in hues]


class _Canvas:
    """The pixels and ids of a scene, drawn in units from the top, or the bottom for the street."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.rng = rng
        self.height, self.width = size
        self.unit = self.height // 64
        self.image = np.zeros((self.height, self.width, 3), dtype=np.float32)
        self.ids = np.zeros(size, dtype=np.uint8)

    def row(self, units: int) -> int:
        """The row ``units`` below the top; from 38 on, the street's, counted from the bottom."""
        if units < _SIDEWALK:
            return units * self.unit
        return self.height - (64 - units) * self.unit

    def pixels(self, low: int, high: int) -> int:
        """A random length of ``low`` to ``high`` units."""
        return int(self.rng.integers(low * self.unit, high * self.unit + 1))

    def colour(self, low: int, high: int) -> np.ndarray:
        return self.rng.uniform(low, high, 3)

    def slots(self, count: int) -> list[tuple[int, int]]:
        """The first and the end column of ``count`` equal parts of the canvas."""
        return list(pairwise(np.linspace(0, self.width, count + 1).astype(int)))

    def box(
        self,
        top: int,
        bottom: int,
        left: int,
        right: int,
        colour: np.ndarray | float,
        label: int | None = None,
    ) -> None:
        """Fills rows ``top:bottom`` and columns ``left:right``, clipped to the canvas."""
        area = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
        self.image[area] = colour
        if label is not None:
            self.ids[area] = label

    def to_scene(self) -> Scene:
        noise = self.rng.normal(0, _NOISE, self.image.shape)
        return Scene((self.image + noise).round().clip(0, 255).astype(np.uint8), self.ids)


def _draw_sky(canvas: _Canvas) -> None:
    blue = np.array([135, 165, 195]) + canvas.rng.uniform(-15, 15)
    canvas.box(0, canvas.row(_SIDEWALK), 0, canvas.width, blue, _IDS["sky"])


def _draw_stripes(
    canvas: _Canvas, panel: tuple[int, int], colour: np.ndarray | None, texture: int
) -> None:
    left, right = panel
    strip = canvas.row(_STRIP)
    if colour is not None:
        canvas.box(0, strip, left, right, colour)
    period = _PERIOD * canvas.unit
    # Both are drawn, so that the rest of the scene does not depend on the texture.
    phases = canvas.rng.integers(period, size=2)
    place = np.arange(right - left)[None] if texture == 0 else np.arange(strip)[:, None]
    wave = np.where((place + phases[texture]) % period < period // 2, 1.0, -1.0)
    stripes = np.broadcast_to(wave, (strip, right - left))[..., None]
    canvas.image[:strip, left:right] += _AMPLITUDE * stripes
    canvas.ids[:strip, left:right] = _TEXTURE_IDS[texture]


def _draw_buildings(canvas: _Canvas) -> None:
    rng, unit, horizon = canvas.rng, canvas.unit, canvas.row(_SIDEWALK)
    left = canvas.pixels(-8, 4)
    while left < canvas.width:
        right = left + canvas.pixels(10, 24)
        top = canvas.row(_STRIP) + canvas.pixels(3, 18)
        canvas.box(top, horizon, left, right, canvas.colour(70, 150), _IDS["building"])
        if rng.random() < 0.7:
            _draw_windows(canvas, top + 2 * unit, horizon - 2 * unit, left + unit, right - unit)
        left = right + (canvas.pixels(0, 12) if rng.random() < 0.5 else 0)


def _draw_windows(canvas: _Canvas, top: int, bottom: int, left: int, right: int) -> None:
    colour = canvas.colour(20, 80) if canvas.rng.random() < 0.6 else canvas.colour(170, 230)
    # Periods like the strip's, so that a single stripe doesn't give away its texture.
    periods, lengths = canvas.pixels(4, 7), canvas.pixels(2, 3)
    for row in range(top, bottom - lengths + 1, periods):
        for column in range(max(left, 0), right - lengths + 1, periods):
            canvas.box(row, row + lengths, column, column + lengths, colour)


def _draw_vegetation(canvas: _Canvas) -> None:
    horizon, highest = canvas.row(_SIDEWALK), canvas.row(_STRIP + 4)
    rows, columns = np.mgrid[highest:horizon, : canvas.width]
    for _ in range(canvas.rng.integers(2, 6)):
        row, column = horizon - canvas.pixels(2, 8), canvas.rng.integers(canvas.width)
        height, width = canvas.pixels(5, 12), canvas.pixels(5, 14)
        inside = ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 < 1
        leaves = np.array([60, 100, 45]) + canvas.rng.normal(0, 18, (int(inside.sum()), 1))
        canvas.image[highest:horizon][inside] = leaves
        canvas.ids[highest:horizon][inside] = _IDS["vegetation"]


def _draw_street(canvas: _Canvas) -> None:
    rng, unit, width = canvas.rng, canvas.unit, canvas.width
    sidewalk, road = canvas.row(_SIDEWALK), canvas.row(_ROAD)
    canvas.box(sidewalk, road, 0, width, 150 + rng.uniform(-15, 15), _IDS["sidewalk"])
    # The kerb belongs to neither.
    canvas.box(road - unit, road, 0, width, 110, _IDS["unlabeled"])
    grey = 90 + rng.uniform(-15, 15)
    canvas.box(road, canvas.height, 0, width, grey, _IDS["road"])
    for _ in range(4):
        top, left = road + canvas.pixels(0, 16), int(rng.integers(width))
        shade = grey + rng.uniform(-30, 30)
        canvas.box(top, top + canvas.pixels(1, 4), left, left + canvas.pixels(4, 16), shade)
    row, period = canvas.row(_EGO_VEHICLE - 4), 12 * unit
    for column in range(canvas.pixels(-12, 0), width, period):
        canvas.box(row, row + unit, column, column + period // 2, 205)


def _draw_roadside(canvas: _Canvas) -> None:
    rng, unit = canvas.rng, canvas.unit
    foot = canvas.row(_ROAD) - unit
    for _ in range(rng.integers(1, 4)):
        column, top = int(rng.integers(canvas.width)), canvas.row(_STRIP + 4) + canvas.pixels(0, 8)
        canvas.box(top, foot, column, column + unit, canvas.colour(40, 60), _IDS["pole"])
        if rng.random() < 0.6:
            sign = canvas.colour(150, 250)
            end = column + 4 * unit
            canvas.box(top, top + 4 * unit, column - unit, end, sign, _IDS["traffic sign"])
    for _ in range(rng.integers(0, 4)):
        column, height = int(rng.integers(canvas.width)), canvas.pixels(6, 8)
        end = column + 2 * unit
        canvas.box(foot - height, foot, column, end, canvas.colour(20, 220), _IDS["person"])


def _draw_object(
    canvas: _Canvas, slot: tuple[int, int], colour: np.ndarray | None, texture: int
) -> None:
    """An object at a random place in its slot, so that no two overlap."""
    rng, unit = canvas.rng, canvas.unit
    start, end = slot
    shape = int(rng.integers(2))
    if shape == 0:
        height, width = canvas.pixels(13, 15), canvas.pixels(7, 9)
    else:
        height, width = canvas.pixels(6, 8), canvas.pixels(16, 18)
    left = int(rng.integers(start + unit, end - unit - width + 1))
    right = left + width
    bottom = canvas.row(_EGO_VEHICLE) - canvas.pixels(0, 3)
    top = bottom - height
    if colour is None:
        colour = canvas.colour(60, 220)

    # Parts are fractions of the box, so that both shapes have the same mean colour.
    label = int(TRAIN_ID_TO_ID[OBJECT_CLASSES[2 * texture + shape]])
    canvas.box(top, bottom, left, right, colour, label)
    glass = slice(left + width // 6, right - width // 6)
    canvas.box(top + height // 6, top + height // 2, glass.start, glass.stop, 70)
    wheel = max(width // 4, 1)
    for column in (left, right - wheel):
        canvas.box(bottom - max(height // 6, 1), bottom, column, column + wheel, 25)


def _draw_ego_vehicle(canvas: _Canvas) -> None:
    row = canvas.row(_EGO_VEHICLE)
    canvas.box(row, canvas.height, 0, canvas.width, canvas.colour(20, 60), _IDS["ego vehicle"])

"""Reading images and lists of names, and writing files as a whole or not at all."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor
from torchvision.transforms.v2 import functional as F

MAX_PIXELS = 125_000_000
"""The most pixels of an image by default: enough for a tile of Sentinel-2, 10,980 x 10,980, or a
photo of 108 megapixels; 375 MB of colours."""

# A full disk, an exceeded quota, or a file that may not grow.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_RGB_FORMATS = ("PNG", "JPEG")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# What turns the pixels of each EXIF orientation upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THE_SIDE = (5, 6, 7, 8)


def open_image(path: Path, formats: tuple[str, ...], *, max_pixels: int = MAX_PIXELS) -> ImageFile:
    r"""Reads the header of an untrusted image file. Close it, or use ``with``.

    Args:
        path: The file.
        formats: The formats that it may have, of ``"PNG"`` and ``"JPEG"``.
        max_pixels: The most pixels that it may have.

    Raises:
        OSError: If the file cannot be read as an image of these formats, or has more pixels.
    """
    with _reading(path, formats):
        with path.open("rb") as file:
            is_png = file.read(len(_PNG_SIGNATURE)) == _PNG_SIGNATURE
        if ("PNG" if is_png else "JPEG") not in formats:
            raise ValueError(f"not a {' or '.join(formats)} file")
        # Not with Image.open, whose own limit of pixels is global, and may be lower than ours.
        image = PngImageFile(path) if is_png else JpegImageFile(path)
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise OSError(
            f"{path}: expected a readable {' or '.join(formats)} image of at most {max_pixels} "
            f"pixels, as max_pixels says, got {height} x {width} = {height * width}"
        )
    return image


def read_image(
    path: Path, formats: tuple[str, ...], *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    r"""Reads an untrusted image file, its pixels as they are stored.

    Arguments and errors are those of :func:`open_image`.
    """
    with open_image(path, formats, max_pixels=max_pixels) as image, _reading(path, formats):
        image.load()
        return image


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    r"""The colours ``[3, H, W]``, uint8, of an untrusted PNG or JPEG file.

    They are upright: turned as the file's EXIF orientation says, the way viewers show them.

    Args:
        path: The file.
        max_pixels: The most pixels that it may have.

    Raises:
        OSError: If the file cannot be read as an image, or has more pixels.
        ValueError: If it has grey values of 16 bits.
    """
    with _open_rgb(path, max_pixels) as image:
        turn = _TURNS.get(_orientation(image))
        with _reading(path, _RGB_FORMATS):
            picture = image.convert("RGB")
    return F.pil_to_tensor(picture if turn is None else picture.transpose(turn))


def read_rgb_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    r"""The height and width of what :func:`read_rgb` returns, from the file's header alone.

    Arguments and errors are those of :func:`read_rgb`, except errors in the pixels.
    """
    with _open_rgb(path, max_pixels) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _ON_THE_SIDE else (height, width)


def turned(path: Path, max_pixels: int = MAX_PIXELS) -> str:
    r"""For errors about the size of an image: how its EXIF orientation turns it, if it does."""
    with _open_rgb(path, max_pixels) as image:
        orientation = _orientation(image)
        stored = f"stored as {[*image.size[::-1]]}"
    return f" ({stored}, turned by EXIF orientation {orientation})" if orientation in _TURNS else ""


def _open_rgb(path: Path, max_pixels: int) -> ImageFile:
    image = open_image(path, _RGB_FORMATS, max_pixels=max_pixels)
    if image.mode.startswith("I"):
        image.close()
        # Pillow would cut them off at 255.
        raise ValueError(f"{path}: expected 8-bit colours, got mode {image.mode}")
    return image


def _orientation(image: ImageFile) -> Any:
    # Without this, Pillow decodes a PNG to look for it after the pixels.
    if "exif" not in image.info:
        return None
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    # Pillow has no common base class for what broken EXIF raises. Viewers ignore that.
    except Exception:
        return None


@contextmanager
def _reading(path: Path, formats: tuple[str, ...]) -> Iterator[None]:
    try:
        yield
    # Pillow has no common base class for what it raises on broken files.
    except Exception as error:
        expected = " or ".join(formats)
        raise OSError(f"{path}: expected a readable {expected} image, got {error!r}") from error


def read_names(path: Path) -> tuple[str, ...]:
    r"""The names in a UTF-8 text file, one per line, stripped.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it isn't UTF-8, has no name, has an empty line before its last name, or has a
            name twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"root: expected the file {path}, which is missing")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, got {error}") from error
    names: list[str] = []
    seen: set[str] = set()
    for number, line in enumerate(text.rstrip().splitlines(), start=1):
        name = line.strip()
        if not name or name in seen:
            found = f"{name!r} again" if name else "an empty line"
            raise ValueError(f"{path}, line {number}: expected a new name, got {found}")
        names.append(name)
        seen.add(name)
    if not names:
        raise ValueError(f"{path}: expected one name per line, got none")
    return tuple(names)


def write_png(path: Path, pixels: np.ndarray) -> None:
    r"""Writes a PNG file as :func:`write_file` does.

    Args:
        path: The file.
        pixels: ``[H, W]`` or ``[H, W, 3]``, uint8.

    Raises:
        OSError: If it cannot be written. The error names the file.
    """
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    write_file(path, content.getvalue())


def write_file(path: Path, content: bytes) -> None:
    r"""Writes a file as a whole or not at all, and its folder if it's missing.

    If that fails, an existing file stays as it was.

    Raises:
        OSError: If it cannot be written. The error names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name: the next run replaces what an interrupted one leaves.
    partial = path.with_name(f".{path.name}.partial")
    try:
        with naming(path):
            partial.write_bytes(content)
            os.replace(partial, path)
    except OSError:
        # A partial file would take up space.
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    r"""Makes the error of a full disk name the file, as the system's own does not."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        raise

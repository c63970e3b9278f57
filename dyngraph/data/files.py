"""Images as files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image


def read_image(path: Path, formats: tuple[str, ...]) -> Image.Image:
    r"""Reads an image file that nobody has vouched for.

    Args:
        path: The file.
        formats: The formats that Pillow may take it for, e.g. ``("PNG", "JPEG")``.

    Raises:
        OSError: If the file cannot be read as an image of these formats.
    """
    try:
        with Image.open(path, formats=formats) as image:
            image.load()
            return image
    # Pillow has no common base class for what it raises on broken and oversized files.
    except Exception as error:
        expected = " or ".join(formats)
        raise OSError(f"{path}: expected a readable {expected} image, got {error!r}") from error


def write_png(path: Path, pixels: np.ndarray) -> None:
    r"""Writes a PNG file that is whole as soon as it is there, and its folder where it's missing.

    Args:
        path: The file.
        pixels: ``[H, W]`` or ``[H, W, 3]``, uint8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name: what an interrupted run leaves, the next one replaces.
    partial = path.with_name(f".{path.name}.partial")
    Image.fromarray(pixels).save(partial, format="PNG")
    os.replace(partial, path)

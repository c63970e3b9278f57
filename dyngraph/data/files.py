"""Images as files, and files that are whole as soon as they are there."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F


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


def read_rgb(path: Path) -> Tensor:
    r"""The colours ``[3, H, W]``, uint8, of a PNG or JPEG file that nobody has vouched for.

    Pixels are taken as stored, whatever orientation the file asks for.

    Raises:
        OSError: If the file cannot be read as an image.
        ValueError: If it has grey values of 16 bits.
    """
    picture = read_image(path, ("PNG", "JPEG"))
    if picture.mode.startswith("I"):
        # Pillow would cut them off at 255.
        raise ValueError(f"{path}: expected 8-bit colours, got mode {picture.mode}")
    return F.pil_to_tensor(picture.convert("RGB"))


def write_png(path: Path, pixels: np.ndarray) -> None:
    r"""Writes a PNG file as :func:`write_file` does.

    Args:
        path: The file.
        pixels: ``[H, W]`` or ``[H, W, 3]``, uint8.
    """
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    write_file(path, content.getvalue())


def write_file(path: Path, content: bytes) -> None:
    r"""Writes a file that is whole as soon as it is there, and its folder where it's missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name: what an interrupted run leaves, the next one replaces.
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)

"""The images of a folder, and the files that are written for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

_SUFFIXES = (".png", ".jpg", ".jpeg")


def find_images(images: Path) -> list[Path]:
    r"""The PNG and JPEG files in a folder and those below, sorted.

    Without the files ``._<name>`` that macOS writes beside them on foreign disks.

    Raises:
        FileNotFoundError: If the folder is missing.
        NotADirectoryError: If it is a file.
        ValueError: If it has no image.
    """
    if images.is_file():
        raise NotADirectoryError(f"images: expected a folder, got the file {images}")
    if not images.is_dir():
        raise FileNotFoundError(f"images: expected the folder {images}, which is missing")
    files = (path for path in images.rglob("*") if path.is_file() and path.name[:2] != "._")
    paths = sorted(path for path in files if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ValueError(f"images: expected PNG or JPEG images in {images}, got none")
    return paths


def check_outside(images: Path, out: Path) -> None:
    r"""Checks that the output is not among the images.

    Raises:
        ValueError: If ``out`` is inside ``images``.
    """
    if out.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"out: expected a folder outside {images}, got {out}")


def check_distinct(outputs: Mapping[Path, Sequence[Path]]) -> None:
    r"""Checks that no two images share an output file.

    Raises:
        ValueError: If two do.
    """
    sources: dict[Path, Path] = {}
    for path, files in outputs.items():
        for file in files:
            first = sources.setdefault(file, path)
            if first != path:
                raise ValueError(f"images: {first} and {path} would both be written to {file}")

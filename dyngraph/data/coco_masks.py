"""Masks as COCO writes them: polygons and run-length encodings."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

# A run has at most this many characters of 5 bits, enough for any run that fits in 32 bits.
_MAX_CHARACTERS = 7


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    r"""The pixels of an untrusted segmentation.

    Args:
        segmentation: A list of polygons ``[x0, y0, x1, y1, …]`` in pixels, or a run-length encoding
            ``{"size": [height, width], "counts": …}``: lengths of runs of zeros and ones in turn,
            column by column, as a list or as COCO's compressed string.
        height: The height of the image in pixels.
        width: Its width.

    Returns:
        ``[height, width]``, uint8, 0 or 1.

    Raises:
        ImportError: If it has polygons and ``pycocotools`` is missing.
        ValueError: If it's broken or not of this size.
    """
    check_segmentation(segmentation, height, width)
    if isinstance(segmentation, list):
        codec = mask_codec()
        merged = codec.merge(codec.frPyObjects(segmentation, height, width))
        runs = _decompress(merged["counts"].decode())
    else:
        runs = _runs(segmentation["counts"])
    return (np.arange(len(runs)) % 2).astype(np.uint8).repeat(runs).reshape(width, height).T


def check_segmentation(segmentation: Any, height: int, width: int) -> None:
    r"""Checks what :func:`decode_mask` takes.

    ``pycocotools`` doesn't: it reads uninitialised memory if runs are too short, and fills the
    memory if a polygon is too large.

    Raises:
        ValueError: If the segmentation is broken or not of this size.
    """
    if isinstance(segmentation, list):
        _check_polygons(segmentation, height, width)
        return
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError(
            "segmentation: expected polygons or a run-length encoding of size and counts, "
            f"got {shorten(segmentation)}"
        )
    if segmentation["size"] != [height, width]:
        raise ValueError(
            f"segmentation: expected the image's size {[height, width]}, "
            f"got {shorten(segmentation['size'])}"
        )
    pixels = int(_runs(segmentation["counts"]).sum())
    if pixels != height * width:
        raise ValueError(
            f"segmentation: expected runs over {height} x {width} = {height * width} pixels, "
            f"got {pixels}"
        )


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    r"""Masks as run-length encodings with compressed counts, as JSON can hold them.

    Args:
        masks: ``[n, H, W]``, bool or uint8, 0 or 1.

    Raises:
        ImportError: If ``pycocotools`` is missing.
    """
    if len(masks) == 0:
        return []
    columns_first = np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8)
    return [
        {"size": rle["size"], "counts": rle["counts"].decode()}
        for rle in mask_codec().encode(columns_first)
    ]


def mask_codec() -> Any:
    r"""``pycocotools.mask``.

    Raises:
        ImportError: If it's missing.
    """
    try:
        return import_module("pycocotools.mask")
    except ImportError as error:
        raise ImportError("COCO's masks need pycocotools: pip install 'dyngraph[eval]'") from error


def is_number(value: Any) -> bool:
    r"""Whether a value from a JSON file is a finite number that fits into a float32."""
    # Python's JSON has NaN, infinity and integers of any size.
    return type(value) in (int, float) and -3e38 < value < 3e38


def shorten(value: Any) -> str:
    r"""A value, which may be large, for an error message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _check_polygons(polygons: list[Any], height: int, width: int) -> None:
    if not polygons:
        raise ValueError("segmentation: expected at least one polygon, got none")
    for polygon in polygons:
        # pycocotools would take four numbers for a box.
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            count = len(polygon) if isinstance(polygon, list) else shorten(polygon)
            raise ValueError(
                "segmentation: expected polygons of at least three points, an even number of "
                f"coordinates, got {count}"
            )
        for values, side, name in [(polygon[::2], width, "x"), (polygon[1::2], height, "y")]:
            for value in values:
                if not is_number(value) or not -side <= value <= 2 * side:
                    raise ValueError(
                        f"segmentation: expected {name} in or near the image, "
                        f"{-side}..{2 * side}, got {shorten(value)}"
                    )


def _runs(counts: Any) -> np.ndarray:
    """The lengths of runs, int64."""
    if isinstance(counts, list):
        if not all(type(count) is int and 0 <= count < 2**31 for count in counts):
            raise ValueError(f"segmentation: expected lengths of runs, got {shorten(counts)}")
        return np.array(counts, dtype=np.int64)
    if not isinstance(counts, str):
        raise ValueError(f"segmentation: expected counts as list or string, got {shorten(counts)}")
    return _decompress(counts)


def _decompress(counts: str) -> np.ndarray:
    r"""The runs of a compressed string.

    Characters from "0" on carry six bits: five of a number, lowest bits first, and whether more
    follow. Numbers are in two's complement. From the fourth on, they are differences from the
    previous run of the same value.
    """
    broken = ValueError(f"segmentation: expected compressed runs, got {shorten(counts)}")
    try:
        codes = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise broken from error
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise broken
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS:
        raise broken
    places = np.arange(len(codes)) - starts.repeat(lengths)
    values = np.add.reduceat((codes & 31) << (5 * places), starts)
    values -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    if values.min() < 0:
        raise broken
    return values

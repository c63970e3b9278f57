"""The annotation files of COCO, read and checked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dyngraph.data.coco_masks import is_number, shorten

# JPEG has no more rows and columns, and areas fit in 32 bits.
_MAX_SIDE = 65535


def read_image_info(path: Path) -> dict[str, Any]:
    r"""Reads an untrusted file of images, with or without annotations.

    Returns:
        The file's content, with ``"images"`` and ``"categories"``.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it isn't JSON or an entry is broken. The error names file and entry.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected COCO's annotations, got {shorten(content)}")
    _check_entries(path, content, "images", _check_image)
    _check_entries(path, content, "categories", _check_category)
    names = Counter(category["name"] for category in content["categories"])
    if repeated := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"{path}: expected one category of each name, got {repeated[0]!r} again")
    return content


def read_instances(path: Path) -> dict[str, Any]:
    r"""Reads an untrusted annotation file of object instances.

    Everything is checked except segmentations, since checking takes as long as decoding them.

    Returns:
        The file's content, with ``"images"``, ``"categories"`` and ``"annotations"``.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it isn't JSON or an entry is broken. The error names file and entry.
    """
    content = read_image_info(path)
    image_ids, category_ids = (
        {entry["id"] for entry in content[kind]} for kind in ("images", "categories")
    )

    def check_annotation(annotation: dict[str, Any]) -> None:
        _check_annotation(annotation)
        for field, ids in [("image_id", image_ids), ("category_id", category_ids)]:
            if annotation[field] not in ids:
                raise ValueError(f"{field}: expected one that is listed, got {annotation[field]}")

    _check_entries(path, content, "annotations", check_annotation)
    return content


def read_json(path: Path) -> Any:
    r"""The content of a JSON file.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it isn't JSON. The error names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected the file {path}, which is missing")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from error


def is_id(value: Any) -> bool:
    r"""Whether a value from a JSON file can be an id: a whole number."""
    return type(value) is int and 0 <= value < 2**63


def check_box(box: Any) -> None:
    r"""Checks a box ``[x, y, width, height]`` from a JSON file.

    Raises:
        ValueError: If it's anything else, or has a negative size.
    """
    is_box = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
    if not is_box or min(box[2:]) < 0:
        raise ValueError(f"bbox: expected [x, y, width, height], got {shorten(box)}")


def _check_entries(
    path: Path, content: dict[str, Any], kind: str, check: Callable[[dict[str, Any]], None]
) -> None:
    """Checks a list of the file."""
    entries = content.get(kind)
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of {kind}, got {shorten(entries)}")
    ids: set[int] = set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_id(entry.get("id")):
            raise ValueError(f"{path}: {kind}[{number}]: expected an id, got {shorten(entry)}")
        if entry["id"] in ids:
            raise ValueError(f"{path}: {kind}[{number}]: expected a new id, got {entry['id']}")
        ids.add(entry["id"])
        try:
            check(entry)
        except KeyError as error:
            raise ValueError(f"{path}: {kind}, id {entry['id']}: expected {error}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {kind}, id {entry['id']}: {error}") from error


def _check_image(image: dict[str, Any]) -> None:
    name = image["file_name"]
    # An untrusted list must not lead out of the folder.
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise ValueError(f"file_name: expected the name of a file, got {shorten(name)}")
    for side in (image["height"], image["width"]):
        if type(side) is not int or not 0 < side <= _MAX_SIDE:
            raise ValueError(f"expected height and width 1..{_MAX_SIDE}, got {shorten(side)}")


def _check_category(category: dict[str, Any]) -> None:
    if not isinstance(category["name"], str):
        raise ValueError(f"name: expected a string, got {shorten(category['name'])}")


def _check_annotation(annotation: dict[str, Any]) -> None:
    if annotation["id"] == 0:
        # COCO's code takes a match with object 0 for no match.
        raise ValueError("id: expected a positive number, got 0")
    for field in ("image_id", "category_id"):
        if not is_id(annotation[field]):
            raise ValueError(f"{field}: expected an id, got {shorten(annotation[field])}")
    check_box(annotation["bbox"])
    if not is_number(annotation["area"]) or annotation["area"] < 0:
        raise ValueError(f"area: expected pixels, got {shorten(annotation['area'])}")
    if annotation["iscrowd"] not in (0, 1):
        raise ValueError(f"iscrowd: expected 0 or 1, got {shorten(annotation['iscrowd'])}")
    annotation["segmentation"]  # Its content is checked when it's decoded.

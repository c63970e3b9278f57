"""Configuration files that inherit from others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 50
_MAX_VALUES = 10_000


def read_config(path: str | Path) -> dict[str, Any]:
    r"""Reads a YAML file, and the file that it inherits from first.

    ``inherit: base.yaml``, relative to the file, takes all settings of another file. Settings of
        this one replace them one by one; but where it names another ``class_path``, the arguments
        of the inherited class are dropped.

    Raises:
        OSError: If a file is missing or cannot be read.
        ValueError: If a file is no YAML mapping, inherits from itself, or is larger than any
            configuration: more than 1 MB, more than 10,000 values with aliases written out, or
            nested deeper than 50.
    """
    return _read(Path(path), ())


def _read(path: Path, heirs: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in heirs:
        raise ValueError(f"{path}: inherits from itself")
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1).decode()
        _check_size(path, text)
        config = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, got {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a mapping, got {type(config).__name__}")
    parent = config.pop("inherit", None)
    if parent is None:
        return config
    if not isinstance(parent, str) or "\0" in parent:
        raise ValueError(f"{path}: inherit: expected the path of a file, got {parent!r}")
    try:
        base = _read(path.parent / parent, (*heirs, path.resolve()))
    except OSError as error:
        raise type(error)(f"{path}: inherit: {error}") from error
    return _merge(base, config)


def _check_size(path: Path, text: str) -> None:
    """Before anything is built: a few aliases can stand for billions of values."""
    if len(text) > _MAX_BYTES:
        raise ValueError(f"{path}: expected at most {_MAX_BYTES} bytes")
    sizes: dict[str, int] = {}
    # The anchor of each open collection and its values so far; the first is the whole file.
    opened: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, 0))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, inside = opened.pop()
            size = inside + 1
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            # An alias of a collection that is still open would be inside itself.
            if any(anchor == event.anchor for anchor, _ in opened):
                raise ValueError(f"{path}: *{event.anchor}: expected no value inside itself")
            size = sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        anchor, inside = opened[-1]
        opened[-1] = anchor, inside + size
        if inside + size > _MAX_VALUES:
            raise ValueError(f"{path}: expected at most {_MAX_VALUES} values, aliases written out")
        if len(opened) - 1 > _MAX_DEPTH:
            raise ValueError(f"{path}: expected values nested at most {_MAX_DEPTH} deep")


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    if "class_path" in changes and changes["class_path"] != base.get("class_path"):
        return changes
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged

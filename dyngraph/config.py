"""Configuration files that inherit from others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def read_config(path: str | Path) -> dict[str, Any]:
    r"""Reads a YAML file, and the file that it inherits from first.

    ``inherit: base.yaml``, relative to the file, takes all settings of another file. Settings of
    this one replace them one by one; but where it names another ``class_path``, the arguments of
    the former class are dropped.

    Raises:
        OSError: If a file is missing or cannot be read.
        ValueError: If a file is no YAML mapping, or inherits from itself.
    """
    return _read(Path(path), ())


def _read(path: Path, heirs: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in heirs:
        raise ValueError(f"{path}: inherits from itself")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, got {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a mapping, got {type(config).__name__}")
    parent = config.pop("inherit", None)
    if parent is None:
        return config
    if not isinstance(parent, str):
        raise ValueError(f"{path}: inherit: expected the path of a file, got {parent!r}")
    return _merge(_read(path.parent / parent, (*heirs, path.resolve())), config)


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

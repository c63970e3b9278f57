"""Generated data sets on disk: written file by file, and completed after an interruption."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from dyngraph.data.files import naming

MARKER = "scenes.json"
"""The name of the file with the parameters of a generated set."""

_MAX_SCENES = 1_000_000


def write_scenes(
    root: str | Path,
    counts: Mapping[str, int],
    parameters: Mapping[str, Any],
    paths: Callable[[str, int], Sequence[Path]],
    draw: Callable[[str, int], Sequence[Image.Image]],
    texts: Mapping[str, Callable[[], str]],
    progress: bool,
) -> None:
    r"""Writes a set of scenes, each a function of its split and number.

    If the set is already there, it returns at once; an interrupted set is completed.

    Args:
        root: The folder to write, made if it's missing.
        counts: The number of scenes of each split.
        parameters: What the files depend on besides ``counts``, in types of JSON.
        paths: The image of a scene and its label, if it has one, relative to ``root``, by split and
            number. ``.jpg`` files are written as JPEG, others as PNG.
        draw: The pictures to write there, by split and number.
        texts: Functions that return the content of text files, by path relative to ``root``. Called
            when all scenes are there.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a number of scenes is out of range, or ``root`` holds scenes with other
            parameters or another data set.
    """
    root = Path(root)
    for split, count in counts.items():
        if not 0 <= count <= _MAX_SCENES:
            raise ValueError(f"num_{split}: expected 0..{_MAX_SCENES}, got {count}")
    parameters = {**{f"num_{split}": count for split, count in counts.items()}, **parameters}
    if _is_finished(root, parameters, foreign=[*paths("train", 0), *map(Path, texts)]):
        return

    root.mkdir(parents=True, exist_ok=True)
    # Half-written files stay out of the folders in which the data set looks for images.
    with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as folder:
        scratch = Path(folder)
        _write_marker(root, parameters, scratch, finished=False)
        scenes = [(split, number) for split, count in counts.items() for number in range(count)]
        for split, number in tqdm(
            scenes, desc="scenes", unit="image", disable=not progress or None
        ):
            scene = [root / path for path in paths(split, number)]
            if all(path.exists() for path in scene):
                continue
            # The label comes first: an image that is there can be read with its label.
            for path, picture in reversed([*zip(scene, draw(split, number), strict=True)]):
                _write(path, _encode(picture, path), scratch)
        # A list comes last, when what it names is there.
        for name, text in texts.items():
            _write(root / name, text().encode(), scratch)
        _write_marker(root, parameters, scratch, finished=True)


def _is_finished(root: Path, parameters: Mapping[str, Any], foreign: list[Path]) -> bool:
    """Whether the set is there. Raises an error if another set or anything else is in its place."""
    marker_path = root / MARKER
    if not marker_path.exists():
        for path in foreign:
            name = path.parts[0]
            if (root / name).exists():
                raise ValueError(f"root: expected a new folder, got {root} with {name} in it")
        return False
    try:
        marker = json.loads(marker_path.read_text())
        found, finished = marker["parameters"], marker["finished"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"root: expected the parameters of scenes in {marker_path}") from error
    if found != parameters:
        raise ValueError(f"root: expected scenes of {parameters}, got {found} in {root}")
    return bool(finished)


def _write_marker(root: Path, parameters: Mapping[str, Any], scratch: Path, finished: bool) -> None:
    marker = {"finished": finished, "parameters": parameters}
    _write(root / MARKER, json.dumps(marker, indent=2).encode(), scratch)


def _write(path: Path, content: bytes, scratch: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = scratch / path.name
    with naming(path):
        partial.write_bytes(content)
        os.replace(partial, path)


def _encode(picture: Image.Image, path: Path) -> bytes:
    content = io.BytesIO()
    if path.suffix == ".jpg":
        picture.save(content, format="JPEG", quality=95)
    else:
        picture.save(content, format="PNG")
    return content.getvalue()

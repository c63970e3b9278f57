"""Text files with a name a line: of classes, or of images."""

from __future__ import annotations

from pathlib import Path


def read_names(path: Path) -> tuple[str, ...]:
    r"""The names in a UTF-8 text file, without the space around them.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it isn't UTF-8, has no name, has a line without a name before its last name,
            or has a name twice.
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
        raise ValueError(f"{path}: expected a name a line, got none")
    return tuple(names)

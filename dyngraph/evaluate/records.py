"""Records of which model and which image a prediction comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from dyngraph.data.files import write_file


def file_digest(path: str | Path) -> str:
    r"""The SHA-256 digest of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Records:
    r"""Files that say what others were made from, so that those are made anew when it changes.
    There is one per image, ``….json``: the digests of the model and of the image, and a digest of
    all settings. It is written after the files that it is about, and removed before them.

    Args:
        folder: Their folder.
        model_digest: Identifies the model, such as the digest of its checkpoint. None: nothing is
            recorded and everything is made anew.
        settings: What the files depend on besides model and image, compared by ``repr``.
    """

    def __init__(self, folder: Path, model_digest: str | None, *settings: object) -> None:
        self.folder = folder
        self.model_digest = model_digest
        self.settings_digest = hashlib.sha256(repr(settings).encode()).hexdigest()

    def start(self, name: str | Path, image: Path, outputs: Iterable[Path]) -> bool:
        r"""Whether the files of an image have to be made. If so, removes their old record.

        Args:
            name: The name of the record, without its suffix.
            image: The image.
            outputs: Its files.
        """
        path = self._path(name)
        if (
            self.model_digest is not None
            and all(output.exists() for output in outputs)
            and path.exists()
            and self._is_of(path, image)
        ):
            return False
        path.unlink(missing_ok=True)
        return True

    def finish(self, name: str | Path, image: Path) -> None:
        r"""Writes the record of an image whose files have been written."""
        if self.model_digest is not None:
            write_file(self._path(name), self._content(image))

    def _is_of(self, path: Path, image: Path) -> bool:
        try:
            return path.read_bytes() == self._content(image)
        except OSError:
            # The next to read the image can say what is wrong with it.
            return False

    def _path(self, name: str | Path) -> Path:
        return self.folder / f"{name}.json"

    def _content(self, image: Path) -> bytes:
        record = {
            "model": self.model_digest,
            "image": file_digest(image),
            "settings": self.settings_digest,
        }
        return json.dumps(record).encode()

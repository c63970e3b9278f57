"""Images that cannot be read, among others that can."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

OnUnreadable = Callable[[OSError | ValueError], None]
r"""What is called with the error of an image that cannot be read; it names the file."""


def read_or_skip(
    read: Callable[[], Tensor], outputs: Iterable[Path], on_unreadable: OnUnreadable | None
) -> Tensor | None:
    r"""Reads an image, or skips it.

    Args:
        read: Reads the image.
        outputs: The files that are made of it. Of a skipped image, former ones are removed.
        on_unreadable: Called with the error, if the image cannot be read. Defaults to raising it.

    Returns:
        The image, ``[3, H, W]``, uint8, or None if it cannot be read.

    Raises:
        OSError: If it cannot be read, and there is no ``on_unreadable``.
        ValueError: If it is of another kind or size than expected, likewise.
    """
    try:
        return read()
    except (OSError, ValueError) as error:
        if on_unreadable is None:
            raise
        for output in outputs:
            output.unlink(missing_ok=True)
        on_unreadable(error)
        return None

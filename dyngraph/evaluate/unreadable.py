"""Skipping images that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

OnUnreadable = Callable[[OSError | ValueError], None]
r"""Called with the error of an image that cannot be read; the error names the file."""


def read_or_skip(
    read: Callable[[], Tensor], outputs: Iterable[Path], on_unreadable: OnUnreadable | None
) -> Tensor | None:
    r"""Reads an image, or skips it.

    Args:
        read: Reads the image.
        outputs: The files made from it. Those of a skipped image are removed.
        on_unreadable: Called with the error, if the image cannot be read. Defaults to raising it.

    Returns:
        The image, ``[3, H, W]``, uint8, or None if it cannot be read.

    Raises:
        OSError: If it cannot be read, and there is no ``on_unreadable``.
        ValueError: Likewise, if it has another format or size than expected.
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

"""One run at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dyngraph.data.files import naming

LOCK = ".lock"


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    r"""Keeps a folder for this process's run, as long as the process lives.

    The system frees it, however the process ends. In a distributed run, the first process keeps it
    for all. The locked file, ``.lock``, stays and means nothing by itself.

    Raises:
        BlockingIOError: If the run of another process has it. The error names that process.
        OSError: If the file cannot be written.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        yield
        return
    path = Path(folder, LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+", buffering=0) as file:
        try:
            # Data-loading processes would inherit locks of flock.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            process = file.read().decode()
            raise BlockingIOError(
                f"{folder}: process {process} is training here: wait until it ends, or choose "
                "another folder"
            ) from error
        with naming(path):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield

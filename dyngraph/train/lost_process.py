"""Processes of a run that end before it does: those that load data, and those that train."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed

_LOADS_DATA = re.compile(r"DataLoader worker \(pid.*?\) (is killed|exited)")
_TRAINS = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset) by peer")


@contextmanager
def name_lost_processes(checkpoint: Path) -> Iterator[None]:
    r"""Says that a process is lost where PyTorch speaks of its own insides.

    Args:
        checkpoint: The last checkpoint, which may be missing.

    Raises:
        ChildProcessError: If a process that loads data has ended.
        ConnectionError: If another process of a distributed run has.
    """
    try:
        yield
    except RuntimeError as error:
        rest = f"the last checkpoint is {checkpoint}"
        if not checkpoint.exists():
            rest = "there is no checkpoint yet"
        if _LOADS_DATA.search(str(error)):
            raise ChildProcessError(
                f"a process that loads data was lost, often for want of memory; {rest} ({error})"
            ) from error
        if distributed.is_initialized() and _TRAINS.search(str(error)):
            raise ConnectionError(
                f"another process of this run was lost; {rest} ({error})"
            ) from error
        raise

"""Processes that die during a run: those that load data, and those that train."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed
from torch.multiprocessing import reductions

_LOADS_DATA = re.compile(r"DataLoader worker \(pid.*?\) (is killed|exited)")
_TRAINS = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset) by peer")


@contextmanager
def name_lost_processes(checkpoint: Path) -> Iterator[None]:
    r"""Raises errors that say which process died, instead of PyTorch's internal ones.

    Args:
        checkpoint: The last checkpoint, which may be missing.

    Raises:
        ChildProcessError: If a data-loading process has died.
        ConnectionError: If another process of a distributed run has died.
    """
    try:
        yield
    except (EOFError, OSError, RuntimeError) as error:
        rest = f"the last checkpoint is {checkpoint}"
        if not checkpoint.exists():
            rest = "there is no checkpoint yet"
        if _LOADS_DATA.search(str(error)) or _came_with_a_batch(error):
            raise ChildProcessError(
                f"a process that loads data was lost, often for want of memory; {rest} ({error})"
            ) from error
        in_training = isinstance(error, RuntimeError) and distributed.is_initialized()
        if in_training and _TRAINS.search(str(error)):
            raise ConnectionError(
                f"another process of this run was lost; {rest} ({error})"
            ) from error
        raise


def _came_with_a_batch(error: BaseException) -> bool:
    """Whether it was raised when asking the process that loaded a batch for its memory.
    Whether this error comes first, or PyTorch's at the end of a process, is a race.
    """
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == reductions.__name__ for frame, _ in frames)

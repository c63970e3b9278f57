"""How much time and memory a run will take."""

from __future__ import annotations

import resource
import sys
import time
from datetime import timedelta
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

_WARM_UP = 3
_MEASURED = 7


class Estimate(lightning.Callback):
    r"""Says after a few iterations how much time and memory all of them will take."""

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        self._first = trainer.global_step + _WARM_UP

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        step = trainer.global_step
        if step == self._first:
            self._start = time.perf_counter()
        elif step == self._first + _MEASURED:
            seconds = (time.perf_counter() - self._start) / _MEASURED
            rest = timedelta(seconds=round(seconds * (trainer.max_steps - step)))
            rank_zero_info(
                f"An iteration takes {seconds:.2f} s, the remaining "
                f"{trainer.max_steps - step} about {rest} without validation; "
                f"memory: {_peak_gigabytes(trainer.strategy.root_device):.1f} GB per process"
            )


def _peak_gigabytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    # In KiB, except on macOS, where it is in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9

"""Signals that end a run: it saves a checkpoint first."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    r"""Raised by :func:`~dyngraph.train.fit` after a signal, once a checkpoint is saved.

    Uncaught, it ends the process with the exit status of shells, 128 plus the signal's number.

    Args:
        number: The signal's number.
        checkpoint: The checkpoint.
    """

    def __init__(self, number: int, checkpoint: Path) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        return f"{self.signal.name}: saved {self.checkpoint}"


class StopAtSignals(lightning.Callback):
    r"""On SIGINT or SIGTERM, saves a checkpoint after the current iteration and ends the run.
    A second signal has its usual effect. After the last iteration, which is saved, the first ends
    the run at once. It is a context manager, outside of which signals work as before.

    Args:
        path: The checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._received = 0
        self._at_once = False
        self._process = os.getpid()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopAtSignals:
        # Python allows handlers only in the main thread.
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.getsignal(number) for number in _SIGNALS}
            self._listen()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def on_train_start(self, *args: Any) -> None:
        # Lightning has replaced our handler by its own, which ends the process with 0.
        self._listen()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        task: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        # All processes stop at the same iteration, whichever got the signal.
        if trainer.strategy.reduce_boolean_decision(bool(self._received), all=False):
            trainer.save_checkpoint(self.path, weights_only=False)
            raise Interrupted(self._received or signal.SIGTERM, self.path)

    def on_validation_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        # After the last iteration, which is saved.
        if trainer.state.fn == "validate":
            self._at_once = True
            if self._received:
                raise Interrupted(self._received, self.path)
            self._listen()

    def _listen(self) -> None:
        if not self._received:
            for number in self._former:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            self._received = number
            self.__exit__()
            if self._at_once:
                raise Interrupted(number, self.path)
        elif number == signal.SIGTERM:
            # A data-loading process inherits the handler, but a signal should end it.
            os._exit(128 + number)

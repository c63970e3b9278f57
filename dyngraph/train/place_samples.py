"""Places samples during a training run."""

from __future__ import annotations

from typing import Any

import lightning

from dyngraph.nn import SampleSearch


class PlaceSamples(lightning.Callback):
    r"""Places the samples of RepGraph's layers where they are needed, once, early in the training.

    See :class:`~dyngraph.nn.SampleSearch`, which it runs. Interrupted and resumed, a run goes on as
    if it had never stopped; one of several processes, with what the first of them had found. From
    the command line: ``--trainer.callbacks+=dyngraph.train.PlaceSamples``.

    Args:
        since: When the search begins, as a share of all iterations.
        at: When it ends and samples are placed.

    Raises:
        ValueError: If it is not 0 <= ``since`` < ``at`` < 1; and when the run starts, if the model
            has no layer whose samples could be placed.
    """

    def __init__(self, since: float = 0.15, at: float = 0.25) -> None:
        if not 0 <= since < at < 1:
            raise ValueError(f"since, at: expected 0 <= since < at < 1, got {since} and {at}")
        self.since = since
        self.at = at
        self._search: SampleSearch | None = None
        self._sums: dict[str, Any] | None = None
        self._placed = False

    def on_train_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        # A model without samples is an error now, not after a part of the training.
        SampleSearch(task).stop()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, *args: Any
    ) -> None:
        share = trainer.global_step / trainer.estimated_stepping_batches
        if self._placed or share < self.since:
            return
        if self._search is None:
            self._search = SampleSearch(task)
            # The sums of a checkpoint are those of the first process.
            if self._sums is not None and trainer.is_global_zero:
                self._search.load_state_dict(self._sums)
        elif share >= self.at:
            self._search.place()
            self._search, self._sums, self._placed = None, None, True

    def on_train_end(self, *args: Any) -> None:
        if self._search is not None:
            self._search.stop()

    def state_dict(self) -> dict[str, Any]:
        sums = self._sums if self._search is None else self._search.state_dict()
        return {"placed": self._placed, "sums": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._placed, self._sums = state["placed"], state["sums"]

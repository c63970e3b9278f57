"""What all tasks share: randomness that a resumed run repeats."""

from __future__ import annotations

from typing import Any

import lightning
import torch


class SeededTask(lightning.LightningModule):
    r"""A task in which whatever is random in iteration t is a function of ``seed`` and t alone.

    A resumed run then goes on exactly as if it had never stopped.

    Args:
        seed: What all randomness is derived from.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        world_size = self.trainer.world_size
        torch.manual_seed(self.seed + batch_idx * world_size + self.global_rank)

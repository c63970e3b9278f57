"""What all tasks share: randomness that a resumed run repeats, the optimiser, its schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from dyngraph.checks import check_at_least
from dyngraph.train.optimizer import OptimizerOption, check_optimizer, make_optimizer


class SeededTask(lightning.LightningModule, ABC):
    r"""A task in which whatever is random in iteration t is a function of ``seed`` and t alone.

    So is the learning rate. A resumed run then continues exactly as if it had never stopped. If the
    optimiser's settings have changed, a resumed run takes the new ones, and keeps the optimiser's
    state; but with a ``scheduler``, all stay as they were.

    Args:
        model: The model to train.
        lr: The learning rate.
        optimizer: ``"sgd"``, ``"adamw"``, or a function that makes an optimiser for groups of
            parameters, such as ``functools.partial(torch.optim.RAdam, betas=(0.9, 0.99))``.
        momentum: The momentum of ``"sgd"``.
        weight_decay: The optimiser's weight decay, see :func:`parameter_groups`.
        scheduler: A function that makes a schedule, stepped every iteration, of an optimiser.
            Defaults to :meth:`share_of_lr`.
        seed: The seed of all randomness.

    Raises:
        ValueError: If ``optimizer`` is unknown or ``weight_decay`` is negative.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        optimizer: OptimizerOption,
        momentum: float,
        weight_decay: float,
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.lr = lr
        self.optimizer = check_optimizer(optimizer)
        self.scheduler = scheduler
        self.momentum = momentum
        check_at_least(0, weight_decay=weight_decay)
        self.weight_decay = weight_decay
        self.seed = seed

    @abstractmethod
    def share_of_lr(self, step: int) -> float:
        r"""The learning rate of an iteration as a multiple of ``lr``."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self._new_optimizer()
        make_schedule = self.scheduler or (lambda made: LambdaLR(made, self.share_of_lr))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": make_schedule(optimizer), "interval": "step"},
        }

    def on_train_start(self) -> None:
        # Besides the optimiser's state, a checkpoint brings the settings of the run so far.
        if self.scheduler is not None:
            return
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        groups, fresh = schedule.optimizer.param_groups, self._new_optimizer().param_groups
        for group, settings in zip(groups, fresh, strict=True):
            group.update({name: settings[name] for name in settings if name != "params"})
            group["initial_lr"] = self.lr
            group["lr"] = self.lr * self.share_of_lr(schedule.last_epoch)
        schedule.base_lrs = [self.lr for _ in groups]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        world_size = self.trainer.world_size
        torch.manual_seed(self.seed + batch_idx * world_size + self.global_rank)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return make_optimizer(
            self.optimizer,
            self.model,
            self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

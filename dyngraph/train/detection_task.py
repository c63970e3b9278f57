"""Training and scoring a detector."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim.lr_scheduler import LRScheduler

from dyngraph.checks import check_at_least
from dyngraph.evaluate.coco import detections_to_coco, judge_detections
from dyngraph.train.optimizer import OptimizerOption
from dyngraph.train.seeded_task import SeededTask

Batch = tuple[list[Tensor], list[dict[str, Any]]]


class DetectionTask(SeededTask):
    r"""A detector with its losses, optimiser, learning rate schedule and COCO's scores.

    The learning rate grows linearly from ``warmup_factor`` times
    ``lr`` to ``lr``, and is divided by ten at each of ``decay_steps``. By default it is the "1x"
    schedule, for 16 images per iteration and 90,000 iterations. Whatever is random in iteration t
    (which proposals are trained on) is a function of ``seed`` and t alone, so a resumed run
    continues exactly as if it had never stopped.

    Args:
        model: From images and targets to losses while training, and otherwise from images to
            detections, as :func:`~dyngraph.models.mask_rcnn`.
        annotation_path: COCO's JSON file of the validation images.
        category_ids: COCO's number for each of the labels 1, 2, ….
        lr: The learning rate.
        optimizer: ``"sgd"``, as in RepGraph and DGMN, ``"adamw"``, as in DGMN2 (without pretrained
            weights, a network learns faster with it), or a function that makes an optimiser for
            groups of parameters.
        momentum: The momentum of stochastic gradient descent.
        weight_decay: The optimiser's weight decay, see :func:`parameter_groups`.
        warmup_steps: The iterations in which the learning rate grows.
        warmup_factor: Its share at the start.
        decay_steps: The iterations at which it is divided by ten.
        scheduler: Another schedule, stepped every iteration, as a function of an optimiser, such as
            ``partial(CosineAnnealingLR, T_max=40_000)``.
        seed: The seed of all randomness.

    Raises:
        ValueError: If ``optimizer`` is unknown, or ``weight_decay`` or a number of the schedule is
            negative.
    """

    def __init__(
        self,
        model: nn.Module,
        annotation_path: str | Path,
        category_ids: Sequence[int],
        *,
        lr: float = 0.02,
        optimizer: OptimizerOption = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        warmup_steps: int = 500,
        warmup_factor: float = 1 / 3,
        decay_steps: tuple[int, ...] = (60_000, 80_000),
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            model,
            lr=lr,
            optimizer=optimizer,
            momentum=momentum,
            weight_decay=weight_decay,
            scheduler=scheduler,
            seed=seed,
        )
        check_at_least(0, warmup_steps=warmup_steps, warmup_factor=warmup_factor)
        for step in decay_steps:
            check_at_least(0, decay_steps=step)
        self.annotation_path = annotation_path
        self.category_ids = category_ids
        self.warmup_steps = warmup_steps
        self.warmup_factor = warmup_factor
        self.decay_steps = sorted(decay_steps)
        self._image_ids: list[int] = []
        self._detections: list[dict[str, Any]] = []

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        r"""The detections of each image ``[3, H, W]``."""
        return self.model(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        losses = self.model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(images))
        self.log_dict(
            {name: part.detach() for name, part in losses.items()}, batch_size=len(images)
        )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        for target, detected in zip(targets, self(images), strict=True):
            image_id = int(target["image_id"])
            self._image_ids.append(image_id)
            self._detections += detections_to_coco(image_id, detected, self.category_ids)

    def on_validation_epoch_end(self) -> None:
        image_ids, detections = _gather(self._image_ids), _gather(self._detections)
        scores: dict[str, float] = {}
        if self.trainer.is_global_zero:
            scores = judge_detections(detections, self.annotation_path, image_ids=image_ids)
        scores = self.trainer.strategy.broadcast(scores)
        for name, score in scores.items():
            self.log(name, score, prog_bar=name in ("box_ap", "mask_ap"))
        self._image_ids, self._detections = [], []

    def share_of_lr(self, step: int) -> float:
        grown = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        warmup = self.warmup_factor + (1 - self.warmup_factor) * grown
        return warmup * 0.1 ** bisect_right(self.decay_steps, step)


def _gather(items: list[Any]) -> list[Any]:
    """The items of all processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return items
    parts: list[list[Any]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, items)
    return list(chain(*parts))

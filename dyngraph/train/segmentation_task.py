"""Training and scoring a segmenter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassConfusionMatrix

from dyngraph.checks import check_at_least
from dyngraph.data.labels import IGNORE
from dyngraph.evaluate.inference import Inference
from dyngraph.evaluate.segmentation import class_iou, mean_iou, pixel_accuracy
from dyngraph.train.loss import ignore_easy_pixels, segmentation_loss
from dyngraph.train.optimizer import OptimizerOption
from dyngraph.train.seeded_task import SeededTask


class SegmentationTask(SeededTask):
    r"""A segmenter with its loss, optimiser, learning rate schedule and scores.

    The learning rate is :math:`\eta (1 - t / T)^{0.9}` at iteration t of T. Whatever is random in
    iteration t (dropout) is a function of ``seed`` and t alone, so a resumed run continues exactly
    as if it had never stopped.

    Args:
        model: From images ``[B, 3, H, W]`` to ``{"out": scores [B, C, H, W]}``, and ``"aux"`` while
            training, if it has an auxiliary head.
        num_classes: C.
        lr: The learning rate η at the start.
        optimizer: ``"sgd"``, as in RepGraph and DGMN, ``"adamw"``, as in DGMN2, or a function that
            makes an optimiser for groups of parameters.
        momentum: The momentum of stochastic gradient descent.
        weight_decay: The optimiser's weight decay, see :func:`parameter_groups`.
        aux_weight: The weight of the auxiliary loss.
        ohem_threshold: The largest probability of pixels that count in the loss, see
            :func:`ignore_easy_pixels`. 1: all pixels count, no OHEM. The auxiliary loss has none.
        ohem_min_kept: The least number of pixels of a batch, on each process, that OHEM keeps.
        inference: How the network sees validation images. Defaults to once, as they are.
        object_classes: Classes whose mean IoU is logged too, as ``object_iou``.
        class_names: The names of the classes, whose IoUs are then logged as ``iou/<name>``.
        scheduler: Another schedule, stepped every iteration, as a function of an optimiser, such as
            ``partial(CosineAnnealingLR, T_max=40_000)``.
        seed: The seed of all randomness.

    Raises:
        ValueError: If ``optimizer`` is unknown, ``ohem_threshold`` is not in (0, 1],
            ``weight_decay``, ``aux_weight`` or ``ohem_min_kept`` is negative, or an object class
            does not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int = 19,
        *,
        lr: float = 0.01,
        optimizer: OptimizerOption = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        aux_weight: float = 0.4,
        ohem_threshold: float = 1.0,
        ohem_min_kept: int = 100_000,
        inference: Inference | None = None,
        object_classes: list[int] | None = None,
        class_names: list[str] | None = None,
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
        self.aux_weight = aux_weight
        if not 0 < ohem_threshold <= 1:
            raise ValueError(f"ohem_threshold: expected 0 < threshold <= 1, got {ohem_threshold}")
        check_at_least(0, aux_weight=aux_weight, ohem_min_kept=ohem_min_kept)
        for number in object_classes or ():
            if not 0 <= number < num_classes:
                raise ValueError(
                    f"object_classes: expected classes 0..{num_classes - 1}, got {number}"
                )
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        self.inference = inference
        self.object_classes = object_classes
        self.class_names = class_names
        self.confusion = MulticlassConfusionMatrix(
            num_classes, ignore_index=IGNORE, validate_args=False
        )

    def forward(self, image: Tensor) -> Tensor:
        r"""The scores of every class, ``[B, C, H, W]``."""
        return self.model(image)["out"]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        image, label = batch
        scores = self.model(image)
        hard = label
        if self.ohem_threshold < 1:
            hard = ignore_easy_pixels(scores["out"], label, self.ohem_threshold, self.ohem_min_kept)
        loss = self._loss(scores["out"], hard)
        if "aux" in scores:
            loss = loss + self.aux_weight * self._loss(scores["aux"], label)
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def _loss(self, scores: Tensor, label: Tensor) -> Tensor:
        num_pixels = (label != IGNORE).sum()
        if distributed.is_available() and distributed.is_initialized():
            # The average of the processes' gradients is then that of the whole batch.
            distributed.all_reduce(num_pixels)
            num_pixels = num_pixels / distributed.get_world_size()
        return segmentation_loss(scores, label, num_pixels=num_pixels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        image, label = batch
        scores = self(image) if self.inference is None else self.inference(self, image)
        self.confusion.update(scores.argmax(dim=1), label)

    def on_validation_epoch_end(self) -> None:
        confusion = self.confusion.compute()
        self.log("miou", mean_iou(confusion), prog_bar=True)
        self.log("pixel_accuracy", pixel_accuracy(confusion))
        if self.object_classes is not None:
            self.log("object_iou", mean_iou(confusion, self.object_classes), prog_bar=True)
        if self.class_names is not None:
            ious = zip(self.class_names, class_iou(confusion).float(), strict=True)
            self.log_dict({f"iou/{name}": iou for name, iou in ious})
        self.confusion.reset()

    def share_of_lr(self, step: int) -> float:
        return (1 - step / self.trainer.estimated_stepping_batches) ** 0.9

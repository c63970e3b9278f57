"""One training run, from the first iteration to the last, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from dyngraph.train.checkpoint import CheckpointFiles, load_weights
from dyngraph.train.estimate import Estimate

CHECKPOINT = "last.ckpt"

# Where Lightning has the iteration from.
_STEP = "step"


class LogScores(lightning.Callback):
    r"""Has scores logged at the number of iterations before them, and written at once.

    Lightning counts one less, except after the last iteration.
    """

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, task: lightning.LightningModule
    ) -> None:
        task.log(_STEP, float(trainer.global_step))

    def on_validation_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        for logger in trainer.loggers:
            logger.save()


class SaveAtTheEnd(lightning.Callback):
    r"""Saves a checkpoint after the last iteration, whatever the interval of the others."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            trainer.save_checkpoint(self.path, weights_only=False)


def fit(
    task: lightning.LightningModule,
    data: lightning.LightningDataModule,
    folder: str | Path,
    max_steps: int,
    resume: bool = False,
    checkpoint_every: int = 500,
    validate_every: int | None = None,
    callbacks: Sequence[lightning.Callback] = (),
    plugins: Sequence[Any] = (),
    **trainer_options: Any,
) -> dict[str, float]:
    r"""Trains ``task`` and returns its scores on the validation images.

    Logs go to ``folder`` for TensorBoard and as CSV: ``csv/metrics.csv``, and ``csv-N`` for the
    part of a run that was resumed at iteration N, which :func:`read_log` reads. They have the
    scores of every validation. ``last.ckpt`` there is replaced as a whole every
    ``checkpoint_every`` iterations and after the last one. Started again with ``resume``, a run
    goes on from it and, on a CPU, ends with the same weights, bit for bit, as one that was never
    interrupted.

    Args:
        task: What is trained.
        data: What it is trained and judged on.
        folder: Where logs and checkpoints are written.
        max_steps: The number of iterations.
        resume: Whether to go on from the checkpoint in ``folder``, if there is one.
        checkpoint_every: The iterations from checkpoint to checkpoint.
        validate_every: The iterations from validation to validation. Defaults to once, at the end.
        callbacks: Callbacks beside those that log, save and estimate, such as Lightning's
            ``EMAWeightAveraging``.
        plugins: Plugins of the trainer beside the one that writes checkpoints.
        **trainer_options: Arguments of :class:`lightning.Trainer`, such as ``accelerator``,
            ``devices``, ``precision`` or ``sync_batchnorm``.

    Raises:
        FileExistsError: If ``folder`` has a checkpoint and ``resume`` is False.
        ValueError: If the checkpoint is of another architecture.
        OSError: If the checkpoint cannot be read, or a new one cannot be written.
    """
    checkpoint = Path(folder) / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise FileExistsError(
            f"{checkpoint} exists: resume that run, or choose another folder for a new one"
        )
    # Lightning loads it again, with the state of all else; but its errors don't name the file.
    start = load_weights(task, checkpoint) if checkpoint.exists() else 0
    # Lightning counts the batches from validation to validation.
    num_batches = trainer_options.get("accumulate_grad_batches", 1)
    trainer = lightning.Trainer(
        max_steps=max_steps,
        default_root_dir=folder,
        logger=[
            TensorBoardLogger(folder, name=None, version="tensorboard"),
            # Its own folder for each part of the run: this logger replaces what it finds.
            CSVLogger(folder, name=None, version=f"csv-{start}" if start else "csv"),
        ],
        callbacks=[
            ModelCheckpoint(
                folder,
                filename=Path(CHECKPOINT).stem,
                every_n_train_steps=checkpoint_every,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            ),
            SaveAtTheEnd(checkpoint),
            LogScores(),
            LearningRateMonitor("step"),
            Estimate(),
            *callbacks,
        ],
        check_val_every_n_epoch=None,
        val_check_interval=num_batches * (validate_every or max_steps),
        num_sanity_val_steps=0,
        plugins=[CheckpointFiles(), *plugins],
        use_distributed_sampler=False,
        **trainer_options,
    )
    trainer.fit(
        task, data, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True
    )
    (scores,) = trainer.validate(task, data, verbose=False)
    return {name: float(score) for name, score in scores.items() if name != _STEP}

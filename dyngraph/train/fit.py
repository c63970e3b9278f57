"""One training run, from the first iteration to the last, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import distributed

from dyngraph.checks import check_at_least
from dyngraph.data.files import naming
from dyngraph.train.checkpoint import CheckpointFiles, put_weights, read_checkpoint
from dyngraph.train.estimate import Estimate
from dyngraph.train.folder_lock import lock_folder
from dyngraph.train.image_data_module import ImageDataModule
from dyngraph.train.interruption import Interrupted, StopAtSignals
from dyngraph.train.log import CsvLog
from dyngraph.train.lost_process import name_lost_processes
from dyngraph.train.record import RECORD, check_classes, check_settings, read_record

CHECKPOINT = "last.ckpt"

_TENSORBOARD = "tensorboard"

_LEAST = {
    "accumulate_grad_batches": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "min_steps": 0,
}

# Where Lightning takes the iteration from.
_STEP = "step"


class LogScores(lightning.Callback):
    r"""Logs scores at the number of iterations before them, and writes them at once.

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
    r"""Saves a checkpoint after the last iteration, whatever the interval between checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            trainer.save_checkpoint(self.path, weights_only=False)


class Record(lightning.Callback):
    r"""Puts the record of the run into each checkpoint."""

    def __init__(self, record: Mapping[str, Any] | None) -> None:
        self.record = record

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        task: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        if self.record is not None:
            checkpoint[RECORD] = dict(self.record)


def fit(
    task: lightning.LightningModule,
    data: lightning.LightningDataModule,
    folder: str | Path,
    max_steps: int,
    *,
    resume: bool = False,
    checkpoint_every: int = 500,
    validate_every: int | None = None,
    callbacks: Sequence[lightning.Callback] = (),
    plugins: Sequence[Any] = (),
    loggers: Sequence[Logger] = (),
    record: Mapping[str, Any] | None = None,
    **trainer_options: Any,
) -> dict[str, float]:
    r"""Trains ``task`` and returns its scores on the validation images.

    Logs go to ``folder`` for TensorBoard and as CSV: ``csv/metrics.csv``, and ``csv-N/metrics.csv``
    for the part of a run that was resumed at iteration N; :func:`read_log` reads them. They have
    the scores of every validation. ``last.ckpt`` there is replaced as a whole every
    ``checkpoint_every`` iterations and after the last one. Started again with ``resume``, a run
    continues from it and, on a CPU, ends with the same weights, bit for bit, as one that was never
    interrupted. On SIGINT (Ctrl-C) or SIGTERM, a run saves a checkpoint after the current iteration
    and ends.

    A resumed run takes the current learning rate, other settings of the optimiser and
    ``max_steps``; the learning rate's schedule adapts.

    All files of a :class:`SegmentationDataModule` or :class:`DetectionDataModule`, for training and
    validation, are checked before the first iteration.

    Args:
        task: The task to train.
        data: The images to train and score it on.
        folder: Where logs and checkpoints are written.
        max_steps: The number of iterations.
        resume: Whether to continue from the checkpoint in ``folder``, if there is one.
        checkpoint_every: The iterations between checkpoints.
        validate_every: The iterations between validations; by default there is one, at the end.
        callbacks: More callbacks than those that log, save and estimate, such as Lightning's
            ``EMAWeightAveraging``.
        plugins: More plugins of the trainer than the one that writes checkpoints.
        loggers: More loggers than those for TensorBoard and CSV, such as Lightning's
            ``MLFlowLogger``.
        record: Plain containers that go into the checkpoints, such as those of the command line:
            ``settings`` in groups, and ``classes`` with their ``names`` and ``palette``. A run is
            only resumed with the same classes, and with the same settings except for some.
        **trainer_options: Arguments of :class:`lightning.Trainer`, such as ``accelerator``,
            ``devices``, ``precision`` or ``sync_batchnorm``.

    Raises:
        FileExistsError: If ``folder`` has a checkpoint and ``resume`` is False.
        BlockingIOError: If another process trains in ``folder``.
        ValueError: If the checkpoint is of another architecture or of a later iteration than
            ``max_steps``, ``record`` differs from the run's in what must stay the same, a number of
            iterations is not positive, or a data file is wrong.
        OSError: If the checkpoint cannot be read or is damaged, a file cannot be written, or an
            image cannot be read.
        ChildProcessError: If a data-loading process is killed.
        ConnectionError: If another process of a distributed run is killed.
        Interrupted: After SIGINT or SIGTERM. It is a :class:`SystemExit`, with status 130 or 143.
    """
    check_at_least(1, max_steps=max_steps, checkpoint_every=checkpoint_every)
    if validate_every is not None:
        check_at_least(1, validate_every=validate_every)
    _check_options(trainer_options)
    # Lightning counts the batches from validation to validation.
    num_batches = trainer_options.get("accumulate_grad_batches", 1)
    checkpoint = Path(folder, CHECKPOINT)
    with lock_folder(folder), _ending_process_group():
        start = _start(task, checkpoint, max_steps, resume, record)
        if isinstance(data, ImageDataModule):
            data.check()
        with StopAtSignals(checkpoint) as stop:
            trainer = lightning.Trainer(
                max_steps=max_steps,
                default_root_dir=folder,
                logger=[
                    TensorBoardLogger(folder, name=None, version=_TENSORBOARD),
                    # One folder per part of the run: this logger replaces what it finds.
                    CsvLog(Path(folder, f"csv-{start}" if start else "csv")),
                    *loggers,
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
                    Record(record),
                    *callbacks,
                    # After everything that an iteration changes.
                    stop,
                ],
                check_val_every_n_epoch=None,
                val_check_interval=num_batches * (validate_every or max_steps),
                num_sanity_val_steps=0,
                plugins=[CheckpointFiles(), *plugins],
                use_distributed_sampler=False,
                **trainer_options,
            )
            # Errors in writing anything else name their file.
            with name_lost_processes(checkpoint), naming(Path(folder, _TENSORBOARD)):
                trainer.fit(
                    task,
                    data,
                    ckpt_path=checkpoint if checkpoint.exists() else None,
                    weights_only=True,
                )
                validated = trainer.validate(task, data, verbose=False)
    # Nothing is validated if limit_val_batches says so.
    scores = validated[0] if validated else {}
    return {name: float(score) for name, score in scores.items() if name != _STEP}


@contextmanager
def _ending_process_group() -> Iterator[None]:
    """Ends the process group that a run starts.

    Otherwise its threads sometimes abort the process at exit.
    """
    ours = distributed.is_available() and not distributed.is_initialized()
    try:
        yield
    # If another process is lost, there is no group left to end.
    except Interrupted:
        _end_process_group(ours)
        raise
    _end_process_group(ours)


def _end_process_group(ours: bool) -> None:
    if ours and distributed.is_initialized():
        distributed.destroy_process_group()


def _check_options(options: Mapping[str, Any]) -> None:
    """Checks for numbers that Lightning accepts but with which nothing runs."""
    for name, least in _LEAST.items():
        if options.get(name) is not None:
            check_at_least(least, **{name: options[name]})
    for name in ("max_epochs", "limit_train_batches"):
        if options.get(name) == 0:
            raise ValueError(f"{name}: expected a positive number, or there is no training; got 0")


def _start(
    task: lightning.LightningModule,
    path: Path,
    max_steps: int,
    resume: bool,
    record: Mapping[str, Any] | None,
) -> int:
    """The iteration at which the run starts."""
    if not path.exists():
        return 0
    if not resume:
        raise FileExistsError(
            f"{path} exists: resume that run, or choose another folder for a new one"
        )
    checkpoint = read_checkpoint(path)
    recorded = read_record(checkpoint, path)
    if recorded is not None and record is not None:
        check_settings(path, recorded["settings"], record["settings"])
        check_classes(path, recorded["classes"], record["classes"])
    # Lightning loads it again, with all other state, but its errors don't name the file.
    put_weights(task, checkpoint, path)
    step: int = checkpoint["global_step"]
    if step > max_steps:
        raise ValueError(f"max_steps: expected at least {step}, as in {path}, got {max_steps}")
    return step

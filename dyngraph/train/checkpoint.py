"""Checkpoints: written as a whole or not at all, and read with suspicion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn


class CheckpointFiles(TorchCheckpointIO):
    r"""Writes checkpoints as Lightning does, which keeps the former one if it fails.

    The error then names the file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        try:
            super().save_checkpoint(checkpoint, path, storage_options)
        except OSError as error:
            raise OSError(f"{path}: could not be written: {error}") from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    r"""Reads a checkpoint of :func:`~dyngraph.train.fit`. Nothing in it is executed.

    Raises:
        OSError: If the file is missing or no readable checkpoint of a training run.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"], checkpoint["global_step"]
    # PyTorch has no common base class for what it raises on broken files.
    except Exception as error:
        # Its own words are riddles, or advise to run whatever is in the file.
        found = (
            error.strerror
            if isinstance(error, OSError) and error.strerror
            else ("a file that is broken or holds more than weights and settings (none was run)")
        )
        raise OSError(f"{path}: expected a readable checkpoint, got {found}") from error
    return checkpoint


def load_weights(task: nn.Module, path: str | Path) -> int:
    r"""Loads the weights of a checkpoint into a task.

    Returns:
        The iteration at which it was saved.

    Raises:
        OSError: If the file is missing or no readable checkpoint.
        ValueError: If it is of another architecture.
    """
    checkpoint = read_checkpoint(path)
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{path}: expected the weights of this architecture. {error}") from error
    return checkpoint["global_step"]

"""Checkpoints: written as a whole or not at all, and not trusted when read."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from dyngraph.data.files import write_file

# A checkpoint is a ZIP archive, which ends with a comment, and the comment's length before it.
_TAG = b"sha256:"
_COMMENT_LENGTH = len(_TAG) + hashlib.sha256().digest_size * 2


class CheckpointFiles(TorchCheckpointIO):
    r"""Writes checkpoints that hold their own digest; if that fails, the previous one stays.

    The digest is the comment of the ZIP archive, so that file and digest are written at once. The
    error names the file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        archive = io.BytesIO()
        torch.save(checkpoint, archive)
        content = archive.getvalue()[:-2] + _COMMENT_LENGTH.to_bytes(2, "little")
        digest = hashlib.sha256(content).hexdigest()
        write_file(Path(path), content + _TAG + digest.encode())


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    r"""Reads a checkpoint of :func:`~dyngraph.train.fit`. Nothing in it is executed.

    What :func:`~dyngraph.train.fit` writes holds its SHA-256 digest, which is checked. Checkpoints
    of other programs, and of earlier versions, have none and are read unchecked.

    Raises:
        OSError: If the file is missing or damaged, or is not a readable checkpoint of a training
            run.
    """
    wanted = f"{path}: expected a readable checkpoint"
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise OSError(f"{wanted}, got {error.strerror}") from error
    body, comment = content[:-_COMMENT_LENGTH], content[-_COMMENT_LENGTH:]
    if comment.startswith(_TAG):
        named, digest = comment.removeprefix(_TAG), hashlib.sha256(body).hexdigest()
        if digest.encode() != named:
            raise OSError(f"{wanted}, got a damaged one: its digest is {digest}, not {named!r}")
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        checkpoint["state_dict"], checkpoint["global_step"]
    # PyTorch has no common base class for what it raises on broken files, and its messages are
    # cryptic, or advise running whatever is in the file.
    except Exception as error:
        found = "a file that is broken or holds more than weights and settings (none was run)"
        raise OSError(f"{wanted}, got {found}") from error
    return checkpoint


def load_weights(task: nn.Module, path: str | Path) -> int:
    r"""Loads the weights of a checkpoint into a task. Its digest is checked, if it has one.

    Returns:
        The iteration at which it was saved.

    Raises:
        OSError: If the file is missing or damaged, or is not a readable checkpoint.
        ValueError: If it is of another architecture.
    """
    checkpoint = read_checkpoint(path)
    put_weights(task, checkpoint, path)
    return checkpoint["global_step"]


def put_weights(task: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> None:
    r"""Puts the weights of a checkpoint that was read from ``path`` into a task.

    Raises:
        ValueError: If it is of another architecture.
    """
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{path}: expected the weights of this architecture. {error}") from error

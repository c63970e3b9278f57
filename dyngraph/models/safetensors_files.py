"""Weights of models as safetensors files. Needs safetensors: ``pip install 'dyngraph[hub]'``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from dyngraph.data.files import write_file


def save_safetensors(model: nn.Module, path: str | Path) -> None:
    r"""Saves the weights of a model, by their names in its ``state_dict``.

    If that fails, an existing file stays as it was. The folder is made if it's missing.

    Raises:
        ImportError: If safetensors is missing.
        OSError: If the file cannot be written.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise _missing("save_safetensors") from error
    # The format has no strides: channels_last tensors are stored row by row.
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_file(Path(path), save(weights, metadata={"format": "pt"}))


def load_safetensors(model: nn.Module, path: str | Path) -> None:
    r"""Loads weights from a file of :func:`save_safetensors` into a model, in place.

    Raises:
        ImportError: If safetensors is missing.
        OSError: If the file is missing or not readable.
        ValueError: If the weights are of another architecture.
    """
    weights = read_safetensors(path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: expected the weights of this model. {error}") from error


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    r"""The weights in a safetensors file, by name.

    Raises:
        ImportError: If safetensors is missing.
        OSError: If the file is missing or not readable.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise _missing("load_safetensors") from error
    try:
        return load_file(path)
    except Exception as error:
        raise OSError(f"{path}: expected a readable safetensors file, got {error!r}") from error


def _missing(name: str) -> ImportError:
    return ImportError(f"{name} needs safetensors: pip install 'dyngraph[hub]'")

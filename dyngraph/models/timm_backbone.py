"""Networks of timm as backbones. Needs timm: ``pip install 'dyngraph[timm]'``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyngraph.models.listed import listed
from dyngraph.models.official import read_tensors
from dyngraph.models.safetensors_files import read_safetensors

PREFIX = "timm/"
"""What a segmenter's name of a backbone starts with if timm has it."""

OUTPUT_STRIDE = 8


def timm_backbone(name: str, weights: str | Path | None = None) -> nn.Module:
    r"""A convolutional network of timm at output stride 8, without its classifier.

    Nothing is downloaded.

    Args:
        name: The network's name in timm, e.g. ``"efficientnet_lite0"``.
        weights: A file with the weights of timm's classifier of that name, by timm's names:
            ``….safetensors``, or one of :func:`torch.save`, of which nothing is executed. Defaults
            to random weights.

    Returns:
        A module from images ``[B, 3, H, W]`` to a list of feature maps, the finest first and the
        last at stride 8.

    Raises:
        ImportError: If timm is missing, or safetensors for a file of that format.
        OSError: If the file is missing or not readable.
        ValueError: If timm has no such network, it has no feature maps at output stride 8, or the
            file holds other weights.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"backbone: {PREFIX}{name} needs timm: pip install 'dyngraph[timm]'"
        ) from error
    # Names with a scheme, such as hf-hub:…, would be looked up elsewhere.
    if ":" in name or not timm.is_model(name):
        raise ValueError(f"backbone: expected a network of timm after {PREFIX!r}, got {name!r}")
    wanted = f"backbone: expected a network with feature maps at output stride {OUTPUT_STRIDE}"
    try:
        trunk = timm.create_model(name, features_only=True, output_stride=OUTPUT_STRIDE)
    # timm has no common base class for what it raises on what a network lacks.
    except Exception as error:
        raise ValueError(f"{wanted}, got {PREFIX}{name}: {error}") from error
    info: Any = trunk.feature_info
    stride = info.reduction()[-1]
    if stride != OUTPUT_STRIDE:
        raise ValueError(f"{wanted}, got {PREFIX}{name} with {stride}")
    if weights is not None:
        with torch.device("meta"):
            classifier = timm.create_model(name)
        _load(trunk, {*classifier.state_dict()}, Path(weights))
    return trunk


def _load(trunk: nn.Module, known: set[str], path: Path) -> None:
    """Loads the weights of a classifier, whose names are known, into the part without its head."""
    reads_safetensors = path.suffix == ".safetensors"
    found = read_safetensors(path) if reads_safetensors else read_tensors(path)
    target = trunk.state_dict()
    # timm keeps some stages of the classifier as attributes: stages.0 as stages_0.
    by_flat_name = {_flat(name): tensor for name, tensor in found.items()}
    weights: dict[str, Tensor] = {
        name: by_flat_name[_flat(name)] for name in target if _flat(name) in by_flat_name
    }
    missing = [name for name in target if name not in weights]
    unexpected = [name for name in found if name not in known]
    differing = [
        f"{name} {list(tensor.shape)} instead of {list(target[name].shape)}"
        for name, tensor in weights.items()
        if tensor.shape != target[name].shape
    ]
    if missing or unexpected or differing:
        raise ValueError(
            f"{path}: expected the weights of this network of timm; missing {listed(missing)}, "
            f"unexpected {listed(unexpected)}, of another size {listed(differing)}"
        )
    trunk.load_state_dict(weights)


def _flat(name: str) -> str:
    return name.replace(".", "_")

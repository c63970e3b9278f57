"""Loading the released weights of DGMN2 from the original files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyngraph.models.dgmn2 import DGMN2
from dyngraph.models.listed import listed
from dyngraph.models.semantic_fpn import SemanticFPN

#: The keys of the weights in the files: of classifiers, and of MMDetection.
WRAPPERS = ("model", "state_dict")
#: The prefixes of the backbone's weights: in Sparse R-CNN, in Deformable DETR, in MMDetection and
#: MMSegmentation, in classifiers.
PREFIXES = ("backbone.bottom_up.", "backbone.0.", "backbone.", "")
#: The names of weights in MMSegmentation's Semantic FPN, and in ours.
SEMANTIC_FPN = (
    (r"neck\.lateral_convs\.(\d+)\.conv\.", r"fpn.inner_blocks.\1.0."),
    (r"neck\.fpn_convs\.(\d+)\.conv\.", r"fpn.layer_blocks.\1.0."),
    (r"decode_head\.(scale_heads\.\d+\.\d+)\.conv\.", r"\1.0."),
    (r"decode_head\.(scale_heads\.\d+\.\d+)\.bn\.", r"\1.1."),
    (r"decode_head\.conv_seg\.", "conv_seg."),
)


@dataclass(frozen=True)
class LoadReport:
    r"""What :func:`load_official` did; prints as text."""

    #: The weights of the model that were loaded.
    loaded: list[str]
    #: Those that the file lacks, which kept their values.
    kept: list[str]
    #: The names in the file that the model has no weights for.
    unused: list[str]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded"]
        for verb, names in (("kept by the model", self.kept), ("unused in the file", self.unused)):
            lines.append(f"{len(names)} tensors {verb}" + (f": {listed(names)}" if names else ""))
        return "\n".join(lines)


def load_official(model: nn.Module, checkpoint: str | Path | Mapping[str, Any]) -> LoadReport:
    r"""Loads released weights of DGMN2 into a model, in place.

    Takes the original files: classifiers, and the backbones of detectors and segmenters. A
    :func:`~dyngraph.models.segmenter` gets the head of a released Semantic FPN too. Nothing in a
    file is executed. A file that does not fit leaves the model as it was.

    SETR's files have the same names and sizes, but were trained with strides of 1 in the last two
    stages, unlike this backbone.

    Args:
        model: A :class:`~dyngraph.models.DGMN2`, or a model with one inside.
        checkpoint: The path of a released file, or its content.

    Returns:
        What was loaded, by name.

    Raises:
        OSError: If the file is missing or is not a readable checkpoint of tensors by name.
        TypeError: If ``checkpoint`` is neither a path nor a mapping.
        ValueError: If the model does not have exactly one DGMN2 inside, or the checkpoint, such as
            one of another variant, lacks weights or has more or other sizes.
    """
    source = "checkpoint"
    if isinstance(checkpoint, (str, Path)):
        source, weights = str(checkpoint), read_tensors(checkpoint)
    else:
        weights = _weights(checkpoint)
    backbone = _names_of(model, DGMN2)
    if not backbone:
        raise ValueError(f"model: expected one with a DGMN2 inside, got {type(model).__name__}")
    candidates = [
        {name: name.removeprefix(prefix) for name in weights if name.startswith(prefix)}
        for prefix in PREFIXES
    ]
    sources = max(candidates, key=lambda names: sum(name in backbone for name in names.values()))
    # Blocks that the model lacks are of another variant; other names are of other parts.
    found = {
        source: backbone.get(name, name)
        for source, name in sources.items()
        if name in backbone or re.match(r"(patch_embed|block)\d", name)
    }
    if not any(name in backbone for name in sources.values()):
        raise ValueError(f"{source}: expected weights of DGMN2, got {listed(list(weights))}")
    expected = set(backbone.values())
    head = _names_of(model, SemanticFPN)
    if head and any(name.startswith("decode_head.scale_heads.") for name in weights):
        renamed = {name: _in_semantic_fpn(name) for name in weights}
        found |= {source: head[name] for source, name in renamed.items() if name in head}
        expected |= {name for part, name in head.items() if not part.startswith("context.")}

    target = model.state_dict()
    missing = sorted(expected - set(found.values()))
    unexpected = [source for source, name in found.items() if name not in target]
    differing = [
        f"{source} {list(weights[source].shape)} instead of {list(target[name].shape)}"
        for source, name in found.items()
        if name in target and weights[source].shape != target[name].shape
    ]
    if missing or unexpected or differing:
        raise ValueError(
            f"{source}: expected the weights of this model; missing {listed(missing)}, "
            f"unexpected {listed(unexpected)}, of another size {listed(differing)}"
        )
    model.load_state_dict({name: weights[source] for source, name in found.items()}, strict=False)
    loaded = set(found.values())
    return LoadReport(
        loaded=[name for name in target if name in loaded],
        kept=[name for name in target if name not in loaded],
        unused=[name for name in weights if name not in found],
    )


def _names_of(model: nn.Module, kind: type[nn.Module]) -> dict[str, str]:
    """The names of weights in the only module of a kind, mapped to those in the model."""
    modules = [(name, part) for name, part in model.named_modules() if isinstance(part, kind)]
    if len(modules) != 1:
        return {}
    ((path, module),) = modules
    return {name: f"{path}.{name}".lstrip(".") for name in module.state_dict()}


def _in_semantic_fpn(name: str) -> str:
    """Our name of a weight of MMSegmentation's Semantic FPN."""
    for pattern, replacement in SEMANTIC_FPN:
        name, found = re.subn(f"^{pattern}", replacement, name)
        if found:
            return name
    return name


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    r"""The weights in an untrusted file of :func:`torch.save`, by name. Nothing is executed.

    Raises:
        OSError: If the file is missing or is not a readable checkpoint of tensors by name.
    """
    try:
        # Classifiers were saved with their arguments, a namespace of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    # PyTorch has no common base class for what it raises on broken files.
    except Exception as error:
        raise OSError(f"{path}: expected a readable checkpoint, got {error!r}") from error
    if not isinstance(checkpoint, Mapping):
        raise OSError(f"{path}: expected tensors by name, got {type(checkpoint).__name__}")
    return _weights(checkpoint)


def _weights(checkpoint: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, unwrapped."""
    for wrapper in WRAPPERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(wrapper), Mapping):
            checkpoint = checkpoint[wrapper]
    if not isinstance(checkpoint, Mapping):
        raise TypeError(f"checkpoint: expected tensors by name, got {type(checkpoint).__name__}")
    return {
        # The prefix that DataParallel and DistributedDataParallel add to all names.
        str(name).removeprefix("module."): value
        for name, value in checkpoint.items()
        if isinstance(value, Tensor)
    }

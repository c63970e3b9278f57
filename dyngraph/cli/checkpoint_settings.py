"""The settings of a prediction, from an untrusted checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dyngraph.evaluate
import dyngraph.models
import dyngraph.nn
from dyngraph.train import read_checkpoint
from dyngraph.train.record import read_record

_PUBLIC = {
    module.__name__: frozenset(module.__all__)
    for module in (dyngraph.evaluate, dyngraph.models, dyngraph.nn)
}
_OBJECT = re.compile(r"[A-Za-z_]\w*(\.\w+)+")


def checkpoint_settings(path: str | Path) -> dict[str, Any]:
    r"""The settings of a run that describe its network, as in a file of settings.

    The weights that the network started from are left out, because those of the checkpoint replace
    them.

    Args:
        path: A checkpoint of the command ``fit``.

    Returns:
        The settings; empty if the checkpoint has no record of them.

    Raises:
        OSError: If the file is missing or damaged, or is not a readable checkpoint.
        ValueError: If its settings are broken, or name an object that is not dyngraph's own: named
            objects would be imported and called.
    """
    record = read_record(read_checkpoint(path), path)
    if record is None:
        return {}
    settings = record["settings"]
    try:
        found = {name: settings[name] for name in ("task", "seed", "data")}
        # How it was trained does not matter.
        training = ("optimizer", "scheduler")
        found["model"] = {k: v for k, v in settings["model"].items() if k not in training}
        found["network"] = _without_weights(settings["network"])
        found["trainer"] = {"max_steps": int(settings["trainer"]["max_steps"])}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the settings of a run, got {error!r}") from error
    for name in ("network", "model"):
        for text in _strings(found[name]):
            if _OBJECT.fullmatch(text) and not _is_public(text):
                raise ValueError(
                    f"{path}: settings, {name}: expected only classes of {', '.join(_PUBLIC)}, "
                    f"got {text!r}: pass it with --config, if you trust it"
                )
    return found


def _without_weights(network: dict[str, Any]) -> dict[str, Any]:
    weights, backbone = network.get("weights_backbone"), network["backbone"]
    changed = {**network, "weights_backbone": None}
    # Mask R-CNN freezes by default if there are weights, except DGMN2, which is never frozen.
    if "freeze" in network and network["freeze"] is None and weights is not None:
        changed["freeze"] = None if backbone.startswith("dgmn2") else True
    if isinstance(backbone, dict) and backbone.get("init_args", {}).get("weights") is not None:
        arguments = {**backbone["init_args"], "weights": None}
        changed["backbone"] = {**backbone, "init_args": arguments}
    return changed


def _strings(value: Any) -> Iterator[str]:
    """All strings in it except keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)


def _is_public(text: str) -> bool:
    module, _, name = text.rpartition(".")
    return name in _PUBLIC.get(module, ())

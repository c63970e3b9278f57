"""What a checkpoint records of its run besides its state, and comparing other runs with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

RECORD = "record"
"""The key of the record in a checkpoint."""

_COLOUR = {"mean", "std"}

# Where the data is, how fast it is read, and what is scored.
_MAY_CHANGE = frozenset(
    {
        "data.root",
        "data.num_workers",
        "data.val_batch_size",
        "data.max_pixels",
        "data.check",
        "model.inference",
        "model.object_classes",
    }
)
# The size of a step. A schedule by class path keeps its own in its state.
_MAY_CHANGE_WITHOUT_SCHEDULER = frozenset(
    {
        "model.lr",
        "model.momentum",
        "model.weight_decay",
        "model.warmup_steps",
        "model.warmup_factor",
        "model.decay_steps",
    }
)
# Everything else in the trainer may change: how long, how often and on what machine.
_MUST_STAY = frozenset(
    {
        "trainer.accumulate_grad_batches",
        "trainer.gradient_clip_val",
        "trainer.gradient_clip_algorithm",
    }
)


def read_record(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Any] | None:
    r"""The ``record`` that :func:`~dyngraph.train.fit` got, or None.

    Args:
        checkpoint: A checkpoint.
        path: Its file, for errors.

    Raises:
        ValueError: If it is not a dictionary of ``settings`` and of ``classes`` with their
            ``names`` and, three numbers in 0..255 for each, their ``palette``; or if it has ``ids``
            that are not a number for each, or a ``normalization`` that is not ``mean`` and ``std``
            of three colours.
    """
    record = checkpoint.get(RECORD)
    if record is None:
        return None
    try:
        settings, classes = record["settings"], record["classes"]
        names, palette = classes["names"], classes["palette"]
        whole = (
            all(isinstance(group, dict) for group in (record, settings, classes))
            and all(isinstance(name, str) for name in names)
            and len(names) == len(palette)
            and all(len(colour) == 3 and set(colour) <= {*range(256)} for colour in palette)
            and _are_ids(classes.get("ids", range(len(names))), len(names))
            and _is_normalization(classes.get("normalization", {"mean": [0] * 3, "std": [1] * 3}))
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: record: expected settings and classes, {error!r}") from error
    if not whole:
        raise ValueError(f"{path}: record: expected settings and classes, got other values")
    return record


def _are_ids(ids: Any, count: int) -> bool:
    return len({*ids}) == len(ids) == count and all(type(id) is int and id >= 0 for id in ids)


def _is_normalization(normalization: dict[str, Any]) -> bool:
    mean, std = normalization["mean"], normalization["std"]
    numbers = [float(number) for number in (*mean, *std) if type(number) in (int, float)]
    is_whole = len(mean) == len(std) == 3 and len(numbers) == 6 and normalization.keys() <= _COLOUR
    return is_whole and all(map(math.isfinite, numbers)) and min(numbers[3:]) > 0


def check_settings(path: str | Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    r"""Checks that a run can continue with other settings.

    Args:
        path: The checkpoint, for errors.
        before: The settings of the run so far, in groups.
        now: Those that it should continue with.

    Raises:
        ValueError: If one differs that must stay the same. Settings of validation and of the
            machine may change, and without a ``model.scheduler`` those of the optimiser's steps.
    """
    old, new = _flat(before), _flat(now)
    may_change = _MAY_CHANGE
    if old.get("model.scheduler") is None:
        may_change |= _MAY_CHANGE_WITHOUT_SCHEDULER
    for name in old:
        stays = name in _MUST_STAY or not (name.startswith("trainer.") or name in may_change)
        if stays and name in new and old[name] != new[name]:
            raise ValueError(
                f"{path}: {name}: expected {old[name]!r}, as the run was started with, "
                f"got {new[name]!r}"
            )


def check_classes(path: str | Path, trained: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    r"""Checks that the data has the classes that a network was trained for, in the same order.

    Args:
        path: The checkpoint, for errors.
        trained: Its ``names`` of classes and, for a detector, their ``ids``.
        given: Those of the data.

    Raises:
        ValueError: If they differ.
    """
    for key in ("names", "ids"):
        pairs = zip_longest(trained.get(key, ()), given.get(key, ()))
        for number, (expected, found) in enumerate(pairs):
            if expected != found:
                raise ValueError(
                    f"{path}: classes, {key}, {number}: expected {expected!r}, as the network was "
                    f"trained for, got {found!r}"
                )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names that they have on the command line: ``group.name`` in groups."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name in ("data", "network", "model", "trainer"):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name in ("seed", "task"):
            flat[name] = value
    return flat

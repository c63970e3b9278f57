"""The command that plots what runs have logged."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from dyngraph.data.files import write_file
from dyngraph.train.log import Log, read_log
from dyngraph.viz.curves import draw_curves

_DEFAULT_METRICS = ("box_ap", "mask_ap", "miou", "pixel_accuracy")


def plot_parser() -> ArgumentParser:
    """Plots the scores of runs over their iterations, side by side."""
    parser = ArgumentParser()
    parser.add_argument("runs", type=str, nargs="+", help="folders of runs, trainer.folder of each")
    help_ = (
        "columns of the logs, one panel each; by default box_ap and mask_ap, or miou and "
        "pixel_accuracy"
    )
    parser.add_argument("--metrics", type=str, nargs="+", help=help_)
    help_ = "names of the runs in the legend; by default those of their folders"
    parser.add_argument("--labels", type=str, nargs="+", help=help_)
    parser.add_argument("--out", type=str, required=True, help="the picture: .png, .pdf or .svg")
    return parser


def plot(
    runs: Sequence[str],
    out: str,
    metrics: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    r"""Plots the scores of runs over their iterations.

    Args:
        runs: The folders of the runs.
        out: The picture, a ``.png``, ``.pdf`` or ``.svg`` file.
        metrics: Columns of the logs. Defaults to AP of boxes and masks, or mIoU and pixel accuracy.
        labels: The names of the runs. Defaults to those of their folders.

    Raises:
        FileNotFoundError: If a run has no log.
        ValueError: If a log is broken or lacks a metric, ``labels`` are not one per run, all
            different, or ``out`` is another kind of file.
    """
    kind = Path(out).suffix.removeprefix(".").lower()
    if kind not in ("png", "pdf", "svg"):
        raise ValueError(f"out: expected a .png, .pdf or .svg file, got {out}")
    if labels is None:
        labels = _labels(runs)
    if len(labels) != len(runs) or len(set(labels)) != len(labels):
        raise ValueError(f"labels: expected a different one for each of {runs}, got {labels}")
    logs = {label: read_log(run) for label, run in zip(labels, runs, strict=True)}
    figure = draw_curves(logs, _shared(logs) if metrics is None else metrics)
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=200)
    write_file(Path(out), content.getvalue())


def _labels(runs: Sequence[str]) -> list[str]:
    names = [Path(run).resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [*runs]


def _shared(logs: dict[str, Log]) -> list[str]:
    """What is plotted by default."""
    shared = [name for name in _DEFAULT_METRICS if all(name in log for log in logs.values())]
    if not shared:
        found = {
            run: [name for name in _DEFAULT_METRICS if name in log] for run, log in logs.items()
        }
        raise ValueError(
            f"runs: expected one of {_DEFAULT_METRICS} in the logs of all, got {found}"
        )
    return shared

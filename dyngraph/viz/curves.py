"""The scores of runs over their iterations (DGMN, Figure 5)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

# These distinguish runs when printed without colours.
_MARKERS = "os^Dv*Px"

_NAMES = {
    "miou": "mIoU (%)",
    "pixel_accuracy": "pixel accuracy (%)",
    "object_iou": "mIoU of objects (%)",
}


def draw_curves(
    logs: Mapping[str, Mapping[str, Mapping[int, float]]], metrics: Sequence[str]
) -> Figure:
    r"""Draws what runs have logged over their iterations, one panel per metric, one line per run.

    Scores, such as ``"box_ap"`` or ``"miou"``, are drawn in percent.

    Args:
        logs: For each run, by its name in the legend, the values of each metric by iteration, as
            :func:`~dyngraph.train.read_log` returns them.
        metrics: The metrics.

    Raises:
        ValueError: If there is no run or no metric, or a run has not logged one of them.
    """
    if not logs or not metrics:
        raise ValueError(f"logs, metrics: expected at least one, got {[*logs]} and {[*metrics]}")
    for run, log in logs.items():
        for metric in metrics:
            if metric not in log:
                raise ValueError(f"metrics: expected some of {sorted(log)} of {run}, got {metric}")
    figure = Figure(figsize=(4.5 * len(metrics), 3.5), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        label, factor = _label(metric)
        for number, (run, log) in enumerate(logs.items()):
            steps, values = zip(*log[metric].items(), strict=True)
            panel.plot(
                steps,
                [factor * value for value in values],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=4,
                label=run,
            )
        panel.set(xlabel="iterations", ylabel=label)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    return figure


def _label(metric: str) -> tuple[str, float]:
    """The name of an axis, and the factor of its values."""
    if found := re.fullmatch(r"(box|mask)_ap(\d*)(?:/(.+))?", metric):
        kind, iou, category = found.groups()
        at = f"_{{{iou}}}" if iou else ""
        name = rf"$\mathrm{{AP}}^{{\mathrm{{{kind}}}}}{at}$"
        return f"{name} of {category} (%)" if category else f"{name} (%)", 100
    if metric.startswith("iou/"):
        return f"IoU of {metric.removeprefix('iou/')} (%)", 100
    return (_NAMES[metric], 100) if metric in _NAMES else (metric, 1)

"""Times and memory of contenders, side by side in one process."""

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.profiler import ProfilerActivity, profile

MILLI = 1e3
MEGA = 1e6
TURN = 0.5
LONG = 5.0


def arguments(description: str | None, name: str, rounds: int) -> argparse.ArgumentParser:
    """The options of all speed benchmarks."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--threads", type=int, default=torch.get_num_threads(), help="(%(default)s)")
    add("--rounds", type=int, default=rounds, help="(%(default)s)")
    add("--out", type=Path, default=Path(f"runs/benchmarks/{name}.json"), help="(%(default)s)")
    return parser


def forward(module: nn.Module, *inputs: object) -> Callable[[], None]:
    """A forward pass in evaluation mode without gradients."""

    def run() -> None:
        with torch.no_grad():
            module.eval()(*inputs)

    return run


def times(
    contenders: dict[str, Callable[[], Any]], rounds: int = 5, device: str = "cpu"
) -> dict[str, float]:
    """The median time of each contender in milliseconds.

    They take turns after a warm-up. A turn is one run, or as many as fit into `TURN`, after one
    that is not counted, unless it takes longer than `LONG`: it would pay for the memory and caches
    lost to another contender. On a virtual machine that gives back free memory, half a gigabyte
    after eight seconds of another took longer than the block that writes it.
    """
    turns = {name: _turn(run, device) for name, run in contenders.items()}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, turn in turns.items():
            gc.collect()
            taken[name] += turn()
    return {name: statistics.median(values) for name, values in taken.items()}


def _turn(run: Callable[[], Any], device: str) -> Callable[[], list[float]]:
    """A turn, which returns the milliseconds of each of its runs."""
    run()
    if device == "cuda":
        # Only CUDA builds of PyTorch have Triton.
        from triton.testing import do_bench

        # With CUDA events around each run, with the GPU's cache cleared before it.
        return partial(do_bench, run, rep=int(MILLI * TURN), return_mode="all")
    milliseconds = _milliseconds(run)
    repeats = max(1, int(TURN * MILLI / milliseconds))

    def turn() -> list[float]:
        if milliseconds < LONG * MILLI:
            run()
        return [_milliseconds(run) for _ in range(repeats)]

    return turn


def _milliseconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return MILLI * (time.perf_counter() - start)


def peak_memory(run: Callable[[], Any], device: str = "cpu") -> float:
    """The peak memory of a run in MB, beyond what was in use before, as PyTorch counts it.

    The run should be warm: what it keeps for later runs counts too.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / MEGA
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = peak = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / MEGA


def machine() -> dict[str, Any]:
    """The machine and versions that the figures depend on."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        cpu = next(iter(models), cpu)
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return gpu | {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def bars(cases: dict[str, dict[str, dict[str, Any]]], passes: list[str]) -> Figure:
    """The milliseconds of every contender of every case, one panel per pass."""
    labels = [f"{case}: {name}" for case, contenders in cases.items() for name in contenders]
    colours = [f"C{number}" for number, contenders in enumerate(cases.values()) for _ in contenders]
    height = 1.2 + 0.25 * len(labels)
    figure = Figure((12, height), layout="constrained")
    (panels,) = figure.subplots(1, len(passes), sharey=True, squeeze=False)
    for axes, label in zip(panels, passes, strict=True):
        values = [
            contender[label]["ms"] if label in contender else float("nan")
            for contenders in cases.values()
            for contender in contenders.values()
        ]
        axes.bar_label(axes.barh(labels, values, color=colours), fmt="%.0f", padding=3)
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.set_xlabel(f"{label}, ms")
    panels[0].invert_yaxis()
    return figure


def write(path: Path, results: dict[str, Any], figure: Figure) -> None:
    """Writes the results as JSON, with the machine, and a picture beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine()} | results, indent=2) + "\n")
    figure.savefig(path.with_suffix(".png"), dpi=150)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, with numbers aligned right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])

"""Times and memory of contenders, side by side in one process."""

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MILLI = 1e3
MEGA = 1e6


def times(contenders: dict[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """The median time of each contender in milliseconds, taken in turns after a warm-up."""
    for run in contenders.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            gc.collect()
            start = time.perf_counter()
            run()
            taken[name].append(MILLI * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in taken.items()}


def peak_memory(run: Callable[[], Any]) -> float:
    """The most memory in MB that a run holds beyond what was there before, by PyTorch's count."""
    run()
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
    """What the figures depend on."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        cpu = next(iter(models), cpu)
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine()} | results, indent=2) + "\n")
    print(f"\nWritten: {path}")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])

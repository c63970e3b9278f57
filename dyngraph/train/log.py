"""What a run has logged, read again."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

Log = dict[str, dict[int, float]]
"""The values of each column by the iteration that they were logged at."""


def read_log(folder: str | Path) -> Log:
    r"""Reads the CSV logs of :func:`~dyngraph.train.fit`.

    Scores are logged at the number of iterations before their validation. Of a run that was
    resumed, the parts are read as one; what a later part has for an iteration replaces what an
    earlier one has.

    Args:
        folder: The folder of the run, which holds ``csv/metrics.csv``, and ``csv-N/metrics.csv`` if
            it was resumed at iteration N.

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If a log is empty or broken. The error names the file.
    """
    paths = sorted(Path(folder).glob("csv*/metrics.csv"), key=_start)
    if not paths:
        path = Path(folder, "csv", "metrics.csv")
        raise FileNotFoundError(f"{folder}: expected the log of a run, {path}, which is missing")
    log: Log = {}
    for path in paths:
        for step, values in _rows(path):
            for name, value in values.items():
                log.setdefault(name, {})[step] = value
    if not log:
        raise ValueError(f"{path}: expected the log of a run, got one without values")
    return {name: dict(sorted(values.items())) for name, values in log.items()}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The iteration and the values of each row."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                step = int(row.pop("step"))
                yield step, {name: float(value) for name, value in row.items() if value != ""}
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise ValueError(
                f"{path}, near line {rows.line_num}: expected a step and numbers, got {error!r}"
            ) from error


def _start(path: Path) -> int:
    """The iteration at which a part of a run starts."""
    _, _, start = path.parent.name.partition("-")
    return int(start) if start.isdecimal() else 0

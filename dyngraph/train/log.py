"""Writing and reading the CSV logs of a run."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dyngraph.data.files import naming, write_file

_METRICS = "metrics.csv"
_STEP = "step"

Log = dict[str, dict[int, float]]
"""The values of each column, by the iteration at which they were logged."""


class CsvLog(Logger):
    r"""Logs values to ``metrics.csv``, one row per call and one column per value.

    Unlike Lightning's, it keeps what was written before if the disk is full.

    Args:
        folder: The folder of the file. An existing log there is replaced.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / _METRICS
        self._rows: list[dict[str, float | None]] = []
        self._columns: list[str] = []
        self._num_saved = 0

    @property
    def name(self) -> None:
        return None

    @property
    def version(self) -> str:
        return self._path.parent.name

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._rows.append({**{name: float(value) for name, value in metrics.items()}, _STEP: step})
        self.save()

    @rank_zero_only
    def save(self) -> None:
        r"""Writes the new rows.

        Raises:
            OSError: If that fails. The error names the file, which stays as it was.
        """
        new = self._rows[self._num_saved :]
        columns = sorted({*self._columns}.union(*new))
        if columns != self._columns:
            header = dict(zip(columns, columns, strict=True))
            write_file(self._path, _csv([header, *self._rows], columns))
        elif new:
            size = self._path.stat().st_size
            try:
                with naming(self._path), self._path.open("ab") as file:
                    file.write(_csv(new, columns))
            except OSError:
                os.truncate(self._path, size)
                raise
        self._columns, self._num_saved = columns, len(self._rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def _csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns).writerows(rows)
    return text.getvalue().encode()


def read_log(folder: str | Path) -> Log:
    r"""Reads the CSV logs of :func:`~dyngraph.train.fit`.

    Scores are logged at the number of iterations before their validation. The parts of a resumed
    run are read as one; for each iteration, later parts replace earlier ones.

    Args:
        folder: The folder of the run, which holds ``csv/metrics.csv``, and ``csv-N/metrics.csv`` if
            it was resumed at iteration N.

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If a log is empty or broken. The error names the file.
    """
    paths = sorted(Path(folder).glob(f"csv*/{_METRICS}"), key=_start)
    if not paths:
        path = Path(folder, "csv", _METRICS)
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
                step = int(row.pop(_STEP))
                yield step, {name: float(value) for name, value in row.items() if value != ""}
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise ValueError(
                f"{path}, near line {rows.line_num}: expected a step and numbers, got {error!r}"
            ) from error


def _start(path: Path) -> int:
    """The iteration at which a part of a run starts."""
    _, _, start = path.parent.name.partition("-")
    return int(start) if start.isdecimal() else 0

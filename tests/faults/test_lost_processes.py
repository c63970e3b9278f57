"""Processes, files and time that a run loses on its way: it ends soon, or goes on as ever."""

import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning
import pytest
import torch
from small_fit import arguments, fit, step, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dyngraph.cli import main
from dyngraph.train.log import read_log

ROOT = Path(__file__).parents[2]

# About loaders with few workers and few steps.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::lightning")]


@pytest.fixture
def own(root, tmp_path):
    """A set that a test may change."""
    return shutil.copytree(root, tmp_path / "set")


class Fault(lightning.Callback):
    """Something that happens in the middle of a run."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: object) -> None:
        if trainer.global_step == 3:
            self.happen(trainer)


class KillLoader(Fault):
    def happen(self, trainer: lightning.Trainer) -> None:
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


class RemoveImages(Fault):
    def happen(self, trainer: lightning.Trainer) -> None:
        for path in (trainer.datamodule.root / "images/train").iterdir():
            path.unlink()


def fault(kind):
    return f"--trainer.callbacks+={__name__}.{kind}"


def assert_same_run(folder, other):
    expected = weights(other)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(folder).items())
    assert step(folder) == step(other)


def last_line(given, capsys):
    """The one line in which a command ends within a minute."""
    start = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        main(given)
    assert stop.value.code == 2
    assert time.monotonic() - start < 60
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_process_that_loads_data_is_killed(own, tmp_path, capsys):
    run, workers = tmp_path / "run", "--data.num_workers=1"
    # More iterations than a worker loads ahead.
    line = last_line(arguments(own, run, 20, workers, fault("KillLoader")), capsys)
    assert "a process that loads data was lost" in line
    assert f"the last checkpoint is {run / 'last.ckpt'}" in line
    assert 2 <= step(run) < 20
    fit(own, run, 20)
    fit(own, tmp_path / "whole", 20)
    assert_same_run(run, tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_vanishes(own, tmp_path, workers, capsys):
    run, images = tmp_path / "run", own / "images/train"
    before = {path: path.read_bytes() for path in images.iterdir()}
    given = arguments(own, run, 20, f"--data.num_workers={workers}", fault("RemoveImages"))
    line = last_line(given, capsys)
    assert any(f"{path}: expected a readable" in line for path in before)
    assert "FileNotFoundError" in line
    assert 2 <= step(run) < 20
    for path, content in before.items():
        path.write_bytes(content)
    fit(own, run, 20)
    fit(own, tmp_path / "whole", 20)
    assert_same_run(run, tmp_path / "whole")


def test_the_clock_is_set_back(own, tmp_path, monkeypatch, caplog):
    """By an hour whenever somebody looks."""
    fit(own, tmp_path / "whole", 3)
    fit(own, tmp_path / "whole", 15)
    now = time.time()
    looks = []

    def back():
        looks.append(None)
        return now - 3600 * len(looks)

    run = tmp_path / "run"
    with caplog.at_level(logging.INFO):
        monkeypatch.setattr(time, "time", back)
        fit(own, run, 3)
        fit(own, run, 15)
        monkeypatch.undo()
    assert looks
    assert_same_run(run, tmp_path / "whole")
    assert read_log(run) == read_log(tmp_path / "whole")
    messages = [record.message for record in caplog.records if "An iteration" in record.message]
    assert len(messages) == 2
    for message in messages:
        assert 0 <= float(re.search(r"takes (.*?) s", message)[1]) < 60
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    losses = {event.step for event in events.Scalars("loss")}
    assert losses == {*read_log(run)["loss"]}


@pytest.mark.parametrize("killed", ["first", "second"])
def test_one_of_two_processes_is_killed(own, tmp_path, killed):
    script, run = tmp_path / "dyngraph.py", tmp_path / "run"
    # Lightning starts the second process by the file of the first.
    script.write_text("import sys\nsys.path.pop(0)\nfrom dyngraph.cli import main\nmain()\n")
    both = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    with (tmp_path / "errors").open("w+") as errors:
        first = subprocess.Popen(
            [sys.executable, str(script), *arguments(own, run, 100_000, *both)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        while not (run / "last.ckpt").exists() and first.poll() is None:
            time.sleep(0.01)
        assert first.poll() is None
        second = only_child(first.pid)
        start = time.monotonic()
        os.kill(first.pid if killed == "first" else second, signal.SIGKILL)
        first.wait(timeout=60)
        while is_alive(second) and time.monotonic() - start < 60:
            time.sleep(0.01)
        lived = is_alive(second)
        if lived:
            os.kill(second, signal.SIGKILL)
        assert not lived
        errors.seek(0)
        lines = errors.read().splitlines()
    assert first.returncode == (-signal.SIGKILL if killed == "first" else 2)
    assert "Traceback (most recent call last):" not in lines
    (line,) = (line for line in lines if line.startswith("dyngraph: "))
    assert "another process of this run was lost" in line
    assert f"the last checkpoint is {run / 'last.ckpt'}" in line
    # It is whole, and the run goes on.
    reached = step(run)
    fit(own, run, reached + 1)
    assert step(run) == reached + 1


def only_child(pid):
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def is_alive(pid):
    try:
        # The state follows the name, which is in brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""Training runs in processes of their own: two of them, killed ones, on a full disk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dyngraph.data import generate_scenes
from dyngraph.train.folder_lock import lock_folder

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("train_small.py")
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    # An odd number of validation images: of two processes, one has one more than the other.
    generate_scenes(folder, num_train=5, num_val=3, progress=False)
    return folder


def start(launcher, *arguments):
    return subprocess.Popen(
        [sys.executable, *launcher, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return [float(score) for score in output.split()]


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def wait_for_training(process, folder):
    while not (folder / "tensorboard").exists() and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None


def assert_same_weights(a, b):
    first, second = weights(a), weights(b)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGINT, 1)]
)
def test_a_signal_ends_a_run_that_resumes(data, tmp_path, number, workers):
    arguments = ["--steps", 60, "--checkpoint-every", 1000, "--workers", workers]
    stopped = start([], data, tmp_path / "parts", *arguments)
    wait_for_training(stopped, tmp_path / "parts")
    # A terminal sends it to all processes, to those that load data too.
    os.killpg(stopped.pid, number)
    output, errors = stopped.communicate(timeout=60)
    assert stopped.returncode == 128 + number, errors
    assert output == ""
    step = torch.load(tmp_path / "parts/last.ckpt", weights_only=True)["global_step"]
    assert 1 <= step < 60
    whole = finish(start([], data, tmp_path / "whole", *arguments))
    assert finish(start([], data, tmp_path / "parts", *arguments, "--resume")) == whole
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def processes_of(folder):
    """Those whose command line names a folder, without the launcher."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if str(folder) in words and "torch.distributed.run" not in words:
            yield int(process.name)


def test_a_signal_to_one_process_ends_both(data, tmp_path):
    arguments = ["--steps", 60, "--checkpoint-every", 1000]
    stopped = start(TWO, data, tmp_path / "parts", *arguments)
    wait_for_training(stopped, tmp_path / "parts")
    os.kill(max(processes_of(tmp_path / "parts")), signal.SIGTERM)
    _, errors = stopped.communicate(timeout=100)
    assert stopped.returncode != 0
    assert "143" in errors
    assert 1 <= torch.load(tmp_path / "parts/last.ckpt", weights_only=True)["global_step"] < 60
    whole = finish(start(TWO, data, tmp_path / "whole", *arguments))
    assert finish(start(TWO, data, tmp_path / "parts", *arguments, "--resume")) == whole
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_one_run_at_a_time_in_a_folder(data, tmp_path):
    arguments = [data, tmp_path, "--steps", 5000, "--workers", 1]
    first = start([], *arguments)
    wait_for_training(first, tmp_path)
    try:
        second = start([], *arguments, "--resume")
        _, errors = second.communicate(timeout=60)
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 1
    message = (
        f"BlockingIOError: {tmp_path}: process {first.pid} is training here: wait until it ends"
    )
    assert message in errors.splitlines()[-1]
    # Nothing but the process keeps the folder, not even those that load its data.
    with lock_folder(tmp_path):
        pass
    first.communicate()


def test_two_processes_are_one_with_the_doubled_batch(data, tmp_path):
    one = finish(start([], data, tmp_path / "one"))
    two = finish(start(TWO, data, tmp_path / "two"))
    assert len(one) == 2
    assert one == two
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=0, atol=1e-6, msg=name)


def test_two_killed_processes_resume(data, tmp_path):
    arguments = ["--steps", 60]
    whole = finish(start(TWO, data, tmp_path / "whole", *arguments))
    killed = start(TWO, data, tmp_path / "parts", *arguments)
    checkpoint = tmp_path / "parts/last.ckpt"
    while not checkpoint.exists() and killed.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    # torchrun's processes have a group each.
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(checkpoint.parent) in (process / "cmdline").read_text():
                os.kill(int(process.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue
    killed.communicate()
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 1 <= step < 60
    resumed = finish(start(TWO, data, tmp_path / "parts", *arguments, "--resume"))
    assert resumed == whole
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_full_disk_leaves_the_last_checkpoint(data, tmp_path):
    process = start([], data, tmp_path / "run", "--largest-file", 4096)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert f"{tmp_path / 'run/last.ckpt'}" in errors.splitlines()[-1]
    assert torch.load(tmp_path / "run/last.ckpt", weights_only=True)["global_step"] == 2
    finish(start([], data, tmp_path / "whole"))
    finish(start([], data, tmp_path / "run", "--resume"))
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)

import contextlib
import csv
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from dyngraph.data import generate_scenes
from dyngraph.evaluate import mean_iou, pixel_accuracy
from dyngraph.models import SmallTrunk, segmenter
from dyngraph.nn import BottleneckRepGraphBlock
from dyngraph.train import (
    SegmentationDataModule,
    SegmentationTask,
    fit,
    load_weights,
    read_log,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
# About logs that are already there and loaders without workers.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    generate_scenes(folder, num_train=5, num_val=2, progress=False)
    return folder


class TwoMaps(nn.Module):
    """A backbone with a map for an auxiliary head, which has dropout."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Conv2d(3, 8, 3, 4, 1)
        self.out = SmallTrunk(8)

    def forward(self, image):
        return {"aux": self.aux(image), "out": self.out(image)}


class InterruptionError(Exception):
    pass


class Task(SegmentationTask):
    """A small segmenter with dropout that can be made to fail at a step."""

    def __init__(self, fails_at=None, seed=0, **kwargs):
        torch.manual_seed(seed)
        model = segmenter(
            TwoMaps(),
            lambda channels: BottleneckRepGraphBlock(channels, 4),
            head_channels=8,
            aux_loss=True,
        )
        super().__init__(model, seed=seed, **kwargs)
        self.fails_at = fails_at

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == self.fails_at:
            raise InterruptionError
        return super().training_step(batch, batch_idx)


def run(scenes, folder, task=None, max_steps=7, batch_size=2, seed=0, **kwargs):
    data = SegmentationDataModule(
        scenes, crop_size=(32, 48), batch_size=batch_size, num_workers=0, seed=seed
    )
    options = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return fit(task or Task(), data, folder, max_steps, **options | kwargs)


def load(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def assert_same_end(first, second):
    """Two runs have the same weights and optimiser state, bit for bit."""
    a, b = load(first), load(second)
    assert a["global_step"] == b["global_step"]
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    assert a["state_dict"].keys() == b["state_dict"].keys()
    (old,), (new,) = a["optimizer_states"], b["optimizer_states"]
    assert old["param_groups"] == new["param_groups"]
    assert old["state"].keys() == new["state"].keys()
    for key, state in old["state"].items():
        assert state.keys() == new["state"][key].keys()
        for name, value in state.items():
            assert torch.equal(value, new["state"][key][name]), (key, name)
    assert a["lr_schedulers"] == b["lr_schedulers"]


def logged(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def losses(folder):
    return [(int(row["step"]), float(row["loss"])) for row in logged(folder) if row["loss"]]


def test_a_run(scenes, tmp_path):
    task = Task(object_classes=[13, 14], lr=0.1)
    before = {name: p.clone() for name, p in task.named_parameters()}
    scores = run(scenes, tmp_path, task, validate_every=3)
    # All but offsets, which have little to tell so small a map, moved.
    assert {n for n, p in task.named_parameters() if torch.equal(p, before[n])} <= {
        "model.classifier.1.conv.sampler.offset.weight"
    }
    confusion = torch.zeros(19, 19, dtype=torch.long)
    data = SegmentationDataModule(scenes, num_workers=0)
    data.setup("validate")
    task.eval()
    for image, label in data.val_dataloader():
        prediction = task(image).argmax(dim=1)[label != 255]
        pairs = torch.stack([label[label != 255], prediction])
        confusion += torch.bincount(pairs[0] * 19 + pairs[1], minlength=361).view(19, 19)
    expected = {
        "miou": mean_iou(confusion),
        "pixel_accuracy": pixel_accuracy(confusion),
        "object_iou": mean_iou(confusion, [13, 14]),
    }
    # Lightning logs in float32.
    assert scores == pytest.approx(expected, rel=1e-7)
    rows = logged(tmp_path / "csv")
    assert [step for step, _ in losses(tmp_path / "csv")] == list(range(7))
    assert all(0 < loss < 20 for _, loss in losses(tmp_path / "csv"))
    for column in ("lr-SGD/pg1", "lr-SGD/pg2"):
        rates = [float(row[column]) for row in rows if row[column]]
        assert rates == pytest.approx([0.1 * (1 - t / 7) ** 0.9 for t in range(7)])
    # At the number of iterations before; the last one is judged once more.
    validated = [int(row["step"]) for row in rows if row["miou"]]
    assert validated == [3, 6, 7]
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_seed_determines_a_run(scenes, tmp_path):
    run(scenes, tmp_path / "a")
    run(scenes, tmp_path / "b")
    assert_same_end(tmp_path / "a", tmp_path / "b")
    # The order and the augmentation of the data, the weights and dropout, each alone.
    run(scenes, tmp_path / "c", seed=1)
    torch.manual_seed(0)
    dropped = Task()
    dropped.seed = 1
    run(scenes, tmp_path / "d", dropped)
    for other in ("c", "d"):
        with pytest.raises(AssertionError):
            assert_same_end(tmp_path / "a", tmp_path / other)


@pytest.mark.slow
@pytest.mark.parametrize("fails_at", [3, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_ends_like_one_that_was_not_interrupted(
    scenes, tmp_path, fails_at, accumulate
):
    options = {"checkpoint_every": 3, "validate_every": 2, "batch_size": 4}
    options["accumulate_grad_batches"] = accumulate
    run(scenes, tmp_path / "whole", **options)
    with pytest.raises(InterruptionError):
        run(scenes, tmp_path / "parts", Task(fails_at=fails_at), **options)
    assert load(tmp_path / "parts")["global_step"] == 3
    # Another process would be in another random state.
    torch.manual_seed(99)
    scores = run(scenes, tmp_path / "parts", resume=True, **options)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    # What was logged before the interruption stays, and what comes after it goes on from there.
    whole, before, after = (
        losses(tmp_path / part) for part in ("whole/csv", "parts/csv", "parts/csv-3")
    )
    assert before[:3] == whole[:3]
    assert after == whole[3:]
    read = {name: read_log(tmp_path / name)["miou"] for name in ("whole", "parts")}
    assert [*read["whole"]] == [*read["parts"]] == [2, 4, 6, 7]
    assert read["whole"] == read["parts"]
    # The finished run, again: there is nothing left to do but to judge.
    assert run(scenes, tmp_path / "parts", resume=True, **options) == scores
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_resume_without_a_checkpoint_starts(scenes, tmp_path):
    run(scenes, tmp_path / "a", max_steps=2)
    run(scenes, tmp_path / "b", max_steps=2, resume=True)
    assert_same_end(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(("max_steps", "checkpoint_every"), [(2, 500), (4, 3), (4, 2)])
def test_the_last_step_is_saved(scenes, tmp_path, max_steps, checkpoint_every):
    task = Task()
    run(scenes, tmp_path, task, max_steps=max_steps, checkpoint_every=checkpoint_every)
    checkpoint = load(tmp_path)
    assert checkpoint["global_step"] == max_steps
    for name, value in task.state_dict().items():
        assert torch.equal(checkpoint["state_dict"][name], value), name
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]


def rates(folder):
    return [float(row["lr-SGD/pg1"]) for row in logged(folder) if row["lr-SGD/pg1"]]


def test_a_longer_run_goes_on_with_the_schedule_of_its_length(scenes, tmp_path):
    run(scenes, tmp_path, Task(lr=0.1), max_steps=4)
    run(scenes, tmp_path, Task(lr=0.1), max_steps=12, resume=True)
    steps = range(4, 12)
    assert [step for step, _ in losses(tmp_path / "csv-4")] == list(steps)
    assert rates(tmp_path / "csv-4") == [0.1 * (1 - t / 12) ** 0.9 for t in steps]
    assert load(tmp_path)["global_step"] == 12


def test_a_longer_run_goes_on_with_the_same_samples(scenes, tmp_path):
    """With no learning rate, losses tell samples and dropout alone."""
    run(scenes, tmp_path / "whole", Task(lr=0.0), max_steps=6)
    run(scenes, tmp_path / "parts", Task(lr=0.0), max_steps=4)
    run(scenes, tmp_path / "parts", Task(lr=0.0), max_steps=6, resume=True)
    assert losses(tmp_path / "parts/csv-4") == losses(tmp_path / "whole/csv")[4:]


def test_a_resumed_run_takes_the_optimizer_as_it_is_set_now(scenes, tmp_path):
    run(scenes, tmp_path, Task(lr=0.1, momentum=0.9, weight_decay=5e-4), max_steps=2)
    before = load(tmp_path)
    run(
        scenes,
        tmp_path,
        Task(lr=0.02, momentum=0.5, weight_decay=0.0),
        max_steps=3,
        resume=True,
    )
    after = load(tmp_path)
    assert rates(tmp_path / "csv-2") == [0.02 * (1 - 2 / 3) ** 0.9]
    groups = after["optimizer_states"][0]["param_groups"]
    assert [(g["momentum"], g["weight_decay"]) for g in groups] == [(0.5, 0.0)] * 2
    # One step by hand, with the momentum so far: p - lr (m v + g) has v' = m v + g.
    (old,), (new,) = before["optimizer_states"], after["optimizer_states"]
    names = [name for name, p in Task().named_parameters() if p.dim() > 1]
    lr = 0.02 * (1 - 2 / 3) ** 0.9
    for number, name in enumerate(names):
        step = before["state_dict"][name] - after["state_dict"][name]
        buffer = new["state"][number]["momentum_buffer"]
        torch.testing.assert_close(step, lr * buffer, rtol=1e-5, atol=1e-7)
        assert not torch.equal(buffer, old["state"][number]["momentum_buffer"])


def test_a_resumed_run_goes_on_with_an_optimizer_and_a_schedule_by_class(scenes, tmp_path):
    def task(**kwargs):
        schedule = partial(CosineAnnealingLR, T_max=5)
        return Task(optimizer=torch.optim.RAdam, scheduler=schedule, lr=0.01, **kwargs)

    run(scenes, tmp_path / "whole", task(), max_steps=5, checkpoint_every=3)
    with pytest.raises(InterruptionError):
        run(scenes, tmp_path / "parts", task(fails_at=4), max_steps=5, checkpoint_every=3)
    run(scenes, tmp_path / "parts", task(), max_steps=5, checkpoint_every=3, resume=True)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    rates = [float(r["lr-RAdam/pg1"]) for r in logged(tmp_path / "whole/csv") if r["lr-RAdam/pg1"]]
    assert rates == pytest.approx([0.005 * (1 + math.cos(math.pi * t / 5)) for t in range(5)])


def test_loggers_beside_ours(scenes, tmp_path):
    run(scenes, tmp_path / "run", max_steps=2, loggers=[CSVLogger(tmp_path, "other", "")])
    assert losses(tmp_path / "other") == losses(tmp_path / "run/csv")


def test_fewer_steps_than_there_were(scenes, tmp_path):
    run(scenes, tmp_path, max_steps=3)
    with pytest.raises(ValueError, match=r"^max_steps: expected at least 3, as in .*, got 2$"):
        run(scenes, tmp_path, max_steps=2, resume=True)


SETTINGS = {
    "task": "segmentation",
    "seed": 0,
    "data": {"root": "a", "batch_size": 2, "max_pixels": 4, "check": None},
    "network": {"context": {"class_path": "dyngraph.nn.DGMNBlock", "init_args": {"rates": [1, 6]}}},
    "model": {"optimizer": "sgd", "lr": 0.1},
    "trainer": {"folder": "a", "max_steps": 1, "accumulate_grad_batches": 1},
}
CLASSES = {"names": ["road", "sky"], "palette": [[0, 0, 0], [1, 2, 255]]}


def recorded(scenes, folder, settings=None, classes=None, **options):
    record = {"settings": SETTINGS | (settings or {}), "classes": CLASSES | (classes or {})}
    return run(scenes, folder, max_steps=1, record=record, **options)


def test_a_record_is_in_the_checkpoint(scenes, tmp_path):
    recorded(scenes, tmp_path)
    assert load(tmp_path)["record"] == {"settings": SETTINGS, "classes": CLASSES}
    changed = {
        "data": {"root": "b", "batch_size": 2, "max_pixels": 5, "check": True},
        "model": {"optimizer": "sgd", "lr": 0.2},
        "trainer": {"folder": "b", "max_steps": 2, "accumulate_grad_batches": 1},
    }
    recorded(scenes, tmp_path, changed, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1}, "seed: expected 0, as the run was started with, got 1"),
        ({"task": "detection"}, "task: expected 'segmentation', .* got 'detection'"),
        ({"data": {"batch_size": 4}}, "data.batch_size: expected 2, .* got 4"),
        ({"network": {"context": None}}, r"network.context: expected {.*\[1, 6\].*}, .* got None"),
        ({"model": {"optimizer": "adamw"}}, "model.optimizer: expected 'sgd', .* got 'adamw'"),
        ({"trainer": {"accumulate_grad_batches": 2}}, "trainer.accumulate_grad_b.* 1, .* got 2"),
    ],
)
def test_settings_that_have_to_stay(scenes, tmp_path, settings, message):
    recorded(scenes, tmp_path)
    with pytest.raises(ValueError, match=rf"^{tmp_path / 'last.ckpt'}: {message}$"):
        recorded(scenes, tmp_path, settings, resume=True)


def test_with_a_schedule_by_class_the_learning_rate_has_to_stay(scenes, tmp_path):
    settings = {"model": {"scheduler": {"class_path": "CosineAnnealingLR"}, "lr": 0.1}}
    recorded(scenes, tmp_path, settings)
    settings["model"] = {**settings["model"], "lr": 0.2}
    with pytest.raises(ValueError, match=r"model.lr: expected 0.1, .* got 0.2$"):
        recorded(scenes, tmp_path, settings, resume=True)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sky", "road"], "names, 0: expected 'road', as the network was trained for, got 'sky'"),
        (["road"], "names, 1: expected 'sky', .* got None"),
        (["road", "sky", "car"], "names, 2: expected None, .* got 'car'"),
    ],
)
def test_classes_have_to_stay(scenes, tmp_path, names, message):
    recorded(scenes, tmp_path)
    with pytest.raises(ValueError, match=rf"^{tmp_path / 'last.ckpt'}: classes, {message}$"):
        recorded(scenes, tmp_path, classes={"names": names}, resume=True)


@pytest.mark.parametrize("record", [3, {"settings": {}}, {"settings": {}, "classes": {
    "names": ["a"], "palette": [[0, 0, 256]]}}])  # fmt: skip
def test_a_broken_record_is_named(scenes, tmp_path, record):
    run(scenes, tmp_path, max_steps=1)
    torch.save(load(tmp_path) | {"record": record}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=rf"^{tmp_path / 'last.ckpt'}: record: expected settings"):
        run(scenes, tmp_path, resume=True)


def test_a_new_run_does_not_overwrite_another(scenes, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"last\.ckpt exists: resume that run, or choose"):
        run(scenes, tmp_path)
    assert (tmp_path / "last.ckpt").read_bytes() == b"precious"


@pytest.mark.parametrize("damage", ["empty", "truncated", "other"])
def test_broken_checkpoints_are_named(scenes, tmp_path, damage):
    path = tmp_path / "last.ckpt"
    torch.save({"global_step": 3, "state_dict": torch.randn(5000)}, path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": content[:9000], "other": b"text" * 99}[damage])
    with pytest.raises(OSError, match=rf"{path}: expected a readable checkpoint, got "):
        run(scenes, tmp_path, resume=True)


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_no_code(scenes, tmp_path):
    path, made = tmp_path / "last.ckpt", tmp_path / "made"
    torch.save({"global_step": 3, "state_dict": Touch(made)}, path)
    with pytest.raises(OSError, match=rf"^{path}: expected a readable checkpoint, got ") as error:
        run(scenes, tmp_path, resume=True)
    assert not made.exists()
    assert "weights_only=False" not in str(error.value)
    torch.load(path, weights_only=False)
    assert made.exists()


def test_flipped_bytes_are_noticed(scenes, tmp_path):
    path = tmp_path / "last.ckpt"
    run(scenes, tmp_path, max_steps=1)
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for count in (1, 50):
        for _ in range(20):
            content = bytearray(whole)
            for place in torch.randint(len(whole) - 80, (count,), generator=generator).tolist():
                content[place] ^= 0xFF
            path.write_bytes(content)
            message = rf"^{path}: expected a readable checkpoint, got .*digest"
            with pytest.raises(OSError, match=message):
                load_weights(Task(), path)
    with pytest.raises(OSError, match=message):
        run(scenes, tmp_path, resume=True)
    path.write_bytes(whole)
    assert load_weights(Task(), path) == 1


def test_a_checkpoint_without_a_digest_loads(scenes, tmp_path):
    run(scenes, tmp_path, max_steps=1)
    torch.save(load(tmp_path), tmp_path / "last.ckpt")
    assert load_weights(Task(), tmp_path / "last.ckpt") == 1
    run(scenes, tmp_path, max_steps=2, resume=True)


def test_batches_that_cannot_be_shared(scenes, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"^batch_size: expected a multiple of 1 processes x 2 accumulated batches, got 3",
    ):
        run(scenes, tmp_path, batch_size=3, accumulate_grad_batches=2)


# --- killed -------------------------------------------------------------------------------------

# The example as it is, with its recipe for small scenes on scenes that were made before.
SMALL_RUN = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import torch, train_cityscapes
torch.set_num_threads(1)
train_cityscapes.PAPER = train_cityscapes.SMALL
train_cityscapes.main()
"""


def start(scenes, folder, *more):
    options = {
        "--data": scenes, "--out": folder, "--context": "repgraph", "--steps": 40,
        "--batch-size": 2, "--workers": 1, "--checkpoint-every": 5, "--accelerator": "cpu",
    }  # fmt: skip
    arguments = [str(word) for pair in options.items() for word in pair]
    return subprocess.Popen(
        [sys.executable, "-c", SMALL_RUN, *arguments, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_not(scenes, tmp_path):
    whole = start(scenes, tmp_path / "whole")
    killed = start(scenes, tmp_path / "parts")
    checkpoint = tmp_path / "parts" / "last.ckpt"
    while killed.poll() is None and not checkpoint.exists():
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert 5 <= load(tmp_path / "parts")["global_step"] < 40
    output = finish(whole)
    resumed = finish(start(scenes, tmp_path / "parts", "--resume"))
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    # What a run prints at its end are its scores.
    scores = [line for line in output.splitlines() if line.startswith(("miou", "pixel_accuracy"))]
    assert len(scores) == 2
    assert [line for line in resumed.splitlines() if line in scores] == scores

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from dyngraph.data import generate_scenes
from dyngraph.evaluate import mean_iou, pixel_accuracy
from dyngraph.models import SmallTrunk, segmenter
from dyngraph.nn import BottleneckRepGraphBlock
from dyngraph.train import SegmentationDataModule, SegmentationTask, fit, read_log

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
        assert torch.equal(state["momentum_buffer"], new["state"][key]["momentum_buffer"]), key
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

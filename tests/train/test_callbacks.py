"""What a run tells while it goes on."""

import logging
import re

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dyngraph.data import generate_scenes
from dyngraph.models import segmenter
from dyngraph.train import LogPictures, SegmentationDataModule, SegmentationTask, fit, load_weights

# About logs that are already there and loaders without workers.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


def run(folder, context="bottleneck_repgraph", max_steps=2, callbacks=None):
    torch.manual_seed(0)
    generate_scenes(folder / "data", num_train=2, num_val=1, progress=False)
    task = SegmentationTask(segmenter("small_trunk", context, head_channels=8), lr=0.1)
    data = SegmentationDataModule(folder / "data", crop_size=(32, 48), batch_size=2, num_workers=0)
    data.setup("fit")
    fit(
        task,
        data,
        folder / "run",
        max_steps,
        callbacks=[LogPictures(data.val)] if callbacks is None else callbacks,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return task


@pytest.mark.parametrize(
    ("context", "names"),
    [
        (None, {"segmentation"}),
        ("bottleneck_repgraph", {"segmentation", "nodes"}),
        ("dgmn", {"segmentation", "rates"}),
    ],
)
def test_pictures_for_tensorboard(tmp_path, context, names):
    run(tmp_path, context)
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert set(events.Tags()["images"]) == names
    for name in names:
        (picture, *_) = events.Images(name)
        assert picture.step == 2
        assert picture.width > 100
    pages = [*(tmp_path / "run").glob("viewer/*.html")]
    assert len(pages) == (0 if context is None else 1)


def test_pictures_change_nothing(tmp_path):
    for name, callbacks in (("with", None), ("without", [])):
        run(tmp_path / name, callbacks=callbacks)
    first, second = (
        torch.load(tmp_path / name / "run/last.ckpt", weights_only=True)["state_dict"]
        for name in ("with", "without")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_estimate_of_the_time_and_memory(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run(tmp_path, max_steps=12, callbacks=[])
    (line,) = (record.message for record in caplog.records if "iteration" in record.message)
    pattern = r"An iteration takes (.*) s, the remaining 2 about .* memory: (.*) GB per process"
    seconds, gigabytes = map(float, re.fullmatch(pattern, line).groups())
    assert 0 <= seconds < 60
    assert 0.1 < gigabytes < 100


def test_averaged_weights(tmp_path):
    """Lightning's own average, in a checkpoint that loads."""
    task = run(tmp_path, max_steps=3, callbacks=[EMAWeightAveraging(decay=0.5)])
    assert load_weights(task, tmp_path / "run/last.ckpt") == 3

"""Samples that are placed during a run."""

import lightning
import pytest
import torch

from dyngraph.data import generate_scenes
from dyngraph.models import segmenter
from dyngraph.train import PlaceSamples, SegmentationDataModule, SegmentationTask, fit

# About logs that are already there and loaders without workers.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    generate_scenes(folder, num_train=4, num_val=1, progress=False)
    return folder


class Stop(lightning.Callback):
    """Ends the run in the middle of the search."""

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == 4:
            raise KeyboardInterrupt


def run(scenes, folder, *callbacks, resume=False, max_steps=8, context="repgraph"):
    torch.manual_seed(0)
    model = segmenter("small_trunk", context, head_channels=8)
    task = SegmentationTask(model, lr=0.1)
    data = SegmentationDataModule(scenes, crop_size=(32, 48), batch_size=2, num_workers=0)
    fit(
        task,
        data,
        folder,
        max_steps,
        resume=resume,
        checkpoint_every=1,
        callbacks=callbacks,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (offset,) = (value for name, value in model.state_dict().items() if "offset.bias" in name)
    return offset, torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def test_samples_are_placed_once(scenes, tmp_path):
    moved = run(scenes, tmp_path / "placed", PlaceSamples(since=0.25, at=0.8))[0]
    plain = run(scenes, tmp_path / "plain", PlaceSamples(since=0.25, at=0.95))[0]
    # The second would place them after the last iteration: its search ends without a change.
    assert (moved - plain).abs().max() > 1
    # One step of learning after the placing moves a sample by less than half a node.
    assert (moved - moved.round()).abs().max() < 0.5


def test_a_resumed_run_places_the_same(scenes, tmp_path):
    _, whole = run(scenes, tmp_path / "whole", PlaceSamples(since=0.3, at=0.7))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(scenes, tmp_path / "parts", PlaceSamples(since=0.3, at=0.7), Stop())
    callback = PlaceSamples(since=0.3, at=0.7)
    _, parts = run(scenes, tmp_path / "parts", callback, resume=True)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_model_without_samples_is_an_error_at_once(scenes, tmp_path):
    with pytest.raises(ValueError, match=r"^model: expected a RepGraphConv with an OffsetSampler"):
        run(scenes, tmp_path, PlaceSamples(), context="nonlocal")
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize(("since", "at"), [(0.5, 0.5), (-0.1, 0.5), (0.5, 1)])
def test_shares_are_in_order(since, at):
    with pytest.raises(ValueError, match=r"^since, at: expected 0 <= since < at < 1, got"):
        PlaceSamples(since, at)

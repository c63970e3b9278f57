"""What the papers compare with, from a file of settings."""

import pytest
import torch
import yaml

from dyngraph.cli import main
from dyngraph.data import GENERATORS, generate_coco

# About loaders without workers, logs of few steps and callbacks that watch nothing.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")

TRAINER = {
    "max_steps": 1,
    "limit_val_batches": 1,
    "accelerator": "cpu",
    "sync_batchnorm": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
DGMN = "dyngraph.nn.DGMNBlock"
DEFORMABLE = {"affinity": False, "filters": False}


def run(path, settings, capsys):
    """Trains from a file, and returns the names of the weights."""
    (path / "run.yaml").write_text(yaml.safe_dump(settings))
    main(["fit", f"--config={path / 'run.yaml'}"])
    capsys.readouterr()
    return torch.load(path / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cityscapes")
    GENERATORS["cityscapes"](folder, num_train=2, num_val=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    generate_coco(folder, num_train=2, num_val=1, progress=False)
    return folder


@pytest.mark.parametrize(
    ("context", "weight"),
    [
        ("aspp", "convs.3.0.weight"),
        ("gcnet", "lin_score.weight"),
        ("ccnet", "conv.lin_query.weight"),
        ("danet", "channel.0.scale"),
        ({"class_path": "dyngraph.models.NonLocalHead"}, "1.lin_out.weight"),
        (
            {"class_path": DGMN, "init_args": {"rates": [1, 6, 12, 24], **DEFORMABLE}},
            "conv.messages.3.static_filter",
        ),
    ],
    ids=str,
)
def test_segmenters(context, weight, scenes, tmp_path, capsys):
    settings = {
        "data": {"root": str(scenes), "crop_size": [64, 64], "batch_size": 2, "num_workers": 0},
        "network": {"backbone": "small", "head_channels": 16, "context": context},
        "trainer": {"folder": str(tmp_path), **TRAINER},
    }
    assert f"model.classifier.1.{weight}" in run(tmp_path, settings, capsys)


@pytest.mark.parametrize(
    ("context", "place", "weight"),
    [
        ("gcnet", "res4", "layer3.0.dyngraph_before.lin_score.weight"),
        ("gcnet", "c5", "layer4.0.conv2.dyngraph_before.lin_score.weight"),
        ("ccnet", "res4", "layer3.0.dyngraph_before.scale"),
        ("dgmn", "res4", "layer3.0.dyngraph_before.conv.messages.3.prediction"),
        ("deformable", "c5", "layer4.0.conv1.offset_mask.weight"),
        (
            {
                "class_path": DGMN,
                "init_args": {"rates": [1, 4, 8, 12], "fusion": "sum", **DEFORMABLE},
            },
            "res4",
            "layer3.0.dyngraph_before.conv.messages.3.static_filter",
        ),
    ],
    ids=str,
)
def test_detectors(context, place, weight, coco, tmp_path, capsys):
    settings = {
        "task": "detection",
        "data": {"root": str(coco), "batch_size": 2, "num_workers": 0},
        "network": {
            "backbone": "small",
            "context": context,
            "context_at": place,
            "min_size": 32,
            "max_size": 128,
            "pyramid_channels": 16,
            "box_batch_size_per_image": 8,
        },
        "trainer": {"folder": str(tmp_path), **TRAINER},
    }
    assert f"model.backbone.body.{weight}" in run(tmp_path, settings, capsys)

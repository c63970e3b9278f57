"""What the papers compare with, from a file of settings."""

import pytest
import torch
import yaml
from torch import nn

from dyngraph.cli import main, segmentation
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
        "network": {"backbone": "small_trunk", "head_channels": 16, "context": context},
        "trainer": {"folder": str(tmp_path), **TRAINER},
    }
    assert f"model.classifier.1.{weight}" in run(tmp_path, settings, capsys)


@pytest.mark.slow
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
            "backbone": "resnet10",
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


def activation_settings(activation, scenes, path):
    context = {"class_path": DGMN, "init_args": {"rates": [1], "activation": activation}}
    return {
        "data": {"root": str(scenes), "crop_size": [64, 64], "batch_size": 2, "num_workers": 0},
        "network": {"backbone": "small_trunk", "head_channels": 16, "context": context},
        "trainer": {"folder": str(path), **TRAINER},
    }


@pytest.fixture
def networks(monkeypatch):
    """The segmenters that the commands build."""
    built = []
    segmenter = segmentation.segmenter

    def keep(*args, **kwargs):
        built.append(segmenter(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr(segmentation, "segmenter", keep)
    return built


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (None, None),
        ("torch.relu", torch.relu),
        ("torch.nn.functional.gelu", nn.functional.gelu),
        ("torch.nn.ReLU", nn.ReLU()),
        (
            {"class_path": "torch.nn.LeakyReLU", "init_args": {"negative_slope": 0.25}},
            nn.LeakyReLU(0.25),
        ),
    ],
    ids=["none", "builtin", "function", "class", "class with arguments"],
)
def test_the_function_on_node_features(activation, expected, scenes, tmp_path, networks, capsys):
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump(activation_settings(activation, scenes, tmp_path))
    )
    main(["fit", f"--config={tmp_path / 'run.yaml'}"])
    fitted = capsys.readouterr().out
    # The settings that a run writes build the same network.
    main(["validate", f"--config={tmp_path / 'config.yaml'}"])
    assert capsys.readouterr().out == fitted
    for network in networks:
        found = network.classifier[1].conv.activation
        if isinstance(expected, nn.Module):
            # A module says its arguments.
            assert repr(found) == repr(expected)
        else:
            assert found is expected
    assert len(networks) == 2


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        ("torch.nope", "module 'torch' has no attribute 'nope'"),
        ("nowhere.relu", "No module named 'nowhere'"),
        ("relu", "Expected a dot import path string: relu"),
        ("math.pi", "Unexpected import object 3.14"),
        ({"class_path": "torch.nn.ReLU", "init_args": {"slope": 1}}, "slope"),
    ],
    ids=str,
)
def test_what_is_no_function_is_named(activation, message, scenes, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump(activation_settings(activation, scenes, tmp_path))
    )
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--config={tmp_path / 'run.yaml'}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("dyngraph: --network.context: activation: ")
    assert len(error.splitlines()) == 1
    assert message in error
    assert not (tmp_path / "last.ckpt").exists()

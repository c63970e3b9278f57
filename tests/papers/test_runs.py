"""Recipes run: a sample of them, or all by ``make recipes``."""

import os
from pathlib import Path

import pytest
import torch
from small_runs import DETECTOR, SEGMENTER, scores

from dyngraph.cli import main
from dyngraph.config import read_config
from dyngraph.data import GENERATORS, generate_coco

ROOT = Path(__file__).parents[2]
SAMPLE = [
    "repgraph/cityscapes_test",
    "repgraph/layers_5",
    "repgraph/nonlocal_sum",
    "repgraph/grid_65",
    "dgmn/cityscapes_test",
    "dgmn/aspp",
    "dgmn/nonlocal",
    "dgmn2/cityscapes_tiny",
    "camvid/repgraph",
    "coco/ccnet_resnet50",
    "coco/deformable_c5_resnet50",
    "coco/dgmn_c4_c5_resnet50",
]
ALL = sorted(
    path.relative_to(ROOT / "configs").with_suffix("").as_posix()
    for path in ROOT.glob("configs/*/*.yaml")
)
CHOSEN = ALL if os.environ.get("ALL_RECIPES") else SAMPLE
# About loaders without workers, logs of few steps and callbacks that watch nothing.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::lightning")]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A generated set of each kind, by name."""
    folder = tmp_path_factory.mktemp("data")
    for name, generate in GENERATORS.items():
        generate(folder / name, num_train=2, num_val=2, progress=False)
    generate_coco(folder / "coco", num_train=2, num_val=4, progress=False)
    return folder


def arguments_of_a_segmenter(recipe, data):
    found = [*SEGMENTER, f"--data.root={data / recipe['data']['dataset']}"]
    # No test can load ImageNet weights.
    if isinstance(recipe["network"]["backbone"], dict):
        found += ["--network.backbone.init_args.weights=null"]
    else:
        found += ["--network.weights_backbone=null"]
    if "inference" in recipe.get("model", {}):
        # The stride first: it must never be larger than the window.
        small = {"stride": [64, 64], "window": [64, 64], "scales": [1.0]}
        found += [f"--model.inference.{name}={value}" for name, value in small.items()]
    return found


@pytest.mark.parametrize("file", CHOSEN)
def test_a_recipe_runs(file, data, tmp_path, capsys):
    path = ROOT / "configs" / f"{file}.yaml"
    recipe = read_config(path)
    is_detector = recipe.get("task") == "detection"
    if is_detector:
        arguments = [*DETECTOR, f"--data.root={data / 'coco'}"]
    else:
        arguments = arguments_of_a_segmenter(recipe, data)
    main(["fit", f"--config={path}", *arguments, f"--trainer.folder={tmp_path}"])
    found = scores(capsys)
    if is_detector:
        assert {"box_ap", "mask_ap", "box_ap50", "box_ap75"} <= found.keys()
    else:
        assert 0 <= float(found["miou"]) <= 1
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2

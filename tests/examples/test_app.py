"""The page that runs a network on the images that one gives it, without its server."""

import html
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import TINY_DETECTOR, TINY_SEGMENTER

from dyngraph.cli import load_trained, main
from dyngraph.data import generate_coco, generate_scenes
from dyngraph.models import from_pretrained, mask_rcnn, segmenter

# About loaders without workers and logs of few steps.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")

SPEC = importlib.util.spec_from_file_location("app", Path(__file__).parents[2] / "examples/app.py")
app = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(app)

PIXELS = np.random.default_rng(0).integers(256, size=(64, 96, 3), dtype=np.uint8)


def page_of(frame):
    text = html.unescape(re.fullmatch(r'<iframe srcdoc="(.*?)".*', frame, re.S)[1])
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)<', text)[1])


@pytest.fixture(scope="module")
def segmenter_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streets")
    model = segmenter("small_trunk", "repgraph", num_classes=3, head_channels=8)
    model.save_pretrained(folder, class_names=["road", "car", "sky"])
    return folder


def test_a_segmenter_from_a_folder(segmenter_folder):
    demo = app.Demo(str(segmenter_folder))
    shown, frame = demo(PIXELS)
    assert (shown.shape, shown.dtype) == (PIXELS.shape, np.uint8)
    # Half the image, half the colours of classes.
    colours = 2 * shown.astype(int) - PIXELS
    near = (np.abs(colours[:, :, None] - demo.palette.numpy().astype(int)) <= 1).all(-1).any(-1)
    assert near.all()
    page = page_of(frame)
    assert page["classes"] == ["road", "car", "sky"]
    assert page["models"][0]["segmentation"] is not None
    assert [layer["kind"] for layer in page["models"][0]["layers"]] == ["RepGraphConv"]


def test_large_images_are_made_smaller(segmenter_folder):
    shown, frame = app.Demo(str(segmenter_folder), longest=48)(PIXELS)
    assert shown.shape == (32, 48, 3)
    assert page_of(frame)["picture"]["width"] == 48


def test_a_network_without_samples(tmp_path):
    segmenter("small_trunk", num_classes=3, head_channels=8).save_pretrained(tmp_path)
    shown, text = app.Demo(str(tmp_path))(PIXELS)
    assert shown.shape == PIXELS.shape
    assert text == "This network has no layer that listens to samples."


@pytest.mark.slow
def test_a_detector_from_a_folder(tmp_path):
    mask_rcnn("resnet10", context="repgraph", num_classes=3, min_size=64).save_pretrained(tmp_path)
    shown, frame = app.Demo(str(tmp_path))(PIXELS)
    assert shown.shape == PIXELS.shape
    assert page_of(frame)["models"][0]["objects"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_checkpoint_of_fit(task, tmp_path, capsys):
    make = {"segmentation": generate_scenes, "detection": generate_coco}[task]
    make(tmp_path / "data", num_train=2, num_val=2, progress=False)
    arguments = TINY_SEGMENTER if task == "segmentation" else TINY_DETECTOR
    run = [f"--data.root={tmp_path / 'data'}", f"--trainer.folder={tmp_path / 'run'}", *arguments]
    if task == "detection":
        run.append("--network.context=repgraph")
    main(["fit", *run])
    capsys.readouterr()
    checkpoint = tmp_path / "run/last.ckpt"
    demo = app.Demo(str(checkpoint))
    shown, frame = demo(PIXELS)
    assert shown.shape == PIXELS.shape
    assert page_of(frame)["classes"] == [*demo.names]
    assert capsys.readouterr().out == ""
    # What was trained can be given to others, and is what the checkpoint holds.
    model, classes = load_trained(checkpoint)
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    model.save_pretrained(tmp_path / "saved")
    same = from_pretrained(tmp_path / "saved")
    assert same.class_names == tuple(classes["names"])
    for name, tensor in same.state_dict().items():
        assert torch.equal(tensor, weights[f"model.{name}"]), name


def test_a_checkpoint_of_something_else(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "global_step": 1}, path)
    with pytest.raises(ValueError, match=f"^{path}: expected a checkpoint of the command fit"):
        app.Demo(str(path))


def test_the_interface(segmenter_folder, tmp_path):
    gradio = pytest.importorskip("gradio")
    picture = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(picture)
    demo = app.Demo(str(segmenter_folder))
    interface = app.build(demo)
    assert isinstance(interface, gradio.Blocks)
    assert interface.fn is demo
    assert [type(part) for part in interface.input_components] == [gradio.Image]
    assert [type(part) for part in interface.output_components] == [gradio.Image, gradio.HTML]
    shown, frame = interface(str(picture))
    assert Path(shown).stat().st_size > 0
    assert page_of(frame)["classes"] == ["road", "car", "sky"]


def test_what_is_missing_is_named(segmenter_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        ImportError, match=r"needs gradio: pip install 'dyngraph\[train,hub,app\]'$"
    ):
        app.build(app.Demo(str(segmenter_folder)))

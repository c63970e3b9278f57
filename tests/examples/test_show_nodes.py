"""Pictures of the nodes of a trained segmenter."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from PIL import Image
from scripts import run_script

from dyngraph.models import segmenter
from dyngraph.train import SegmentationTask

SCRIPT = Path(__file__).parents[2] / "examples/show_nodes.py"


def show(folder, context, *options):
    model = segmenter("small_trunk", context, head_channels=8)
    torch.save({"state_dict": SegmentationTask(model).state_dict()}, folder / "last.ckpt")
    Image.new("RGB", (96, 64)).save(folder / "image.png")
    arguments = [folder / "image.png", "--backbone", "small_trunk", "--head-channels", "8"]
    arguments += ["--context", context, "--out", folder / "nodes.png"]
    return run_script(SCRIPT, *arguments, "--checkpoint", folder / "last.ckpt", *options)


def colours(path):
    """Whether there are pixels in the colours of pixels and samples, over a black image."""
    red, green, blue = np.moveaxis(matplotlib.image.imread(path)[..., :3], 2, 0)
    return {
        "blue": bool(((blue > 0.9) & (red < 0.1) & (green < 0.1)).any()),
        "red": bool(((red > 0.9) & (green < 0.1) & (blue < 0.1)).any()),
        "yellow": bool(((red > 0.6) & (green > 0.5) & (blue < 0.5 * red)).any()),
    }


@pytest.mark.parametrize(
    ("context", "found"),
    [
        ("repgraph", {"blue": True, "red": True, "yellow": False}),
        ("dgmn", {"blue": False, "red": True, "yellow": True}),
    ],
)
def test_the_papers_figures(tmp_path, context, found, capsys):
    assert show(tmp_path, context, "--pixels", "32,48", "20,20") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'nodes.png'}\n"
    assert colours(tmp_path / "nodes.png") == found


def test_a_context_without_samples_is_refused(tmp_path, capsys):
    assert show(tmp_path, "nonlocal") == 2
    message = "--context: expected repgraph, bottleneck_repgraph or dgmn, got nonlocal"
    assert message in capsys.readouterr().err

"""Exported blocks compute the same in ONNX Runtime, on maps of any size."""

import numpy as np
import pytest
import torch

from dyngraph.models import segmenter
from dyngraph.nn import BottleneckRepGraphBlock, DGMNBlock, NonLocalBlock, RepGraphBlock

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.slow


def run_onnx(module, example, path, **kwargs):
    """A function that runs the exported module."""
    torch.onnx.export(module, (example,), path, opset_version=20, verbose=False, **kwargs)
    session = onnxruntime.InferenceSession(path)
    (name,) = (node.name for node in session.get_inputs())
    return lambda x: session.run(None, {name: x.numpy()})[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: NonLocalBlock(8, groups=2),
        lambda: RepGraphBlock(8, groups=2, spread=3.0),
        lambda: RepGraphBlock(8, cell_size=2, spread=3.0),
        lambda: BottleneckRepGraphBlock(8, spread=3.0, fusion="concat"),
        lambda: DGMNBlock(8, rates=(1, 2)),
        lambda: DGMNBlock(8, rates=(2,), groups=0, filters=False, fusion="sum"),
    ],
    ids=["Non-local", "RepGraph", "Grid RepGraph", "bottleneck", "DGMN", "DGMN, affinities"],
)
def test_blocks(make, tmp_path):
    torch.manual_seed(0)
    block = make().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    shapes = {2: torch.export.Dim("height", min=4), 3: torch.export.Dim("width", min=4)}
    run = run_onnx(
        block, torch.randn(2, 8, 6, 7), tmp_path / "block.onnx", dynamic_shapes=(shapes,)
    )
    for size in ((6, 7), (4, 9)):
        x = torch.randn(2, 8, *size)
        with torch.no_grad():
            expected = block(x).numpy()
        np.testing.assert_allclose(run(x), expected, rtol=1e-4, atol=1e-5)


class Scores(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        return self.model(image)["out"]


@pytest.mark.parametrize("context", ["bottleneck_repgraph", "dgmn"])
def test_segmenter(context, tmp_path):
    torch.manual_seed(0)
    model = Scores(segmenter("small_trunk", context, head_channels=16)).eval()
    image = torch.randn(1, 3, 64, 64)
    run = run_onnx(model, image, tmp_path / "segmenter.onnx")
    with torch.no_grad():
        expected = model(image).numpy()
    np.testing.assert_allclose(run(image), expected, rtol=1e-4, atol=1e-5)

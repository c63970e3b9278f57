"""Where a network listens, whatever its layers are."""

import numpy as np
import pytest
import torch

from dyngraph.models import mask_rcnn, segmenter
from dyngraph.nn import DGMNBlock
from dyngraph.viz import draw_detector_listening, draw_listening


def pixels_of(figure):
    """The pixels (x, y) that listen: the last collection of each panel."""
    return [tuple(axes.collections[-1].get_offsets()[0]) for axes in figure.axes]


@pytest.mark.parametrize(
    ("context", "names"),
    [
        (None, []),
        ("nonlocal", []),
        ("repgraph", ["nodes"]),
        (lambda channels: DGMNBlock(channels, (1, 3)), ["rates"]),
    ],
)
def test_a_figure_for_the_layer_of_the_model(context, names):
    model = segmenter("small_trunk", context, head_channels=8)
    picture = torch.randint(256, (3, 32, 48), dtype=torch.uint8)
    pixels = [(5, 7), (20, 30), (31, 47)]
    figures = dict(draw_listening(model, picture[None].float(), picture, pixels))
    assert list(figures) == names
    for name, figure in figures.items():
        for axes in figure.axes:
            assert np.array_equal(axes.images[0].get_array(), picture.permute(1, 2, 0))
        # RepGraph: a panel for each pixel. DGMN: filters and affinities of the one in the middle.
        panels = [(7, 5), (30, 20), (47, 31)] if name == "nodes" else [(30, 20), (30, 20)]
        assert pixels_of(figure) == panels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("context", "names"), [(None, []), ("bottleneck_repgraph", ["nodes"]), ("dgmn", ["rates"])]
)
@pytest.mark.parametrize("num_boxes", [0, 2, 11])
def test_what_the_middles_of_boxes_listen_to(context, names, num_boxes):
    model = mask_rcnn(
        "resnet10", context=context, context_at="c5", num_classes=2, min_size=64, max_size=96
    )
    boxes = torch.tensor([[5.0, 5, 25, 15], [30, 20, 60, 40]]).repeat(6, 1)[:num_boxes]
    figures = dict(draw_detector_listening(model.eval(), torch.rand(3, 40, 60), boxes))
    assert list(figures) == names
    for name, figure in figures.items():
        # The image is resized to 64x96, which needs no padding.
        assert all(axes.images[0].get_array().shape == (64, 96, 3) for axes in figure.axes)
        middles = ([(24, 16), (72, 48)] * 6)[:num_boxes][:9] or [(48, 32)]
        if name == "nodes":
            assert pixels_of(figure) == middles
        else:
            assert pixels_of(figure) == [middles[len(middles) // 2]] * 2

"""Label maps in colour."""

import numpy as np
import pytest
import torch

from dyngraph.data.cityscapes import PALETTE
from dyngraph.viz import draw_segmentation


@pytest.mark.parametrize("count", [0, 2, 4])
def test_segmentations(tmp_path, count):
    image = torch.randint(256, (3, 8, 12), dtype=torch.uint8)
    labels = torch.randint(20, (count, 8, 12))
    labels[labels == 19] = 255
    panels = {f"panel {i}": label for i, label in enumerate(labels)}
    figure = draw_segmentation(image, panels)
    assert [axes.get_title() for axes in figure.axes] == ["image", *panels]
    first, *others = (axes.images[0].get_array() for axes in figure.axes)
    assert np.array_equal(first, image.permute(1, 2, 0))
    colors = torch.cat([PALETTE, torch.zeros(1, 3, dtype=torch.uint8)])
    for label, picture in zip(labels, others, strict=True):
        assert np.array_equal(picture, colors[label.clamp(max=19)])
    # No panel covers another, once they are laid out.
    figure.savefig(tmp_path / "segmentation.png")
    boxes = [axes.get_position() for axes in figure.axes]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])

"""Pictures side by side."""

import numpy as np
import pytest
import torch

from dyngraph.viz import draw_panels


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_pictures_fill_their_panels(tmp_path, count):
    pictures = {f"picture {i}": torch.full((3, 20, 40), 50 * i).byte() for i in range(count)}
    figure = draw_panels(pictures)
    figure.savefig(tmp_path / "panels.png")
    boxes = [axes.get_window_extent() for axes in figure.axes]
    for axes, (title, picture), box in zip(figure.axes, pictures.items(), boxes, strict=True):
        assert axes.get_title() == title
        assert np.array_equal(axes.images[0].get_array(), picture.permute(1, 2, 0))
        # Colours of classes do not mix.
        assert axes.images[0].get_interpolation() == "nearest"
        assert box.width == pytest.approx(2 * box.height)
        assert box.width * min(count, 3) > 0.95 * figure.bbox.width
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])

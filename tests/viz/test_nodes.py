"""The nodes that pixels listen to, drawn over the image."""

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from dyngraph import Grid, Neighborhood
from dyngraph.models import SmallTrunk, segmenter
from dyngraph.nn import RepGraphConv
from dyngraph.viz import capture_input, draw_nodes, representative_nodes

BLUE, RED = (0, 0, 1), (1, 0, 0)


def test_representative_nodes():
    model = segmenter(SmallTrunk(8), "repgraph", num_classes=5, head_channels=8)
    image = torch.randn(2, 3, 21, 30)
    near, attention = representative_nodes(model, image)
    conv, x, grid = capture_input(model, RepGraphConv, image)
    _, want, alpha = conv.sample(x, grid)
    assert torch.equal(near.pos, want.pos)
    assert torch.equal(attention, alpha)
    assert not attention.requires_grad


def test_nodes_are_drawn_where_they_are():
    # Two maps; strides of 4 rows and 5 columns.
    grid = Grid([[2, 3], [3, 4]])
    pos = torch.rand(18, 5, 2) * 4 - 0.5
    # One sample weighs next to nothing.
    logits = torch.randn(18, 2, 5) - torch.tensor([9.0, 0, 0, 0, 0])
    attention = logits.softmax(dim=-1).requires_grad_()
    near = Neighborhood(grid, pos.requires_grad_())
    image = torch.randint(256, (3, 12, 20), dtype=torch.uint8)
    pixels = [(0, 0), (5, 19), (11, 7)]
    figure = draw_nodes(image, near, attention, pixels, batch_index=1)
    assert len(figure.axes) == 3
    # The nodes of the second map that lie below the pixels, row-major.
    for axes, (row, column), pixel in zip(
        figure.axes, [(0, 0), (1, 3), (2, 1)], pixels, strict=True
    ):
        assert np.array_equal(axes.images[0].get_array(), image.permute(1, 2, 0))
        # Pixel centres are integers: the image reaches half a pixel further.
        assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 19.5), (11.5, -0.5))
        samples, current = axes.collections
        node = 6 + 4 * row + column
        weight = attention[node].detach().mean(dim=0)
        order = weight.argsort(descending=True)
        y, x = pos[node].detach()[order].unbind(-1)
        centres = torch.stack([5 * x + 2, 4 * y + 1.5], dim=-1)
        np.testing.assert_allclose(samples.get_offsets(), centres, rtol=1e-6, atol=1e-6)
        # The area is the weight, but for the one that would not be seen.
        areas = samples.get_sizes()
        np.testing.assert_allclose(areas[:-1], 400 * weight[order[:-1]].clamp(min=0.03), rtol=1e-6)
        assert weight[order[-1]] < 0.001
        assert areas[-1] == 12
        assert tuple(samples.get_facecolor()[0][:3]) == RED
        assert current.get_offsets().tolist() == [list(reversed(pixel))]
        assert tuple(current.get_facecolor()[0][:3]) == BLUE
        assert current.get_zorder() > samples.get_zorder()


def test_the_legend_says_what_colour_and_area_mean():
    near = Neighborhood(Grid([[2, 2]]), torch.zeros(4, 3, 2))
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    weight = torch.tensor([0.5, 0.1, 0.03]).expand(4, 1, 3)
    figure = draw_nodes(image, near, weight, [(0, 0)])
    samples, current = figure.axes[0].collections
    (legend,) = figure.legends
    current_point, *sample_points = legend.legend_handles
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["current position", "sampled position of weight 0.5", "0.1", "at most 0.03"]
    assert to_rgb(current_point.get_color()) == BLUE
    np.testing.assert_allclose(current_point.get_markersize() ** 2, current.get_sizes()[0])
    assert {to_rgb(point.get_color()) for point in sample_points} == {RED}
    areas = [point.get_markersize() ** 2 for point in sample_points]
    np.testing.assert_allclose(areas, samples.get_sizes(), rtol=1e-6)


def test_what_lies_outside_is_counted():
    # The corners of the 4x4 pixels of a map of 2x2 nodes, and a bit further.
    inside = torch.tensor([[-0.5, -0.5], [1.5, 1.5]])
    outside = torch.tensor([[-0.6, 0], [0, -0.6], [1.6, 0], [0, 1.6]])
    near = Neighborhood(Grid([[2, 2]]), torch.cat([inside, outside]).expand(4, 6, 2).contiguous())
    weight = torch.tensor([0.3, 0.3, 0.1, 0.1, 0.15, 0.05]).expand(4, 1, 6)
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    (axes,) = draw_nodes(image, near, weight, [(0, 0)]).axes
    assert axes.get_xlabel() == "outside: 4 of 6 samples, weight 0.40"
    near = Neighborhood(Grid([[2, 2]]), inside.expand(4, 2, 2).contiguous())
    (axes,) = draw_nodes(image, near, weight[..., :2], [(0, 0)]).axes
    assert axes.get_xlabel() == ""


def test_nodes_that_listen_to_another_grid():
    # 2x2 nodes listen to a map of 4x4.
    receiver, sender = Grid([[2, 2]]), Grid([[4, 4]])
    pos = torch.tensor([[[0.0, 0]], [[0, 3]], [[3, 0]], [[3, 3]]])
    near = Neighborhood(sender, pos, receiver=receiver)
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    figure = draw_nodes(image, near, torch.ones(4, 1, 1), [(3, 4), (4, 3)])
    centres = [axes.collections[0].get_offsets().tolist() for axes in figure.axes]
    # The upper right node, then the lower left: pixels 6 and 7 of the last column or row.
    assert centres == [[[6.5, 0.5]], [[0.5, 6.5]]]


def test_a_node_is_drawn_in_the_middle_of_its_pixels(tmp_path):
    near = Neighborhood(Grid([[2, 2]]), Grid([[2, 2]]).pos.unsqueeze(1))
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    figure = draw_nodes(image, near, torch.ones(4, 1, 1), [(38, 1)])
    samples, _ = figure.axes[0].collections
    # Rows 20..39, columns 0..19.
    assert samples.get_offsets().tolist() == [[9.5, 29.5]]
    figure.savefig(tmp_path / "nodes.png")
    pixels = matplotlib.image.imread(tmp_path / "nodes.png")[::-1, :, :3]
    box = figure.axes[0].get_window_extent()
    assert box.width == pytest.approx(box.height)
    y, x = np.nonzero((pixels[..., 0] > 0.7) & (pixels[..., 1] < 0.2) & (pixels[..., 2] < 0.2))
    # Not that of the legend below.
    y, x = y[y > box.y0], x[y > box.y0]
    assert ((x.mean() + 0.5 - box.x0) / box.width) == pytest.approx(0.25, abs=0.005)
    assert ((y.mean() + 0.5 - box.y0) / box.height) == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_texts_and_images_do_not_cover_each_other(tmp_path, count):
    # All samples lie outside, which a text below each panel says.
    near = Neighborhood(Grid([[2, 2]]), torch.full((4, 9, 2), 9.0))
    image = torch.zeros(3, 32, 64, dtype=torch.uint8)
    figure = draw_nodes(image, near, torch.full((4, 1, 9), 1 / 9), [(0, 0)] * count)
    figure.savefig(tmp_path / "nodes.png")
    boxes = [axes.get_window_extent() for axes in figure.axes]
    boxes += [axes.xaxis.label.get_window_extent() for axes in figure.axes]
    boxes.append(figure.legends[0].get_window_extent())
    for number, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_errors_of_nodes_name_the_argument():
    near = Neighborhood(Grid([[2, 2]]), torch.zeros(4, 1, 2))
    image = torch.zeros(3, 8, 6, dtype=torch.uint8)
    attention = torch.ones(4, 1, 1)
    for pixel in [(8, 0), (0, 6), (-1, 0), (0, -1)]:
        with pytest.raises(ValueError, match=r"^pixels: expected rows below 8 and columns below 6"):
            draw_nodes(image, near, attention, [pixel])
    with pytest.raises(ValueError, match=r"^pixels: expected at least one, got none"):
        draw_nodes(image, near, attention, [])
    line = Neighborhood(Grid([[4]]), torch.zeros(4, 1, 1))
    with pytest.raises(ValueError, match=r"^near: expected maps with 2 axes, got 1"):
        draw_nodes(image, line, attention, [(0, 0)])

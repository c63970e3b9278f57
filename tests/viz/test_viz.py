import matplotlib.image
import matplotlib.patches
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from torch import nn

from dyngraph import Grid, Neighborhood
from dyngraph.data.labels import PALETTE
from dyngraph.models import SmallTrunk, segmenter
from dyngraph.nn import NonLocalConv, RepGraphConv
from dyngraph.viz import (
    capture_input,
    draw_affinities,
    draw_nodes,
    draw_segmentation,
    representative_nodes,
)


def saved(figure, path):
    """The pixels of the figure, as it is saved."""
    figure.savefig(path, dpi=40)
    return matplotlib.image.imread(path)


# --- what a layer receives ----------------------------------------------------------------------


def make_model():
    return segmenter(SmallTrunk(8), "repgraph", num_classes=5, head_channels=8)


@pytest.mark.parametrize("training", [False, True])
def test_captured_input(training):
    model = make_model().train(training)
    model.backbone[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.randn(2, 3, 21, 30)
    layer, x, grid = capture_input(model, RepGraphConv, image)
    assert layer is model.classifier[1].conv
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    model.eval()
    maps = model.classifier[0](model.backbone(image))
    assert grid == Grid.of(maps)
    assert torch.equal(grid.unflatten(x), maps)
    assert not x.requires_grad


def test_the_first_layer_of_the_type_is_taken():
    class TwoLayers(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = NonLocalConv(3, 3)
            self.second = NonLocalConv(3, 3)

        def forward(self, image):
            grid = Grid.of(image)
            return self.second(self.first(grid.flatten(image), grid), grid)

    model = TwoLayers()
    image = torch.randn(1, 3, 2, 2)
    layer, x, grid = capture_input(model, NonLocalConv, image)
    assert layer is model.first
    assert torch.equal(x, grid.flatten(image))


def test_models_without_such_a_layer():
    with pytest.raises(ValueError, match=r"^model: expected one with a NonLocalConv, got Segmen"):
        capture_input(make_model(), NonLocalConv, torch.randn(1, 3, 16, 16))


def test_a_model_that_fails_is_left_as_it_was():
    model = make_model()
    with pytest.raises(RuntimeError):
        capture_input(model, RepGraphConv, torch.randn(1, 4, 16, 16))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_representative_nodes():
    model = make_model()
    image = torch.randn(2, 3, 21, 30)
    near, attention = representative_nodes(model, image)
    conv, x, grid = capture_input(model, RepGraphConv, image)
    _, want, alpha = conv.sample(x, grid)
    assert torch.equal(near.pos, want.pos)
    assert torch.equal(attention, alpha)
    assert not attention.requires_grad


# --- nodes --------------------------------------------------------------------------------------


def discs_and_crosses(figure):
    collections = figure.axes[0].collections
    # A disc collection a pixel, then its cross: white below, colour above.
    assert len(collections) % 3 == 0
    return collections[::3], collections[2::3]


def test_nodes_are_drawn_where_they_are():
    # Two maps; strides of 4 rows and 5 columns.
    grid = Grid([[2, 3], [3, 4]])
    pos = torch.rand(18, 5, 2) * 4 - 0.5
    attention = torch.rand(18, 2, 5).softmax(dim=-1).requires_grad_()
    near = Neighborhood(grid, pos.requires_grad_())
    image = torch.randint(256, (3, 12, 20), dtype=torch.uint8)
    pixels = [(0, 0), (5, 19), (11, 7)]
    figure = draw_nodes(image, near, attention, pixels, batch_index=1)
    (axes,) = figure.axes
    assert np.array_equal(axes.images[0].get_array(), image.permute(1, 2, 0))
    # Pixel centres are integers: the image reaches half a pixel further.
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 19.5), (11.5, -0.5))
    discs, crosses = discs_and_crosses(figure)
    # The nodes of the second map that lie below the pixels, row-major.
    for number, (row, column) in enumerate([(0, 0), (1, 3), (2, 1)]):
        node = 6 + 4 * row + column
        y, x = pos[node].detach().unbind(-1)
        centres = torch.stack([5 * x + 2, 4 * y + 1.5], dim=-1)
        np.testing.assert_allclose(discs[number].get_offsets(), centres, rtol=1e-6, atol=1e-6)
        areas = discs[number].get_sizes()
        share = attention[node].detach().mean(dim=0)
        np.testing.assert_allclose(areas / areas.sum(), share, rtol=1e-6)
        np.testing.assert_allclose(areas.sum(), 400, rtol=1e-6)
        y, x = pixels[number]
        assert crosses[number].get_offsets().tolist() == [[x, y]]
        color = to_rgb(f"C{number}")
        assert tuple(discs[number].get_facecolor()[0][:3]) == color
        assert tuple(crosses[number].get_facecolor()[0][:3]) == color


def test_a_node_is_drawn_in_the_middle_of_its_pixels(tmp_path):
    near = Neighborhood(Grid([[2, 2]]), Grid([[2, 2]]).pos.unsqueeze(1))
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    figure = draw_nodes(image, near, torch.ones(4, 1, 1), [(30, 5)])
    discs, _ = discs_and_crosses(figure)
    # Rows 20..39, columns 0..19.
    assert discs[0].get_offsets().tolist() == [[9.5, 29.5]]
    pixels = saved(figure, tmp_path / "nodes.png")[..., :3]
    height, width, _ = pixels.shape
    assert not (np.abs(pixels[: height // 2] - to_rgb("C0")).sum(axis=2) < 0.7).any()
    quarter = pixels[height // 2 :, : width // 2]
    blue = np.abs(quarter - to_rgb("C0")).sum(axis=2) < 0.7
    assert blue.any(), "the disc below"


def test_errors_of_nodes_name_the_argument():
    near = Neighborhood(Grid([[2, 2]]), torch.zeros(4, 1, 2))
    image = torch.zeros(3, 8, 6, dtype=torch.uint8)
    attention = torch.ones(4, 1, 1)
    for pixel in [(8, 0), (0, 6), (-1, 0), (0, -1)]:
        with pytest.raises(ValueError, match=r"^pixels: expected rows below 8 and columns below 6"):
            draw_nodes(image, near, attention, [pixel])
    line = Neighborhood(Grid([[4]]), torch.zeros(4, 1, 1))
    with pytest.raises(ValueError, match=r"^near: expected maps with 2 axes, got 1"):
        draw_nodes(image, line, attention, [(0, 0)])


# --- affinities ---------------------------------------------------------------------------------


def test_affinities(tmp_path):
    # One node with all attention on a single node, one with uniform attention.
    affinity = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    figure = draw_affinities(affinity.requires_grad_())
    histogram, cumulative = figure.axes
    learned, uniform = cumulative.get_lines()[:2]
    assert learned.get_xdata().tolist() == [25, 50, 75, 100]
    # (1 + 0.25) / 2, (1 + 0.5) / 2, …
    assert learned.get_ydata().tolist() == [62.5, 75, 87.5, 100]
    # On a logarithmic axis the diagonal has to be drawn point by point.
    np.testing.assert_allclose(uniform.get_xdata(), uniform.get_ydata())
    bars = [patch for patch in histogram.patches if isinstance(patch, matplotlib.patches.Rectangle)]
    assert sum(bar.get_height() for bar in bars) == 8

    def count_at(power):
        return sum(
            bar.get_height() for bar in bars if 0 <= power - bar.get_x() < bar.get_width() - 1e-9
        )

    # 3 entries without attention, 4 uniform ones, and one of four times as much.
    assert count_at(-8) == 3
    assert count_at(0.01) == 4
    assert count_at(np.log10(4)) == 1
    assert saved(figure, tmp_path / "affinities.png").std() > 0.05


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (0, 4), (4, 0)])
def test_affinities_that_are_no_matrix(shape):
    with pytest.raises(ValueError, match=r"^affinity: expected a matrix \[R, M\], got shape"):
        draw_affinities(torch.ones(shape))


# --- segmentations ------------------------------------------------------------------------------


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
    saved(figure, tmp_path / "segmentation.png")
    boxes = [axes.get_position() for axes in figure.axes]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])

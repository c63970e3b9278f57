"""The samples of every rate, drawn over the image."""

import colorsys
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from torch import nn

from dyngraph import Grid, Neighborhood
from dyngraph.models import segmenter
from dyngraph.nn import DGMNBlock
from dyngraph.viz import draw_rates, dynamic_nodes

RATES = (1, 3)
RED = (1, 0, 0)
# A node of the 8x12 map, below a pixel of the 32x48 image.
PIXEL, NODE = (17, 22), 4 * 12 + 5


def make_model(**options):
    return segmenter("small_trunk", lambda c: DGMNBlock(c, RATES, **options), head_channels=8)


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def image():
    return torch.randint(256, (3, 32, 48), dtype=torch.uint8)


def hue(color):
    return 360 * colorsys.rgb_to_hls(*color[:3])[0]


def lightness(color):
    return colorsys.rgb_to_hls(*color[:3])[1]


def test_the_nodes_of_a_model_are_those_of_its_layer(model):
    samples = dynamic_nodes(model, torch.randn(1, 3, 32, 48))
    assert len(samples) == len(RATES)
    for rate, (near, filters, affinity) in zip(RATES, samples, strict=True):
        assert (filters.shape, affinity.shape) == ((96, 4, 9), (96, 1, 9))
        torch.testing.assert_close(affinity.sum(dim=-1), torch.ones(96, 1))
        # Walks start at zero: the first tap is up and to the left by the rate.
        offset = near.pos[:, 0] - near.grid.pos
        assert torch.equal(offset, torch.full((96, 2), -float(rate)))


def test_points_lie_at_the_samples_and_their_area_is_the_weight(model, image):
    samples = dynamic_nodes(model, image[None].float())
    figure = draw_rates(image, samples, RATES, PIXEL)
    assert [axes.get_title() for axes in figure.axes] == ["filters $|w|$", r"affinities $\alpha$"]
    filters = [w[NODE].abs().mean(dim=0) for _, w, _ in samples]
    affinities = [alpha[NODE, 0] for _, _, alpha in samples]
    for axes, weights in zip(figure.axes, (filters, affinities), strict=True):
        assert np.array_equal(axes.images[0].get_array(), image.permute(1, 2, 0))
        *points, current = axes.collections
        assert current.get_offsets().tolist() == [[22, 17]]
        assert tuple(current.get_facecolor()[0][:3]) == RED
        largest = torch.cat(weights).max()
        # The last rate is drawn first.
        for collection, (near, _, _), weight in zip(
            reversed(points), samples, weights, strict=True
        ):
            order = weight.argsort(descending=True)
            pixels = ((near.pos[NODE] + 0.5) * 4 - 0.5)[order]
            np.testing.assert_allclose(collection.get_offsets(), pixels.flip(1), rtol=1e-6)
            areas = (400 * weight[order] / largest).clamp(min=12)
            np.testing.assert_allclose(collection.get_sizes(), areas, rtol=1e-6)


def test_a_family_for_filters_and_one_for_affinities_and_a_shade_for_each_rate(image):
    rates = (1, 2, 3, 6, 12)
    model = segmenter("small_trunk", lambda channels: DGMNBlock(channels, rates), head_channels=8)
    figure = draw_rates(image, dynamic_nodes(model, image[None].float()), rates, PIXEL)
    for axes, low, high in zip(figure.axes, (40, 200), (60, 225), strict=True):
        *points, _ = axes.collections
        colors = [tuple(collection.get_facecolor()[0][:3]) for collection in reversed(points)]
        # Yellow, or blue; the darker the larger the rate.
        assert all(low < hue(color) < high for color in colors)
        shades = [lightness(color) for color in colors]
        assert all(light - dark > 0.04 for light, dark in pairwise(shades))


def test_the_legend_says_what_colour_and_area_mean(image):
    # The first rate's samples are in the image, a sample of the second is not.
    grid = Grid([[2, 2]])
    first = Neighborhood(grid, torch.zeros(4, 2, 2))
    second = Neighborhood(grid, torch.tensor([[0.0, 0], [9, 9]]).expand(4, 2, 2).contiguous())
    filters = torch.tensor([[-4.0, 2], [0, 2]]).expand(4, 2, 2)
    affinity = torch.tensor([[0.25, 0.75]]).expand(4, 1, 2)
    figure = draw_rates(
        image, [(first, filters, affinity), (second, filters, affinity)], RATES, (0, 0)
    )
    filter_axes, affinity_axes = figure.axes
    # (|-4| + 0) / 2 and (2 + 2) / 2 over the groups: the largest is 2.
    for axes, half, least in (
        (filter_axes, "$|w|$ = 1", "$|w|$ ≤ 0.06"),
        (affinity_axes, r"$\alpha$ = 0.38", r"$\alpha$ ≤ 0.022"),
    ):
        legend = axes.get_legend()
        texts = [text.get_text() for text in legend.get_texts()]
        assert texts == ["receiving node", "rate 1", "rate 3, 1 outside", half, least]
        node, *shades, half_point, least_point = legend.legend_handles
        assert to_rgb(node.get_color()) == RED
        *points, _ = axes.collections
        for shade, collection in zip(shades, reversed(points), strict=True):
            assert to_rgb(shade.get_color()) == tuple(collection.get_facecolor()[0][:3])
        assert half_point.get_markersize() ** 2 == pytest.approx(200)
        assert least_point.get_markersize() ** 2 == pytest.approx(12)


def test_affinities_that_are_not_predicted_are_not_drawn(image):
    samples = dynamic_nodes(make_model(affinity=False), image[None].float())
    assert all(affinity is None for _, _, affinity in samples)
    (axes,) = draw_rates(image, samples, RATES, PIXEL).axes
    assert axes.get_title() == "filters $|w|$"


def test_filters_of_zero(image):
    near = Neighborhood(Grid([[2, 2]]), torch.zeros(4, 2, 2))
    (axes,) = draw_rates(image, [(near, torch.zeros(4, 1, 2), None)], (1,), (0, 0)).axes
    points, _ = axes.collections
    assert points.get_sizes().tolist() == [12, 12]


def test_texts_and_images_do_not_cover_each_other(tmp_path, image):
    rates = (1, 2, 3, 6, 12)
    model = segmenter("small_trunk", lambda channels: DGMNBlock(channels, rates), head_channels=8)
    figure = draw_rates(image, dynamic_nodes(model, image[None].float()), rates, PIXEL)
    figure.savefig(tmp_path / "rates.png")
    boxes = [axes.get_window_extent() for axes in figure.axes]
    boxes += [axes.get_legend().get_window_extent() for axes in figure.axes]
    boxes += [axes.title.get_window_extent() for axes in figure.axes]
    for number, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_a_model_without_dgmn_is_refused():
    with pytest.raises(ValueError, match="model: expected one with a DGMNConv"):
        dynamic_nodes(nn.Identity(), torch.zeros(1, 3, 8, 8))


def test_a_pixel_outside_the_image_is_refused(model, image):
    with pytest.raises(ValueError, match="pixels: expected rows below 32"):
        draw_rates(image, dynamic_nodes(model, image[None].float()), RATES, (32, 0))

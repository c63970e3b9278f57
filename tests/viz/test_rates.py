"""The samples of every rate, drawn over the image."""

import pytest
import torch
from torch import nn

from dyngraph.models import segmenter
from dyngraph.nn import DGMNBlock
from dyngraph.viz import draw_rates, dynamic_nodes

RATES = (1, 3)


@pytest.fixture
def model():
    return segmenter("small", lambda channels: DGMNBlock(channels, RATES), head_channels=8)


def test_the_nodes_of_a_model_are_those_of_its_layer(model):
    samples = dynamic_nodes(model, torch.randn(1, 3, 32, 48))
    assert len(samples) == len(RATES)
    for rate, (near, filters, affinity) in zip(RATES, samples, strict=True):
        assert (filters.shape, affinity.shape) == ((96, 4, 9), (96, 1, 9))
        torch.testing.assert_close(affinity.sum(dim=-1), torch.ones(96, 1))
        # Walks start at zero: the first tap is up and to the left by the rate.
        offset = near.pos[:, 0] - near.grid.pos
        assert torch.equal(offset, torch.full((96, 2), -float(rate)))


def test_affinities_that_are_not_predicted_are_uniform():
    model = segmenter("small", lambda c: DGMNBlock(c, (1,), affinity=False), head_channels=8)
    ((_, _, affinity),) = dynamic_nodes(model, torch.randn(1, 3, 32, 48))
    assert torch.equal(affinity, torch.full((96, 1, 9), 1 / 9))


def test_points_lie_at_the_samples_and_their_area_is_the_affinity(model):
    image = torch.randint(256, (3, 32, 48), dtype=torch.uint8)
    samples = dynamic_nodes(model, image[None].float())
    figure = draw_rates(image, samples, RATES, (17, 22))
    *discs, cross = figure.axes[0].collections
    assert [disc.get_label() for disc in discs] == ["rate 1", "rate 3"]
    assert cross.get_offsets().tolist() == [[22, 17]]
    node = 4 * 12 + 5
    for disc, (near, filters, affinity) in zip(discs, samples, strict=True):
        pixels = (near.pos[node] + 0.5) * 4 - 0.5
        torch.testing.assert_close(torch.as_tensor(disc.get_offsets().data).float(), pixels.flip(1))
        area = torch.as_tensor(disc.get_sizes()).float()
        torch.testing.assert_close(area / area.max(), affinity[node, 0] / affinity[node, 0].max())
        # Darker where the filter is larger.
        darkness = -torch.as_tensor(disc.get_facecolors()[:, :3]).sum(dim=1)
        size = filters[node].abs().mean(dim=0)
        assert darkness.argmax() == size.argmax()


def test_a_model_without_dgmn_is_refused():
    with pytest.raises(ValueError, match="model: expected one with a DGMNConv"):
        dynamic_nodes(nn.Identity(), torch.zeros(1, 3, 8, 8))


def test_a_pixel_outside_the_image_is_refused(model):
    image = torch.zeros(3, 32, 48, dtype=torch.uint8)
    with pytest.raises(ValueError, match="pixels: expected rows below 32"):
        draw_rates(image, dynamic_nodes(model, image[None].float()), RATES, (32, 0))

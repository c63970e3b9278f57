"""How uneven attention over all nodes is."""

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import nn

from dyngraph.models import segmenter
from dyngraph.nn import NonLocalConv
from dyngraph.viz import capture_input, draw_affinities, nonlocal_affinities


def make_model():
    return segmenter("small_trunk", "nonlocal", head_channels=8)


def test_the_affinities_of_a_model_are_those_of_its_layer():
    model = make_model()
    image = torch.randn(1, 3, 16, 24)
    affinity = nonlocal_affinities(model, image)
    conv, x, _ = capture_input(model, NonLocalConv, image)
    query, key, _ = conv.queries_keys_values((x, x))
    # Eq. 2 of the paper: softmax over j of θ(x_i) · φ(x_j).
    torch.testing.assert_close(affinity, (query @ key.t()).softmax(dim=1))
    assert affinity.shape == (24, 24)
    assert not affinity.requires_grad


def test_affinities_of_one_image():
    with pytest.raises(ValueError, match=r"^image: expected one, got 2"):
        nonlocal_affinities(make_model(), torch.randn(2, 3, 16, 24))
    with pytest.raises(ValueError, match=r"^model: expected one with a NonLocalConv"):
        nonlocal_affinities(nn.Identity(), torch.randn(1, 3, 16, 24))


def test_histograms_of_all_nodes_and_of_one(tmp_path):
    affinity = (4 * torch.randn(40, 60)).softmax(dim=1).requires_grad_()
    figure = draw_affinities(affinity, node=7)
    everything = affinity.detach()
    for axes, weights in zip(figure.axes, (everything, everything[7]), strict=True):
        edges = np.linspace(0, float(weights.max()), 51)
        counts, _ = np.histogram(weights.numpy(), edges)
        assert [bar.get_height() for bar in axes.patches] == counts.tolist()
        np.testing.assert_allclose([bar.get_x() for bar in axes.patches], edges[:-1], rtol=1e-5)
        # Counts of one are seen.
        assert axes.get_yscale() == "log"
        assert axes.get_ylim()[0] < 1 < counts.max() < axes.get_ylim()[1]
        (uniform,) = axes.get_lines()
        np.testing.assert_allclose(uniform.get_xdata(), 1 / 60)
        share = (weights < 1 / 60).float().mean()
        assert uniform.get_label() == f"uniform weight, 1 / 60\n{share:.0%} are below"
    assert [axes.get_title() for axes in figure.axes] == [
        "all 40 positions: 2,400 weights",
        "one position: 60 weights",
    ]
    figure.savefig(tmp_path / "affinities.png", dpi=40)
    picture = matplotlib.image.imread(tmp_path / "affinities.png")
    assert (np.abs(picture[..., :3] - np.array([0x1F, 0x77, 0xB4]) / 255).sum(axis=2) < 0.1).any()


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (0, 4), (4, 0)])
def test_affinities_that_are_no_matrix(shape):
    with pytest.raises(ValueError, match=r"^affinity: expected a matrix \[N, M\], got shape"):
        draw_affinities(torch.ones(shape), 0)


def test_errors_of_affinities_name_the_argument():
    for node in (-1, 4):
        with pytest.raises(ValueError, match=rf"^node: expected 0\.\.3, got {node}"):
            draw_affinities(torch.ones(4, 2), node)
    with pytest.raises(ValueError, match=r"^affinity: expected finite weights"):
        draw_affinities(torch.full((4, 2), torch.nan), 0)

import pytest
import torch
from torch import nn

from dyngraph import Grid, Neighborhood
from dyngraph.models.deformable_conv2d import DeformableConv2d, make_deformable
from dyngraph.ops import sampled_convolution
from dyngraph.samplers import DilatedSampler


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2, "bias": False}]
)
def test_it_starts_as_the_convolution(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, **{"padding": 1} | options).double()
    deformable = DeformableConv2d(conv).double()
    x = torch.randn(2, 4, 7, 9, dtype=torch.double)
    torch.testing.assert_close(deformable(x), conv(x), rtol=1e-12, atol=1e-12)
    missing, unexpected = deformable.load_state_dict(conv.state_dict(), strict=False)
    assert (missing, unexpected) == (["offset.weight"], [])


def test_it_is_a_convolution_over_walking_samples():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False).double()
    deformable = DeformableConv2d(conv).double()
    nn.init.normal_(deformable.offset.weight, std=0.3)
    x = torch.randn(2, 4, 7, 9, dtype=torch.double)
    grid = Grid.of(x)
    walk = grid.flatten(deformable.offset(x)).view(grid.num_nodes, 9, 2)
    pos = DilatedSampler()(grid.flatten(x), grid).pos + walk
    y = sampled_convolution(grid.flatten(x), conv.weight.flatten(2), Neighborhood(grid, pos))
    torch.testing.assert_close(grid.unflatten(y), deformable(x), rtol=1e-12, atol=1e-12)


def test_all_3x3_convolutions_are_replaced():
    stage = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3)))
    make_deformable(stage)
    assert [type(m) for m in (stage[0], *stage[1])] == [
        DeformableConv2d,
        nn.Conv2d,
        DeformableConv2d,
    ]

import pytest
import torch
from torch import nn

from dyngraph import Grid, Neighborhood
from dyngraph.models.deformable_conv2d import DeformableConv2d, make_deformable
from dyngraph.ops import interpolate
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
    assert (missing, unexpected) == (["offset_mask.weight", "offset_mask.bias"], [])


def trained(deformable):
    nn.init.normal_(deformable.offset_mask.weight, std=0.3)
    nn.init.normal_(deformable.offset_mask.bias, std=0.3)
    return deformable.double()


def test_it_is_a_convolution_over_walking_samples_with_masks():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    deformable = trained(DeformableConv2d(conv))
    x = torch.randn(2, 4, 7, 9, dtype=torch.double)
    grid = Grid.of(x)
    predicted = grid.flatten(deformable.offset_mask(x))
    walk, mask = predicted[:, :18].view(-1, 9, 2), 2 * predicted[:, 18:].sigmoid()
    pos = DilatedSampler()(grid.flatten(x), grid).pos + walk
    samples = interpolate(grid.flatten(x), Neighborhood(grid, pos)) * mask.unsqueeze(2)
    y = torch.einsum("nkc,ock->no", samples, deformable.weight.flatten(2))
    torch.testing.assert_close(grid.unflatten(y), deformable(x), rtol=1e-12, atol=1e-12)


def test_offsets_and_masks_learn():
    deformable = DeformableConv2d(nn.Conv2d(4, 6, 3, padding=1))
    deformable(torch.randn(2, 4, 7, 9)).square().sum().backward()
    for parameter in (deformable.offset_mask.weight, deformable.offset_mask.bias):
        # Each of the 18 offsets and 9 masks changes something from the start.
        assert parameter.grad.view(27, -1).any(dim=1).all()


def test_all_3x3_convolutions_are_replaced():
    stage = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3)))
    make_deformable(stage)
    assert [type(m) for m in (stage[0], *stage[1])] == [
        DeformableConv2d,
        nn.Conv2d,
        DeformableConv2d,
    ]

import copy

import pytest
import reference
import torch
from torch import nn

from dyngraph import Grid
from dyngraph.samplers import DilatedSampler, LinearWalkSampler


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_samples_are_the_taps_and_a_linear_map(num_axes, kernel_size, bias):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    x = torch.randn(grid.num_nodes, 5)
    sampler = LinearWalkSampler(5, bias=bias, kernel_size=kernel_size, num_axes=num_axes)
    assert (sampler.bias is None) != bias
    if bias:
        nn.init.normal_(sampler.bias)
    near = sampler(x, grid)
    taps = DilatedSampler((1,), kernel_size=kernel_size, num_axes=num_axes)(x, grid)
    walk = x @ sampler.weight.t() + (sampler.bias if bias else 0)
    for k in range(near.num_samples):
        for axis in range(num_axes):
            # The channels of a sample's coordinates follow each other.
            want = taps.pos[:, k, axis] + walk[:, k * num_axes + axis]
            torch.testing.assert_close(near.pos[:, k, axis], want)


def test_parameters():
    shapes = {name: p.shape for name, p in LinearWalkSampler(4).named_parameters()}
    assert shapes == {"weight": (18, 4), "bias": (18,)}
    sampler = LinearWalkSampler(4)
    before = copy.deepcopy(sampler.state_dict())
    nn.init.ones_(sampler.bias)
    sampler.reset_parameters()
    assert not sampler.bias.any()
    assert not torch.equal(sampler.weight, before["weight"])
    # Samples start near the taps, but apart.
    assert 0.005 < sampler.weight.std() < 0.04


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_never_rounded(dtype):
    grid = Grid([[5, 4], [3, 3]])
    x = torch.randn(grid.num_nodes, 8)
    sampler = LinearWalkSampler(8)
    want = sampler(x, grid).pos
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(sampler(x, grid).pos, want)
    assert sampler(x.to(dtype), grid).pos.dtype == torch.float32
    assert sampler.double()(x.double(), grid).pos.dtype == torch.float64


def test_errors_name_the_argument():
    sampler = LinearWalkSampler(4)
    with pytest.raises(ValueError, match=r"^grid: expected 2 spatial axes, got 1"):
        sampler(torch.randn(5, 4), Grid([[5]]))
    with pytest.raises(ValueError, match=r"^x: expected node features \[12, C\]"):
        sampler(torch.randn(5, 4), Grid([[3, 4]]))
    with pytest.raises(ValueError, match=r"^kernel_size: expected an odd number, got 2"):
        LinearWalkSampler(4, kernel_size=2)

import copy

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import nn

from dyngraph import Grid
from dyngraph.ops import interpolate
from dyngraph.samplers import DilatedSampler, WalkSampler

HALF = [torch.bfloat16, torch.float16]
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def trained(sampler):
    """The sampler with weights that are not zero, as after some training."""
    nn.init.normal_(sampler.walk.weight, std=0.3)
    return sampler


@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_samples_start_at_the_taps(num_axes, rate):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    x = torch.randn(grid.num_nodes, 4)
    sampler = WalkSampler(4, rate, num_axes=num_axes)
    assert not sampler.walk.weight.any()
    taps = DilatedSampler([rate], num_axes=num_axes)
    assert torch.equal(sampler(x, grid).pos, taps(x, grid).pos)
    trained(sampler)
    assert not torch.equal(sampler(x, grid).pos, taps(x, grid).pos)
    sampler.reset_parameters()
    assert torch.equal(sampler(x, grid).pos, taps(x, grid).pos)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("rate", [1, 2, 5])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_walks_are_a_dilated_convolution(num_axes, rate, kernel_size):
    maps = torch.randn(2, 4, *(5, 4, 3)[:num_axes])
    grid = Grid.of(maps)
    x = grid.flatten(maps)
    sampler = trained(WalkSampler(4, rate, kernel_size=kernel_size, num_axes=num_axes))
    near = sampler(x, grid)
    padding = rate * (kernel_size // 2)
    walks = CONV[num_axes](maps, sampler.walk.weight, padding=padding, dilation=rate)
    taps = DilatedSampler([rate], kernel_size=kernel_size, num_axes=num_axes)(x, grid)
    assert near.num_samples == kernel_size**num_axes
    for k in range(near.num_samples):
        for axis in range(num_axes):
            # The channels of a sample's coordinates follow each other.
            walk = grid.flatten(walks[:, k * num_axes + axis].unsqueeze(1)).squeeze(1)
            torch.testing.assert_close(near.pos[:, k, axis], taps.pos[:, k, axis] + walk)


def test_there_is_no_bias():
    weight = WalkSampler(8, 2).state_dict()
    assert {name: w.shape for name, w in weight.items()} == {"walk.weight": (18, 8, 3, 3)}


def test_samples_of_a_fresh_sampler_separate():
    grid = Grid([[6, 6]])
    sampler = WalkSampler(4)
    field = torch.randn(36, 1)
    interpolate(field, sampler(torch.randn(36, 4), grid)).square().sum().backward()
    grads = sampler.walk.weight.grad.flatten(1)
    assert len(grads.unique(dim=0)) == 18
    assert grads.any(dim=1).all()


@pytest.mark.parametrize("dtype", HALF)
def test_positions_do_not_depend_on_autocast(dtype):
    grid = Grid([[5, 4], [3, 3]])
    x = torch.randn(grid.num_nodes, 8)
    sampler = trained(WalkSampler(8, 2))
    with torch.autocast("cpu", dtype=dtype):
        near = sampler(x, grid)
    assert near.pos.dtype == near.corners().weight.dtype == torch.float32
    assert torch.equal(near.pos, sampler(x, grid).pos)


@pytest.mark.parametrize("dtype", HALF)
def test_half_features_and_weights_give_full_positions(dtype):
    grid = Grid([[5, 4], [3, 3]])
    x = torch.randn(grid.num_nodes, 8, dtype=dtype)
    half = trained(WalkSampler(8, 2)).to(dtype)
    full = copy.deepcopy(half).float()
    near = half(x, grid)
    assert near.pos.dtype == torch.float32
    assert torch.equal(near.pos, full(x.float(), grid).pos)


def test_double_features_give_double_positions():
    grid = Grid([[5, 4], [3, 3]])
    x = torch.randn(grid.num_nodes, 8, dtype=torch.float64)
    sampler = trained(WalkSampler(8, 2)).double()
    near = sampler(x, grid)
    assert near.pos.dtype == near.corners().weight.dtype == torch.float64
    single = sampler.float()(x.float(), grid)
    # float32 against float64, at coordinates up to 10.
    torch.testing.assert_close(near.pos.float(), single.pos, atol=5e-6, rtol=0)
    assert not torch.equal(near.pos, single.pos.double())


@pytest.mark.slow
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_positions_have_gradients(num_axes):
    grid = Grid([[2] * num_axes, [1] * num_axes])
    sampler = trained(WalkSampler(2, num_axes=num_axes)).double()
    x = torch.randn(grid.num_nodes, 2, dtype=torch.float64, requires_grad=True)

    def positions(x, weight):
        return torch.func.functional_call(sampler, {"walk.weight": weight}, (x, grid)).pos

    assert torch.autograd.gradcheck(positions, (x, sampler.walk.weight))


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_maps_of_different_sizes_equal_each_alone(num_axes):
    sizes = reference.MIXED_SIZES[num_axes]
    grid = Grid(sizes)
    x = torch.randn(grid.num_nodes, 4)
    sampler = trained(WalkSampler(4, 2, num_axes=num_axes))
    counts = grid.ptr.diff().tolist()
    parts = zip(sampler(x, grid).pos.split(counts), x.split(counts), sizes, strict=True)
    for pos, part, size in parts:
        torch.testing.assert_close(pos, sampler(part, Grid([size])).pos)


def test_maps_without_nodes():
    sampler = trained(WalkSampler(4))
    assert sampler(torch.randn(0, 4), Grid.of(torch.randn(0, 4, 3, 3))).pos.shape == (0, 9, 2)
    x = torch.randn(4, 4)
    pos = sampler(x, Grid([[0, 3], [2, 2], [3, 0]])).pos
    torch.testing.assert_close(pos, sampler(x, Grid([[2, 2]])).pos)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": -2}, "rate"),
        ({"kernel_size": 4}, "kernel_size: "),
        ({"num_axes": 0}, "num_axes: "),
        ({"num_axes": 4}, "num_axes: "),
    ],
)
def test_constructor_errors_name_the_argument(kwargs, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        WalkSampler(4, **kwargs)


def test_forward_errors_name_the_argument():
    sampler = WalkSampler(4)
    with pytest.raises(ValueError, match=r"^grid: expected 2 spatial axes, got 3"):
        sampler(torch.randn(8, 4), Grid([[2, 2, 2]]))
    with pytest.raises(ValueError, match=r"^x: "):
        sampler(torch.randn(3, 4), Grid([[2, 2]]))

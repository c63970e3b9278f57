import itertools

import pytest
import reference
import torch
import torch.nn.functional as F

from dyngraph import Grid
from dyngraph.nn.conv import RepGraphConv
from dyngraph.ops import interpolate
from dyngraph.samplers import DilatedSampler

HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("backend", ["torch", "pyg"])
@pytest.mark.parametrize("rate", [1, 2, 5])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_samples_are_those_of_unfold(kernel_size, rate, backend):
    maps = torch.randn(2, 3, 5, 4)
    grid = Grid.of(maps)
    x = grid.flatten(maps)
    near = DilatedSampler([rate], kernel_size=kernel_size)(x, grid)
    samples = interpolate(x, near, backend=backend)
    padding = rate * (kernel_size // 2)
    want = F.unfold(maps, kernel_size, dilation=rate, padding=padding)
    want = want.unflatten(1, (3, kernel_size**2)).permute(0, 3, 2, 1).flatten(0, 1)
    # At integers, a node weighs exactly 1 and the others 0.
    assert torch.equal(samples, want)


@pytest.mark.parametrize("rates", [(1,), (2,), (3, 1), (1, 2, 4)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_taps_are_added_to_the_position_of_the_node(num_axes, kernel_size, rates):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    sampler = DilatedSampler(rates, kernel_size=kernel_size, num_axes=num_axes)
    near = sampler(torch.randn(grid.num_nodes, 4), grid)
    reach = range(-(kernel_size // 2), kernel_size // 2 + 1)
    # The first axis is the slowest, and the rates come one after the other.
    taps = [
        [rate * step for step in tap]
        for rate in rates
        for tap in itertools.product(reach, repeat=num_axes)
    ]
    assert near.num_samples == sampler.num_samples == len(taps)
    want = reference.node_positions(grid).unsqueeze(1) + torch.tensor(taps, dtype=torch.float32)
    assert torch.equal(near.pos, want)
    assert near.grid == near.receiver == grid
    assert near.padding_mode == "zeros"


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_a_convolution_is_its_taps(num_axes):
    """Samples of maps with one, two and three axes, against a convolution's own."""
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[num_axes]
    maps = torch.randn(2, 3, *(5, 4, 3)[:num_axes], dtype=torch.float64)
    weight = torch.randn(4, 3, *[3] * num_axes, dtype=torch.float64)
    grid = Grid.of(maps)
    x = grid.flatten(maps)
    samples = interpolate(x, DilatedSampler([2], kernel_size=3, num_axes=num_axes)(x, grid))
    out = torch.einsum("nkc,ock->no", samples, weight.flatten(2))
    want = grid.flatten(conv(maps, weight, padding=2, dilation=2))
    # float64, up to 81 products in another order.
    torch.testing.assert_close(out, want, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.float64])
def test_positions_are_never_half(dtype):
    grid = Grid([[1, 300]])
    x = torch.randn(300, 2, dtype=dtype)
    near = DilatedSampler([7])(x, grid)
    assert near.pos.dtype == torch.promote_types(dtype, torch.float32)
    assert near.pos[299, 5].tolist() == [0.0, 306.0]


def test_it_has_no_weights():
    sampler = DilatedSampler()
    assert not sampler.state_dict()
    assert not list(sampler.parameters())


def test_attention_over_dilated_samples():
    grid = Grid([[4, 5], [3, 3]])
    x = torch.randn(grid.num_nodes, 6, dtype=torch.float64)
    sampler = DilatedSampler([1, 2])
    conv = RepGraphConv(6, 4, groups=2, sampler=sampler).double()
    out, near, alpha = conv.sample(x, grid)
    assert alpha.shape == (grid.num_nodes, 2, 18)
    assert torch.equal(near.pos, sampler(x, grid).pos)
    want, want_alpha = reference.sampled_attention(*conv.queries_keys_values((x, x)), near, 2)
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(alpha, want_alpha)
    conv.reset_parameters()


def test_maps_without_nodes():
    sampler = DilatedSampler([1, 2])
    assert sampler(torch.randn(0, 4), Grid.of(torch.randn(0, 4, 3, 3))).pos.shape == (0, 18, 2)
    assert sampler(torch.randn(4, 4), Grid([[0, 3], [2, 2]])).pos.shape == (4, 18, 2)


def test_repr():
    expected = "DilatedSampler(rates=(1, 4), kernel_size=5, num_axes=1)"
    assert repr(DilatedSampler([1, 4], kernel_size=5, num_axes=1)) == expected


@pytest.mark.parametrize(
    "kwargs",
    [
        {"rates": ()},
        {"rates": (1, 0)},
        {"rates": (-1,)},
        {"kernel_size": 2},
        {"kernel_size": 0},
        {"kernel_size": -1},
        {"num_axes": 0},
        {"num_axes": 4},
    ],
)
def test_constructor_errors_name_the_argument(kwargs):
    with pytest.raises(ValueError, match=f"^{next(iter(kwargs))}: "):
        DilatedSampler(**kwargs)


def test_forward_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"^grid: expected 2 spatial axes, got 3"):
        DilatedSampler()(torch.randn(8, 4), Grid([[2, 2, 2]]))
    with pytest.raises(ValueError, match=r"^x: "):
        DilatedSampler()(torch.randn(3, 4), Grid([[2, 2]]))

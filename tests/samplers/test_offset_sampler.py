import copy

import pytest
import reference
import torch
from torch import nn

from dyngraph import Grid
from dyngraph.ops import interpolate
from dyngraph.samplers import OffsetSampler

HALF = [torch.bfloat16, torch.float16]


def trained(sampler):
    """The sampler with weights that are not zero, as after some training."""
    nn.init.normal_(sampler.offset.weight, std=0.3)
    return sampler


def cell_features(x, grid, cell_size):
    """For each node: the mean features of its cell and the position of the cell's first node."""
    means, anchors = torch.empty_like(x), torch.empty_like(grid.pos)
    cell = grid.pos.div(cell_size, rounding_mode="floor")
    for node in range(grid.num_nodes):
        members = (grid.batch == grid.batch[node]) & (cell == cell[node]).all(dim=1)
        means[node] = x[members].mean(dim=0)
        anchors[node] = grid.pos[members].min(dim=0).values
    return means, anchors


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_offsets_are_added_to_the_position_of_the_node(num_axes):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    x = torch.randn(grid.num_nodes, 4)
    sampler = trained(OffsetSampler(4, num_samples=3, num_axes=num_axes))
    near = sampler(x, grid)
    assert near.grid == near.receiver == grid
    assert near.padding_mode == "zeros"
    assert near.pos.shape == (grid.num_nodes, 3, num_axes)
    channels = x @ sampler.offset.weight.t() + sampler.offset.bias
    for k in range(3):
        for axis in range(num_axes):
            # The channels of a sample's coordinates follow each other.
            expected = grid.pos[:, axis] + channels[:, k * num_axes + axis]
            torch.testing.assert_close(near.pos[:, k, axis], expected)


@pytest.mark.parametrize("cell_size", [2, 3, 5])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_cells_share_the_samples_of_their_mean(num_axes, cell_size):
    sizes = {1: [[7], [4], [1]], 2: [[5, 4], [3, 7], [1, 1]], 3: [[3, 2, 4], [1, 5, 1]]}
    grid = Grid(sizes[num_axes])
    x = torch.randn(grid.num_nodes, 4)
    sampler = trained(OffsetSampler(4, 2, num_axes=num_axes, cell_size=cell_size))
    means, anchors = cell_features(x, grid, cell_size)
    expected = anchors.unsqueeze(1) + sampler.offset(means)
    torch.testing.assert_close(sampler(x, grid).pos, expected)


def test_cells_of_one_node_are_no_cells():
    grid = Grid([[3, 4], [2, 5]])
    x = torch.randn(grid.num_nodes, 4)
    whole = trained(OffsetSampler(4))
    celled = OffsetSampler(4, cell_size=7)
    celled.load_state_dict(whole.state_dict())
    for image in range(2):
        rows = grid.batch == image
        pos = celled(x, grid).pos[rows]
        assert torch.equal(pos, pos[:1].expand_as(pos)), "a cell covers the whole map"
    assert not torch.equal(whole(x, grid).pos, celled(x, grid).pos)


@pytest.mark.parametrize("spread", [8.0, 0.5, (4.0, 24.0)])
def test_offsets_start_spread_out_and_apart(spread):
    sampler = OffsetSampler(16, num_samples=9, spread=spread)
    assert not sampler.offset.weight.any()
    bias = sampler.offset.bias
    assert (bias.view(9, 2).abs() <= torch.tensor(spread)).all()
    # Along each axis, every ninth of the range has one sample, in an order of its own.
    ninths = ((bias.view(9, 2) / torch.tensor(spread) + 1) / 2 * 9).floor()
    assert torch.equal(ninths.sort(dim=0).values, torch.arange(9.0).unsqueeze(1).expand(9, 2))
    assert not torch.equal(ninths[:, 0], ninths[:, 1])
    assert bias.unique().numel() == 18
    grid = Grid([[6, 6]])
    offset = sampler(torch.randn(36, 16), grid).pos - grid.pos.unsqueeze(1)
    # The offset is recovered from a sum with coordinates of up to 5: float32 rounds it by 1e-6.
    torch.testing.assert_close(offset, bias.view(9, 2).expand(36, 9, 2), atol=2e-6, rtol=0)


def test_samples_of_a_fresh_sampler_separate():
    grid = Grid([[6, 6]])
    sampler = OffsetSampler(4, num_samples=3, spread=1.0)
    field = torch.randn(36, 1)
    interpolate(field, sampler(torch.randn(36, 4), grid)).square().sum().backward()
    grad = sampler.offset.bias.grad
    assert grad.unique().numel() == 6
    assert sampler.offset.weight.grad.any()


def test_reset_parameters_spreads_again():
    sampler = trained(OffsetSampler(4))
    before = sampler.offset.bias.clone()
    sampler.reset_parameters()
    assert not sampler.offset.weight.any()
    assert not torch.equal(sampler.offset.bias, before)


def test_two_samplers_start_at_different_samples():
    assert not torch.equal(OffsetSampler(4).offset.bias, OffsetSampler(4).offset.bias)


@pytest.mark.parametrize("cell_size", [1, 2])
@pytest.mark.parametrize("dtype", HALF)
def test_positions_do_not_depend_on_autocast(dtype, cell_size):
    grid = Grid([[5, 4], [3, 3]])
    x = torch.randn(grid.num_nodes, 8)
    sampler = trained(OffsetSampler(8, cell_size=cell_size))
    with torch.autocast("cpu", dtype=dtype):
        near = sampler(x, grid)
    assert near.pos.dtype == near.corners().weight.dtype == torch.float32
    assert torch.equal(near.pos, sampler(x, grid).pos)


@pytest.mark.parametrize("cell_size", [1, 2])
@pytest.mark.parametrize("dtype", HALF)
def test_half_features_and_weights_give_full_positions(dtype, cell_size):
    grid = Grid([[5, 4], [3, 3]])
    x = torch.randn(grid.num_nodes, 8, dtype=dtype)
    half = trained(OffsetSampler(8, cell_size=cell_size)).to(dtype)
    full = copy.deepcopy(half).float()
    near = half(x, grid)
    assert near.pos.dtype == torch.float32
    assert torch.equal(near.pos, full(x.float(), grid).pos)


@pytest.mark.parametrize("cell_size", [1, 2])
def test_double_features_give_double_positions(cell_size):
    grid = Grid([[5, 4], [3, 3]])
    x = torch.randn(grid.num_nodes, 8, dtype=torch.float64)
    sampler = trained(OffsetSampler(8, cell_size=cell_size)).double()
    near = sampler(x, grid)
    assert near.pos.dtype == near.corners().weight.dtype == torch.float64
    single = sampler.float()(x.float(), grid)
    # float32 against float64, at coordinates up to 10.
    torch.testing.assert_close(near.pos.float(), single.pos, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cell_size", [1, 2])
def test_positions_have_gradients(cell_size):
    grid = Grid([[3, 2], [1, 1]])
    sampler = trained(OffsetSampler(2, 2, cell_size=cell_size)).double()
    x = torch.randn(grid.num_nodes, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = sampler.offset.weight, sampler.offset.bias

    def positions(x, weight, bias):
        parameters = {"offset.weight": weight, "offset.bias": bias}
        return torch.func.functional_call(sampler, parameters, (x, grid)).pos

    assert torch.autograd.gradcheck(positions, (x, weight, bias))


@pytest.mark.parametrize("cell_size", [1, 2])
def test_maps_of_different_sizes_equal_each_alone(cell_size):
    sizes = [[5, 4], [3, 3], [1, 7]]
    grid = Grid(sizes)
    x = torch.randn(grid.num_nodes, 4)
    sampler = trained(OffsetSampler(4, cell_size=cell_size))
    together = sampler(x, grid).pos.split(grid.ptr.diff().tolist())
    parts = x.split(grid.ptr.diff().tolist())
    for pos, part, size in zip(together, parts, sizes, strict=True):
        torch.testing.assert_close(pos, sampler(part, Grid([size])).pos)


def test_lazy_channels():
    sampler = OffsetSampler(-1, num_samples=2)
    copied = copy.deepcopy(sampler)
    grid = Grid([[2, 2]])
    near = sampler(torch.randn(4, 5), grid)
    assert near.pos.shape == (4, 2, 2)
    assert sampler.offset.weight.shape == (4, 5)
    assert not sampler.offset.weight.any()
    assert sampler.offset.bias.unique().numel() == 4
    assert copied(torch.randn(4, 3), grid).pos.shape == (4, 2, 2)
    loaded = OffsetSampler(-1, num_samples=2)
    loaded.load_state_dict(sampler.state_dict())
    x = torch.randn(4, 5)
    assert torch.equal(loaded(x, grid).pos, sampler(x, grid).pos)


@pytest.mark.parametrize("cell_size", [1, 2])
def test_maps_without_nodes(cell_size):
    sampler = OffsetSampler(4, cell_size=cell_size)
    assert sampler(torch.randn(0, 4), Grid.of(torch.randn(0, 4, 3, 3))).pos.shape == (0, 9, 2)
    grid = Grid([[0, 3], [2, 2]])
    assert sampler(torch.randn(4, 4), grid).pos.shape == (4, 9, 2)


def test_repr():
    assert repr(OffsetSampler(4)) == "OffsetSampler(4, num_samples=9, num_axes=2)"
    expected = "OffsetSampler(4, num_samples=2, num_axes=3, cell_size=5)"
    assert repr(OffsetSampler(4, 2, num_axes=3, cell_size=5)) == expected


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_samples": 0},
        {"num_axes": 0},
        {"num_axes": 4},
        {"cell_size": 0},
        {"spread": 0.0},
        {"spread": (1.0,)},
        {"spread": (1.0, 0.0)},
    ],
)
def test_constructor_errors_name_the_argument(kwargs):
    with pytest.raises(ValueError, match=f"^{next(iter(kwargs))}: "):
        OffsetSampler(4, **kwargs)


@pytest.mark.parametrize("cell_size", [1, 2])
def test_forward_errors_name_the_argument(cell_size):
    sampler = OffsetSampler(4, cell_size=cell_size)
    with pytest.raises(ValueError, match=r"^grid: expected 2 spatial axes, got 3"):
        sampler(torch.randn(8, 4), Grid([[2, 2, 2]]))
    with pytest.raises(ValueError, match=r"^x: "):
        sampler(torch.randn(3, 4), Grid([[2, 2]]))

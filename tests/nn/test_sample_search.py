"""The search for places of samples, against sums over all pairs of nodes."""

import itertools

import pytest
import torch
from torch import distributed, multiprocessing, nn

from dyngraph import Grid
from dyngraph.nn import BottleneckRepGraphBlock, RepGraphBlock, RepGraphConv, SampleSearch
from dyngraph.samplers import DilatedSampler


def layer(channels=3, num_samples=4, num_axes=2, hidden=2):
    torch.manual_seed(0)
    return RepGraphConv(channels, hidden, num_samples, num_axes=num_axes).double()


def gradients(conv, x, grid, d):
    """One iteration in which the gradient of the layer's output is ``d``."""
    (conv(x, grid) * d).sum().backward()


def dense(x, d, grid, reach):
    """U at all offsets, by the formula: M and its scale of all pairs of nodes of a map."""
    moment, scale = {}, {}
    offsets = [*itertools.product(*(range(-length, length + 1) for length in reach))]
    for maps, parts in zip(grid.unflatten_runs(x), grid.unflatten_runs(d), strict=True):
        shape = maps.shape[2:]
        # The mean of the maps, or the mean of the nodes of a single one.
        maps = maps - (
            maps.mean(dim=0)
            if len(maps) > 1
            else maps.flatten(2).mean(dim=2).view(1, -1, *[1] * len(shape))
        )
        for image, gradient in zip(maps, parts, strict=True):
            for offset in offsets:
                for node in itertools.product(*map(range, shape)):
                    other = tuple(a + b for a, b in zip(node, offset, strict=True))
                    if all(0 <= a < n for a, n in zip(other, shape, strict=True)):
                        f, g = image[(slice(None), *other)], gradient[(slice(None), *node)]
                        moment[offset] = moment.get(offset, 0) + g.outer(f)
                        scale[offset] = scale.get(offset, 0) + g.square().sum() * f.square().sum()
    largest = max(scale.values())
    useful = [
        moment[offset].square().sum() / (scale[offset] + 0.05 * largest)
        for offset in offsets
    ]  # fmt: skip
    return torch.stack(useful).view(*(2 * length + 1 for length in reach))


@pytest.mark.parametrize(
    "shapes", [[(9,)], [(3, 4), (3, 4)], [(4, 5), (2, 3)], [(2, 3, 3)]], ids=str
)
def test_usefulness_is_that_of_all_pairs(shapes):
    grid = Grid([[*shape] for shape in shapes])
    conv = layer(num_axes=grid.num_axes)
    x, d = torch.randn(grid.num_nodes, 3).double(), torch.randn(grid.num_nodes, 2).double()
    search = SampleSearch(conv)
    gradients(conv, x, grid, d)
    reach = [max(axis) - 1 for axis in zip(*shapes, strict=True)]
    # The search itself computes in float32.
    torch.testing.assert_close(
        search.place()[""].double(), dense(x, d, grid, reach), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("channels", "hidden"), [(4, 4), (40, 24)], ids=["all", "directions"])
@pytest.mark.parametrize("offset", [(0, 0), (-5, 2), (4, -7)], ids=str)
def test_samples_stand_where_the_gradient_comes_from(channels, hidden, offset):
    conv, grid = layer(channels, 3, hidden=hidden), Grid([[16, 16]] * 2)
    search = SampleSearch(conv)
    torch.manual_seed(0)
    weight = torch.randn(channels, hidden).double()
    for _ in range(3):
        x = torch.randn(grid.num_nodes, channels).double()
        maps = grid.unflatten(x).roll([-step for step in offset], (2, 3))
        d = grid.flatten(maps) @ weight + torch.randn(grid.num_nodes, hidden)
        gradients(conv, x, grid, d)
    search.place()
    assert conv.sampler.offset.bias.view(3, 2)[0].tolist() == list(offset)


def test_no_two_samples_stand_side_by_side():
    conv, grid = layer(num_samples=4), Grid([[16, 16]] * 2)
    nn.init.normal_(conv.sampler.offset.weight)
    search = SampleSearch(conv)
    # Smooth maps: what stands next to the best offset is nearly as good.
    maps = nn.functional.avg_pool2d(torch.randn(2, 3, 16, 16).double(), 7, stride=1, padding=3)
    x = grid.flatten(maps)
    gradients(conv, x, grid, grid.flatten(maps.roll(4, 2))[:, :2])
    search.place()
    places = conv.sampler.offset.bias.view(4, 2)
    assert torch.pdist(places).min() == 2  # and none at 1, or at the square root of 2
    # All nodes have the same offsets, whatever they predicted before.
    assert torch.equal(conv.sampler(x, grid).pos - grid.pos.unsqueeze(1), places.expand(512, 4, 2))


def test_maps_that_are_larger_than_the_first_count_as_far_as_those():
    conv = layer()
    search, sizes = SampleSearch(conv), [(3, 4), (7, 6)]
    passes = [(torch.randn(h * w, 3).double(), torch.randn(h * w, 2).double()) for h, w in sizes]
    for size, (x, d) in zip(sizes, passes, strict=True):
        gradients(conv, x, Grid([size]), d)
    x, d = (torch.cat(parts) for parts in zip(*passes, strict=True))
    want = dense(x, d, Grid(sizes), (2, 3))
    torch.testing.assert_close(search.place()[""].double(), want, rtol=1e-4, atol=1e-5)


def test_cells_stand_for_the_nodes_of_long_maps():
    conv, grid = layer(num_samples=1, num_axes=1), Grid([[150]] * 4)
    search = SampleSearch(conv)
    x = torch.randn(4, 30, 3).double().repeat_interleave(5, dim=1)
    d = x.roll(30, 1).flatten(0, 1)[:, :2]
    gradients(conv, x.flatten(0, 1), grid, d)
    (useful,) = search.place().values()
    assert useful.shape == (2 * 50 - 1,)  # cells of three nodes
    assert conv.sampler.offset.bias.tolist() == [-30]


def test_usefulness_of_noise_is_one():
    conv, grid = layer(8, hidden=8), Grid([[20, 20]] * 4)
    search = SampleSearch(conv)
    for _ in range(5):
        x, d = (torch.randn(grid.num_nodes, 8).double() for _ in range(2))
        gradients(conv, x, grid, d)
    (useful,) = search.place().values()
    # As many pairs of nodes have an offset as two maps have nodes in common that are shifted by it.
    shared = 20 - torch.arange(-19, 20).abs()
    pairs = shared.unsqueeze(1) * shared / 400
    inner = (useful * (pairs + 0.05) / pairs)[10:29, 10:29]
    # Each of 361 is the mean of 64 squares: this is five standard deviations of their mean.
    assert abs(inner.mean() - 1) < 0.05


def test_only_offsets_change_and_they_learn_on():
    block = BottleneckRepGraphBlock(8, 4, num_samples=3)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    search = SampleSearch(block)
    block.eval()
    maps = torch.randn(2, 8, 6, 7)
    block(maps).square().sum().backward()
    (name,) = search.place()
    assert name == "conv"
    changed = {n for n, value in block.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"conv.sampler.offset.bias"}
    block.zero_grad()
    block(maps).square().sum().backward()
    assert block.conv.sampler.offset.bias.grad.abs().sum() > 0


def test_a_placed_search_listens_no_more():
    block, maps = RepGraphBlock(8, 4), torch.randn(1, 8, 5, 5)
    search = SampleSearch(block)
    block(maps).sum().backward()
    search.place()
    sums = search.state_dict()["conv"]["moment"].clone()
    block(maps).sum().backward()
    assert torch.equal(search.state_dict()["conv"]["moment"], sums)


def test_gradients_that_overflow_are_left_out():
    conv, grid = layer(), Grid([[4, 5]])
    search = SampleSearch(conv)
    x, d = torch.randn(20, 3).double(), torch.randn(20, 2).double()
    gradients(conv, x, grid, d)
    sums = search.state_dict()[""]["moment"].clone()
    d[7, 1] = float("inf")
    gradients(conv, x, grid, d)
    assert torch.equal(search.state_dict()[""]["moment"], sums)
    conv(x=x, edge_index=grid).sum().backward()  # by keywords it counts as well
    assert not torch.equal(search.state_dict()[""]["moment"], sums)


def test_passes_without_gradients_and_other_graphs_do_not_count():
    conv, grid = layer(), Grid([[4, 5]])
    search = SampleSearch(conv)
    x = torch.randn(20, 3).double()
    with torch.no_grad():
        conv(x, grid)
    conv(x, torch.tensor([[0, 1], [2, 3]])).sum().backward()
    with pytest.raises(RuntimeError, match="expected a gradient before samples are placed"):
        search.place()


def test_a_layer_without_a_gradient_leaves_all_samples_where_they_are():
    used, unused = RepGraphBlock(8, 4), RepGraphBlock(8, 4, zero_init=True)
    model = nn.ModuleDict({"used": used, "unused": unused})
    before = [value.clone() for value in model.state_dict().values()]
    search = SampleSearch(model)
    maps = torch.randn(2, 8, 5, 5)
    (used(maps) + unused(maps)).sum().backward()  # zero weights after it: its gradient is zero
    with pytest.raises(RuntimeError, match=r"^unused\.conv: expected a gradient"):
        search.place()
    assert all(map(torch.equal, before, model.state_dict().values()))


def test_maps_without_nodes_say_nothing():
    conv = layer()
    search = SampleSearch(conv)
    for height in (0, 4):
        grid = Grid([[height, 5]] * 2)
        x = torch.randn(grid.num_nodes, 3).double()
        gradients(conv, x, grid, torch.randn(grid.num_nodes, 2).double())
    (useful,) = search.place().values()
    assert useful.shape == (7, 9)
    assert useful.isfinite().all()


def test_sums_continue_from_a_checkpoint():
    grid = Grid([[6, 5]])
    passes = [(torch.randn(30, 3).double(), torch.randn(30, 2).double()) for _ in range(4)]
    whole, first, second = layer(), layer(), layer()
    searches = [SampleSearch(conv) for conv in (whole, first, second)]
    for x, d in passes:
        gradients(whole, x, grid, d)
    for x, d in passes[:2]:
        gradients(first, x, grid, d)
    state = searches[1].state_dict()
    before = state[""]["moment"].clone()
    searches[2].load_state_dict(state)
    for x, d in passes[2:]:
        gradients(second, x, grid, d)
    assert torch.equal(state[""]["moment"], before)
    assert torch.equal(searches[0].place()[""], searches[2].place()[""])
    assert torch.equal(whole.sampler.offset.bias, second.sampler.offset.bias)


def one_of_two(rank, folder):
    """What one of two processes does, with maps of its own."""
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=2)
    conv, search = searched(rank)
    search.place()
    torch.save(conv.sampler.offset.bias, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def searched(seed):
    conv, grid = layer(), Grid([[6, 5]] * 2)
    search = SampleSearch(conv)
    torch.manual_seed(seed)
    x, d = torch.randn(60, 3).double(), torch.randn(60, 2).double()
    gradients(conv, x, grid, d)
    return conv, search


@pytest.mark.slow
def test_processes_place_by_the_sums_of_all(tmp_path):
    multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    (conv, search), (other, more) = (searched(seed) for seed in range(2))
    sums, added = (each.state_dict()[""] for each in (search, more))
    total = {name: sums[name] + added[name] for name in ("moment", "scale")}
    search.load_state_dict({"": {"cell": 1} | total})
    search.place()
    more.place()
    want = conv.sampler.offset.bias
    assert not torch.equal(want, other.sampler.offset.bias)
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), want)


def test_errors():
    model = nn.Sequential(RepGraphConv(8, 4, sampler=DilatedSampler()), nn.Conv2d(8, 8, 1))
    with pytest.raises(ValueError, match=r"^model: expected a RepGraphConv with an OffsetSampler"):
        SampleSearch(model)
    with pytest.raises(ValueError, match=r"^state: expected sums of \[''\], got \['other'\]"):
        SampleSearch(layer()).load_state_dict({"other": {}})


@pytest.mark.parametrize(
    "change",
    [{"cell": 0}, {"cell": "1"}, {"moment": None}, {"scale": torch.zeros(3)}, {"scale": [1.0]}],
    ids=str,
)
def test_sums_of_another_form_are_refused(change):
    state = {"cell": 1, "moment": torch.zeros(3, 2, 5, 5), "scale": torch.zeros(5, 5)}
    SampleSearch(layer()).load_state_dict({"": state})
    with pytest.raises(ValueError, match=r"^state: expected sums over 2 axes, got"):
        SampleSearch(layer()).load_state_dict({"": state | change})

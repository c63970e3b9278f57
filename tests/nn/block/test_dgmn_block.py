import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyngraph import Grid
from dyngraph.evaluate import count_multiply_adds
from dyngraph.nn import DGMNBlock
from dyngraph.ops import use_backend

SHAPES = {1: (7,), 2: (5, 4), 3: (3, 4, 2)}


def make(rates=(1, 3), channels=4, **kwargs):
    """A block with walks and factors as after some training."""
    block = DGMNBlock(channels, rates, **{"groups": 2, **kwargs})
    for name, parameter in block.named_parameters():
        if name.endswith("walk.weight"):
            nn.init.normal_(parameter, std=0.3)
        elif name.endswith("beta"):
            nn.init.normal_(parameter)
    return block


# --- the paper's sizes --------------------------------------------------------------------------

# Per rate, 9 filters a group and 9 affinities; then C x (S + 1) C weights for S rates.
SIZES = {
    "DA {1}": ({"rates": (1,), "groups": 0, "walk": False}, 1, 9, 0, 565_760, 5.3232),
    "DA + DW {1}": ({"rates": (1,), "walk": False}, 1, 45, 0, 731_648, 6.8841),
    "DA + DW, 5 rates": ({"walk": False}, 5, 45, 0, 2_609_664, 24.5543),
    "DA + DW + DS, 5 rates": ({}, 5, 45, 18, 3_024_384, 28.46),
}


@pytest.mark.parametrize("name", SIZES)
def test_weights_and_multiply_adds_are_the_papers(name):
    kwargs, num_rates, predicted, walks, weights, giga = SIZES[name]
    block = DGMNBlock(512, **kwargs)
    formula = num_rates * (predicted + walks) * 512 * 9 + (num_rates + 1) * 512 * 512
    assert sum(p.numel() for p in block.parameters()) == formula == weights
    counts = count_multiply_adds(block, 1, 512, 97, 97)
    # Each weight meets each node once.
    assert counts.dense == formula * 97 * 97
    assert round(counts.dense / 1e9, len(str(giga).split(".")[1])) == giga
    # Four corners of nine samples: of the projections of each tap, and of the nodes.
    assert counts.sampling == num_rates * 97 * 97 * 36 * (predicted + 512)


def test_the_deformable_baseline_of_table_1_is_its_projection():
    """1.31 M and, of 12.34 G, 12.33 G; the walks, 0.33 M and 3.12 G, are not in them."""
    plain = {"rates": (1, 6, 12, 24), "affinity": False, "filters": False}
    block = DGMNBlock(512, **plain, walk=False)
    projection = 5 * 512 * 512
    assert block.conv.lin.weight.numel() == projection == 1_310_720
    # A filter of nine taps for each rate and group, the same for all nodes.
    assert sum(p.numel() for p in block.parameters()) == projection + 4 * 4 * 9
    counts = count_multiply_adds(block, 1, 512, 97, 97)
    assert counts.dense == projection * 97 * 97
    assert round(counts.dense / 1e9, 2) == 12.33
    walking = count_multiply_adds(DGMNBlock(512, **plain), 1, 512, 97, 97)
    assert walking.dense - counts.dense == 4 * 18 * 512 * 9 * 97 * 97


def test_the_sum_has_a_factor_a_rate():
    block = DGMNBlock(512, fusion="sum")
    assert sum(p.numel() for p in block.parameters()) == 5 * (45 + 18) * 512 * 9 + 5
    counts = count_multiply_adds(block, 1, 512, 97, 97)
    assert counts.dense == 5 * (45 + 18) * 512 * 9 * 97 * 97


# --- maps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["sum", "concat"])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_a_block_is_its_layer_on_the_nodes(num_axes, fusion):
    block = make(fusion=fusion, num_axes=num_axes)
    maps = torch.randn(2, 4, *SHAPES[num_axes])
    grid = Grid.of(maps)
    out = block(maps)
    assert out.shape == maps.shape
    assert torch.equal(out, grid.unflatten(block.conv(grid.flatten(maps), grid)))


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_a_list_of_maps_equals_each_alone(fusion):
    block = make(fusion=fusion)
    maps = [torch.randn(4, *size) for size in ((3, 4), (5, 2), (5, 2), (1, 1))]
    outs = block(maps)
    assert [out.shape for out in outs] == [m.shape for m in maps]
    for out, single in zip(outs, maps, strict=True):
        # Products of more rows at once may sum in another order, which moves samples a little.
        torch.testing.assert_close(out, block(single[None])[0], atol=5e-6, rtol=1e-5)


def test_the_layout_of_maps_stays():
    block = make()
    maps = torch.randn(2, 4, 5, 4, requires_grad=True)
    last = block(maps.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    out = block(maps)
    assert out.is_contiguous()
    assert torch.autograd.grad(out.square().sum(), maps)[0].is_contiguous()
    assert torch.equal(last, out)


@pytest.mark.parametrize("kwargs", [{}, {"groups": 0}, {"affinity": False}, {"walk": False}])
@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3)])
def test_empty_maps(shape, kwargs):
    block = make(**kwargs)
    maps = torch.randn(shape, requires_grad=True)
    out = block(maps)
    assert out.shape == shape
    out.sum().backward()
    assert maps.grad.shape == shape


def test_a_shifted_map_gives_a_shifted_result():
    """No node listens to more than the maps: far from the border, only differences count."""
    block = make(rates=(1,), activation=F.relu).double()
    nn.init.normal_(block.conv.messages[0].sampler.walk.weight, std=0.01)
    maps = torch.randn(1, 4, 12, 12, dtype=torch.float64)
    shifted = block(maps.roll((1, 2), dims=(2, 3)))
    inside = (..., slice(5, -4), slice(6, -4))
    want = block(maps).roll((1, 2), dims=(2, 3))
    torch.testing.assert_close(shifted[inside], want[inside], atol=1e-13, rtol=1e-13)


# --- module -------------------------------------------------------------------------------------


def test_the_arguments_reach_the_layer():
    tanh = nn.Tanh()
    block = DGMNBlock(
        6,
        (1, 2, 3, 4),
        groups=3,
        fusion="sum",
        num_steps=2,
        kernel_size=5,
        num_axes=1,
        activation=tanh,
        legacy_affinity=True,
        backend="pyg",
    )
    conv = block.conv
    assert (conv.in_channels, conv.rates, conv.fusion) == (6, (1, 2, 3, 4), "sum")
    assert (conv.num_steps, conv.activation) == (2, tanh)
    message = conv.messages[3]
    assert message.prediction.shape == (20, 6, 5)
    assert message.sampler.walk.weight.shape == (5, 6, 5)
    assert (message.legacy_affinity, message.backend) == (True, "pyg")
    block = DGMNBlock(6, (1,), affinity=False, filters=False, walk=False, groups=2)
    assert set(block.state_dict()) == {"conv.messages.0.static_filter", "conv.lin.weight"}
    assert DGMNBlock(4).conv.rates == (1, 6, 12, 24, 36)


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_state_dict_and_deepcopy(fusion):
    block, loaded = make(fusion=fusion), make(fusion=fusion)
    maps = torch.randn(2, 4, 5, 4)
    out = block(maps)
    assert not torch.equal(loaded(maps), out)
    loaded.load_state_dict(block.state_dict())
    copied = copy.deepcopy(block)
    block.reset_parameters()
    assert not torch.equal(block(maps), out)
    assert torch.equal(loaded(maps), out)
    assert torch.equal(copied(maps), out)


def test_reset_parameters():
    block = make(fusion="sum")
    block.reset_parameters()
    maps = torch.randn(2, 4, 5, 4)
    assert torch.equal(block(maps), maps)
    assert not block.conv.messages[0].sampler.walk.weight.any()


def test_a_block_in_a_network_learns():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), make(fusion="sum"), nn.Conv2d(4, 1, 1))
    network(torch.randn(2, 3, 5, 4)).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if not p.grad.any()]


@pytest.mark.slow
def test_compile():
    torch._dynamo.reset()
    block = make(rates=(2,), fusion="sum")
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    maps = torch.randn(2, 4, 5, 4)
    # The same kernels in the same order.
    torch.testing.assert_close(compiled(maps), block(maps), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_export(fusion):
    block = make(rates=(2,), fusion=fusion).eval()
    maps = torch.randn(2, 4, 5, 4)
    exported = torch.export.export(block, (maps,)).module()
    other = torch.randn(2, 4, 5, 4)
    # The same kernels in the same order.
    torch.testing.assert_close(exported(other), block(other), atol=1e-6, rtol=1e-6)


# --- released weights ---------------------------------------------------------------------------


def official(groups=2, channels=4, num_rates=2, walk=True, affinity=True, kernel=3):
    """Random weights under the names of the released layer."""
    state_dict = {}
    outputs = (groups + affinity) * kernel**2
    for q in range(num_rates):
        letter = "abcde"[q]
        state_dict[f"gamma{q + 1}"] = torch.randn(1)
        prediction = "kernel_conv" if walk else "cat"
        weight = torch.randn(outputs, channels, kernel, kernel)
        state_dict[f"{prediction}{letter}.weight"] = weight
        if walk:
            shape = (2 * kernel**2, channels, kernel, kernel)
            state_dict[f"off_conv{letter}.weight"] = 0.1 * torch.randn(shape)
    return state_dict


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("affinity", [False, True])
@pytest.mark.parametrize("walk", [False, True])
@pytest.mark.parametrize("num_rates", [1, 2, 5])
def test_released_weights_find_their_places(num_rates, walk, affinity, kernel):
    rates = (1, 4, 8, 12, 16)[:num_rates]
    weights = official(num_rates=num_rates, walk=walk, affinity=affinity, kernel=kernel)
    block = DGMNBlock.from_official(weights, rates, groups=2)
    conv = block.conv
    assert (block.in_channels, conv.rates, conv.fusion, conv.num_steps) == (4, rates, "sum", 1)
    assert conv.activation is None
    for q, message in enumerate(conv.messages):
        letter, prediction = "abcde"[q], "kernel_conv" if walk else "cat"
        assert conv.beta[q] == weights[f"gamma{q + 1}"]
        want = weights[f"{prediction}{letter}.weight"].flatten(2)
        assert torch.equal(message.prediction, want)
        assert message.sampler.rates == (rates[q],)
        assert (message.affinity, message.groups) == (affinity, 2)
        assert message.legacy_affinity == (q == 3 and affinity)
        if walk:
            assert torch.equal(message.sampler.walk.weight, weights[f"off_conv{letter}.weight"])


def test_released_affinities_alone():
    block = DGMNBlock.from_official(official(groups=0), (1, 4), groups=0)
    assert [(m.affinity, m.filters) for m in block.conv.messages] == [(True, False)] * 2


def test_released_weights_keep_their_type_and_are_copied():
    weights = {name: w.double() for name, w in official().items()}
    block = DGMNBlock.from_official(weights, (1, 4), groups=2)
    assert {p.dtype for p in block.parameters()} == {torch.float64}
    before = {name: w.clone() for name, w in weights.items()}
    block.reset_parameters()
    assert all(torch.equal(weights[name], before[name]) for name in before)
    scalar = {name: w.squeeze() if w.numel() == 1 else w for name, w in weights.items()}
    assert DGMNBlock.from_official(scalar, (1, 4), groups=2).conv.beta.shape == (2,)


def changed(**changes):
    weights = official()
    for name, change in changes.items():
        name = name if name.startswith("gamma") else f"{name}.weight"
        weights[name] = change(weights[name])
    return weights


@pytest.mark.parametrize(
    ("weights", "rates", "groups", "match"),
    [
        (
            {**official(), "fc.bias": torch.ones(1)},
            (1, 4),
            2,
            r"state_dict: missing \[\], unexpected \['fc.bias'\]",
        ),
        (
            {name: w for name, w in official().items() if name != "gamma2"},
            (1, 4),
            2,
            r"state_dict: missing \['gamma2'\], unexpected \[\]",
        ),
        (
            {name: w for name, w in official().items() if name != "off_conva.weight"},
            (1, 4),
            2,
            r"state_dict: missing \['cata.weight', 'catb.weight'\], unexpected \['kernel_conva",
        ),
        ({}, (1, 4), 2, "state_dict: missing"),
        ({}, (), 2, "rates: "),
        (official(), (1,), 2, r"state_dict: missing \[\], unexpected \['gamma2', 'kernel_convb"),
        (official(), (1, 4, 8), 2, r"state_dict: missing \['gamma3', 'kernel_convc"),
        (official(), (1, 0), 2, "rates: "),
        (official(), (1, 4), 4, "state_dict: .*prediction"),
        (official(), (1, 4), 3, "groups: "),
        (official(kernel=2), (1, 4), 2, "kernel_size: "),
        (changed(kernel_conva=lambda w: w.flatten(2)), (1, 4), 2, "state_dict: .*kernel_conva"),
        (changed(kernel_conva=lambda w: w[0, 0, 0, 0]), (1, 4), 2, "state_dict: .*kernel_conva"),
        (changed(kernel_conva=lambda w: w[..., :1]), (1, 4), 2, "state_dict: .*kernel_conva"),
        (changed(kernel_convb=lambda w: w[:9]), (1, 4), 2, "state_dict: .*kernel_convb"),
        (
            changed(kernel_convb=lambda w: w.reshape(27, 4, 9, 1)),
            (1, 4),
            2,
            "state_dict: .*kernel_convb",
        ),
        (changed(off_convb=lambda w: w[:9]), (1, 4), 2, "state_dict: .*walk"),
        (changed(gamma1=lambda w: torch.ones(2)), (1, 4), 2, "state_dict: .*beta"),
    ],
)
def test_released_weights_that_do_not_fit(weights, rates, groups, match):
    with pytest.raises(ValueError, match=f"(?s)^{match}"):
        DGMNBlock.from_official(weights, rates, groups)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"groups": 3}, "groups: "),
        ({"rates": ()}, "rates: "),
        ({"rates": (0,)}, "rates: "),
        ({"kernel_size": 4}, "kernel_size: "),
        ({"fusion": "add"}, "fusion: "),
        ({"num_steps": 0}, "num_steps: "),
        ({"num_axes": 4}, "num_axes: "),
    ],
)
def test_constructor_errors_name_the_argument(kwargs, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        make(**kwargs)


@pytest.mark.parametrize(
    ("maps", "match"),
    [
        (torch.ones(2, 5, 3, 3), "maps: expected 4 channels"),
        ([torch.ones(4, 3, 3), torch.ones(3, 3, 3)], "maps: expected 4 channels"),
        (torch.ones(2, 4, 3), "grid: expected 2 spatial axes, got 1"),
        ([], "maps: "),
    ],
)
def test_forward_errors_name_the_argument(maps, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        make()(maps)


def test_an_unknown_backend():
    with use_backend("torch"), pytest.raises(ValueError, match=r"^backend: "):
        make(backend="fast")(torch.ones(1, 4, 2, 2))

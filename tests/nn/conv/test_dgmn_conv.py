import copy

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import nn

from dyngraph import Grid
from dyngraph.nn.conv import DGMNConv
from dyngraph.ops import use_backend
from dyngraph.samplers import DilatedSampler, OffsetSampler

BACKENDS = ["torch", "pyg"]
FUSIONS = ["sum", "concat"]
KINDS = {
    "affinities and filters": {},
    "affinities": {"groups": 0},
    "filters": {"affinity": False},
    "static": {"affinity": False, "filters": False},
}


def make(kind="affinities and filters", rates=(1, 3), walk_std=0.3, **kwargs):
    """A layer on 4 channels, with walks, factors and static filters as after some training."""
    conv = DGMNConv(4, rates, **{"groups": 2, **KINDS[kind], **kwargs})
    for name, parameter in conv.named_parameters():
        if name.endswith("walk.weight"):
            nn.init.normal_(parameter, std=walk_std)
        elif name == "beta" or name.endswith("static_filter"):
            nn.init.normal_(parameter)
    return conv


def dense(conv, x, grid):
    """The layer without activation, with two axes of loops: rates and channels."""
    terms = []
    for message in conv.messages:
        near = message.sampler(x, grid)
        samples = reference.interpolate(x, near)
        n, k = samples.shape[:2]
        if message.affinity or message.filters:
            z = torch.einsum("nkc,ock->no", samples, message.prediction).view(n, -1, k)
        else:
            z = message.static_filter.expand(n, -1, -1)
        if message.affinity and message.filters:
            weight = z[:, :-1] * z[:, -1:].softmax(dim=2)
        elif message.affinity or message.filters:
            weight = z.softmax(dim=2)
        else:
            weight = z
        group = [channel * weight.shape[1] // 4 for channel in range(4)]
        terms.append(torch.einsum("nck,nkc->nc", weight[:, group], samples))
    if conv.fusion == "concat":
        return torch.cat([x, *terms], dim=1) @ conv.lin.weight.t()
    return x + sum(beta * term for beta, term in zip(conv.beta, terms, strict=True))


# --- formulas -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("walk", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_the_layer_equals_the_formula(num_axes, kind, walk, fusion, backend):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    conv = make(kind, fusion=fusion, walk=walk, num_axes=num_axes, backend=backend).double()
    x = torch.randn(grid.num_nodes, 4, dtype=torch.float64)
    # float64: sums of up to 108 terms in another order.
    torch.testing.assert_close(conv(x, grid), dense(conv, x, grid), atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_activation_comes_last(fusion):
    grid = Grid([[3, 4]])
    x = torch.randn(12, 4)
    conv = make(fusion=fusion, activation=F.relu)
    plain = make(fusion=fusion)
    plain.load_state_dict(conv.state_dict())
    assert torch.equal(conv(x, grid), plain(x, grid).relu())
    assert conv(x, grid).min() == 0


@pytest.mark.parametrize("activation", [None, nn.Tanh()])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("num_steps", [2, 3])
def test_every_step_updates_the_observed_features(num_steps, fusion, activation):
    """Eq. 2: the messages are of the former step's nodes, what they are added to is the input."""
    grid = Grid([[3, 4], [2, 2]])
    x = torch.randn(grid.num_nodes, 4)
    conv = make(fusion=fusion, num_steps=num_steps, activation=activation)
    h = x
    for _ in range(num_steps):
        h = conv.update_nodes(x, [message(h, grid) for message in conv.messages])
    assert torch.equal(conv(x, grid), h)
    once = make(fusion=fusion, activation=activation)
    once.load_state_dict(conv.state_dict())
    assert not torch.equal(h, once(x, grid))
    assert not torch.equal(h, once(once(x, grid), grid)), "f is observed, not the former step"


def test_biases_of_walks_and_predictions():
    """Eq. 4 and 6 with their biases, which start at zero."""
    grid = Grid([[3, 4], [2, 2]])
    x = torch.randn(grid.num_nodes, 4, dtype=torch.float64)
    conv, plain = (make(fusion="sum", bias=bias).double() for bias in (True, False))
    missing, unexpected = conv.load_state_dict(plain.state_dict(), strict=False)
    biases = [f"messages.{q}.{name}" for q in (0, 1) for name in ("bias", "sampler.walk.bias")]
    assert (missing, unexpected) == (biases, [])
    torch.testing.assert_close(conv(x, grid), plain(x, grid), atol=0, rtol=0)

    for name in biases:
        nn.init.normal_(conv.get_parameter(name))
    message = conv.messages[1]
    walk = F.conv2d(
        x[:12].view(1, 3, 4, 4).movedim(-1, 1), message.sampler.walk.weight, padding=3, dilation=3
    )
    walk = walk.movedim(1, -1).view(12, 9, 2) + message.sampler.walk.bias.view(9, 2)
    near = message.sampler(x, grid)
    filters, affinity = message.predict(x, near)
    taps = message.sampler.taps(x.device, x.dtype) + grid.pos[:12].unsqueeze(1)
    torch.testing.assert_close(near.pos[:12], taps + walk, atol=1e-13, rtol=1e-13)
    z = torch.einsum("nkc,ock->no", reference.interpolate(x, near), message.prediction)
    z = (z + message.bias).view(-1, 3, 9)
    torch.testing.assert_close(filters, z[:, :2], atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(affinity, z[:, 2:].softmax(dim=2), atol=1e-13, rtol=1e-13)
    conv(x, grid).square().sum().backward()
    assert all(conv.get_parameter(name).grad.any() for name in biases)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_sum_is_the_identity(kind):
    grid = Grid([[3, 4]])
    x = torch.randn(12, 4)
    conv = DGMNConv(4, fusion="sum", **{"groups": 2, **KINDS[kind]})
    assert torch.equal(conv.beta, torch.zeros(5))
    assert torch.equal(conv(x, grid), x)
    conv(x, grid).square().sum().backward()
    assert conv.beta.grad.all()


def test_the_update_of_nodes():
    conv = make(fusion="sum", rates=(1, 2, 3))
    x, *messages = torch.randn(4, 7, 4).unbind()
    want = x + conv.beta[0] * messages[0] + conv.beta[1] * messages[1] + conv.beta[2] * messages[2]
    torch.testing.assert_close(conv.update_nodes(x, messages), want)
    conv = make(fusion="concat", rates=(1, 2, 3))
    parts = [x, *messages]
    want = sum(part @ conv.lin.weight[:, 4 * i : 4 * i + 4].t() for i, part in enumerate(parts))
    torch.testing.assert_close(conv.update_nodes(x, messages), want)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_other_samplers(fusion):
    grid = Grid([[3, 4], [2, 2]])
    samplers = [OffsetSampler(4, 5, spread=1.5), DilatedSampler([1, 2])]
    conv = make(fusion=fusion, samplers=samplers).double()
    assert [message.sampler for message in conv.messages] == samplers
    assert [message.prediction.shape[2] for message in conv.messages] == [5, 18]
    x = torch.randn(grid.num_nodes, 4, dtype=torch.float64)
    torch.testing.assert_close(conv(x, grid), dense(conv, x, grid), atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("num_rates", [4, 5])
def test_the_slip_is_in_the_fourth_rate(num_rates):
    conv = make(rates=range(1, num_rates + 1), legacy_affinity=True)
    flags = [message.legacy_affinity for message in conv.messages]
    assert flags == [q == 3 for q in range(num_rates)]
    assert not any(message.legacy_affinity for message in make(rates=(1, 2, 3, 4)).messages)


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_different_sizes_equal_each_alone(kind, fusion):
    sizes = [[3, 4], [2, 2], [2, 2], [1, 1], [5, 3]]
    grid = Grid(sizes)
    x = torch.randn(grid.num_nodes, 4)
    conv = make(kind, fusion=fusion)
    parts = x.split(grid.ptr.diff().tolist())
    alone = [conv(part, Grid([size])) for part, size in zip(parts, sizes, strict=True)]
    # Products of more rows at once may sum in another order, which moves samples a little.
    torch.testing.assert_close(conv(x, grid), torch.cat(alone), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_maps(kind, fusion, num_steps):
    conv = make(kind, fusion=fusion, num_steps=num_steps)
    x = torch.randn(0, 4, requires_grad=True)
    out, (edge_index, alpha) = conv(
        x, Grid.of(torch.randn(0, 4, 3, 3)), return_attention_weights=True
    )
    groups = 1 if kind == "affinities" else 2
    assert (out.shape, edge_index.shape, alpha.shape) == ((0, 4), (2, 0), (0, groups))
    out.sum().backward()
    assert x.grad.shape == (0, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_without_nodes(kind):
    x = torch.randn(4, 4)
    conv = make(kind)
    got, want = conv(x, Grid([[0, 3], [2, 2], [3, 0]])), conv(x, Grid([[2, 2]]))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_a_single_node(num_axes):
    conv = make(num_axes=num_axes)
    x = torch.randn(1, 4, requires_grad=True)
    conv(x, Grid([[1] * num_axes])).sum().backward()
    assert x.grad.isfinite().all()


# --- derivatives --------------------------------------------------------------------------------


def features_away_from_integers(conv, grid):
    """Features with which no sample is at an integer, where the derivative jumps."""
    while True:
        x = torch.randn(grid.num_nodes, 4, dtype=torch.float64)
        _, near, _ = conv.sample(x, grid)
        if (near.pos - near.pos.round()).abs().min() > 1e-4:
            return x.requires_grad_()


def assert_gradients(conv, grid, **kwargs):
    x = features_away_from_integers(conv, grid)
    names, parameters = zip(*conv.named_parameters(), strict=True)

    def outputs(x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(conv, given, (x, grid))

    assert torch.autograd.gradcheck(outputs, (x, *parameters), **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind, fusion):
    conv = make(kind, (1, 2), walk_std=0.1, num_axes=1, fusion=fusion).double()
    assert_gradients(conv, Grid([[3], [2]]))


@pytest.mark.parametrize("num_axes", [2, 3])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_a_random_direction(kind, fusion, num_axes):
    sizes = {2: [[2, 2], [1, 2]], 3: [[1, 2, 2]]}[num_axes]
    conv = make(kind, (1, 2), walk_std=0.05, num_axes=num_axes, fusion=fusion).double()
    assert_gradients(conv, Grid(sizes), fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradcheck_through_two_steps(fusion):
    kwargs = {"num_axes": 1, "fusion": fusion, "num_steps": 2, "activation": nn.Tanh()}
    assert_gradients(make(rates=(1,), walk_std=0.1, **kwargs).double(), Grid([[3], [2]]))


@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_backends_agree(kind, fusion, num_steps):
    grid = Grid([[3, 4], [2, 5]])
    conv = make(kind, fusion=fusion, num_steps=num_steps).double()
    x = torch.randn(grid.num_nodes, 4, dtype=torch.float64, requires_grad=True)
    results = []
    for backend in BACKENDS:
        with use_backend(backend):
            out = conv(x, grid)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *conv.parameters()])])
    # Gradients are sums of some hundred products of size up to 100.
    torch.testing.assert_close(*results, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_parameters_learn(kind, fusion):
    conv = make(kind, fusion=fusion)
    conv(torch.randn(20, 4), Grid([[4, 5]])).square().sum().backward()
    without = {name for name, p in conv.named_parameters() if p.grad is None or not p.grad.any()}
    assert not without


# --- edges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_weights_rebuild_the_messages(kind, num_axes):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    x = torch.randn(grid.num_nodes, 4)
    conv = make(kind, fusion="sum", num_axes=num_axes)
    nn.init.ones_(conv.beta)
    out, (edge_index, alpha) = conv(x, grid, return_attention_weights=True)
    assert torch.equal(out, conv(x, grid))
    groups = 1 if kind == "affinities" else 2
    assert alpha.shape == (edge_index.shape[1], groups)
    assert edge_index.shape[1] == grid.num_nodes * 2 * 3**num_axes * 2**num_axes
    sources = x[edge_index[0]].unflatten(1, (groups, -1))
    edges = (alpha.unsqueeze(-1) * sources).flatten(1)
    rebuilt = x.index_add(0, edge_index[1], edges)
    # float32, up to 432 terms a node.
    torch.testing.assert_close(rebuilt, out, atol=5e-6, rtol=1e-5)
    # The first half of the edges is the message of the first rate.
    half = edge_index.shape[1] // 2
    first = torch.zeros_like(x).index_add(0, edge_index[1, :half], edges[:half])
    torch.testing.assert_close(first, conv.messages[0](x, grid), atol=5e-6, rtol=1e-5)


def test_attention_weights_are_of_the_first_step():
    grid = Grid([[3, 4]])
    x = torch.randn(12, 4)
    once, twice = make(fusion="sum"), make(fusion="sum", num_steps=2)
    twice.load_state_dict(once.state_dict())
    _, want = once(x, grid, return_attention_weights=True)
    out, got = twice(x, grid, return_attention_weights=True)
    assert torch.equal(out, twice(x, grid))
    assert all(map(torch.equal, got, want))


# --- module -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_names_and_shapes_of_the_weights(fusion):
    shapes = {name: tuple(p.shape) for name, p in make(fusion=fusion).state_dict().items()}
    want = {"beta": (2,)} if fusion == "sum" else {"lin.weight": (4, 12)}
    for q in range(2):
        want[f"messages.{q}.prediction"] = (27, 4, 9)
        want[f"messages.{q}.sampler.walk.weight"] = (18, 4, 3, 3)
    assert shapes == want


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_and_deepcopy(kind, fusion):
    conv = make(kind, fusion=fusion)
    loaded = make(kind, fusion=fusion)
    x, grid = torch.randn(12, 4), Grid([[3, 4]])
    assert not torch.equal(loaded(x, grid), conv(x, grid))
    loaded.load_state_dict(conv.state_dict())
    copied = copy.deepcopy(conv)
    assert torch.equal(loaded(x, grid), conv(x, grid))
    assert torch.equal(copied(x, grid), conv(x, grid))
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter += 0.1
    assert not torch.equal(copied(x, grid), conv(x, grid))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_reset_parameters(fusion):
    conv = make(fusion=fusion)
    before = {name: p.clone() for name, p in conv.named_parameters()}
    conv.reset_parameters()
    after = dict(conv.named_parameters())
    assert not [name for name in before if torch.equal(before[name], after[name])]
    assert not after["messages.1.sampler.walk.weight"].any()
    if fusion == "sum":
        assert not conv.beta.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_autocast(fusion, dtype):
    grid = Grid([[3, 4]])
    x = torch.randn(12, 4)
    conv = make(fusion=fusion)
    full = conv(x, grid)
    with torch.autocast("cpu", dtype=dtype):
        half = conv(x, grid)
        _, near, _ = conv.sample(x, grid)
    assert torch.equal(near.pos, conv.sample(x, grid)[1].pos)
    # Predictions and fusion are matrix products: each is rounded to half an ulp of its size,
    # about 2, and so is each factor.
    torch.testing.assert_close(half.float(), full, atol=16 * torch.finfo(dtype).eps, rtol=0)


def test_half_layers():
    grid = Grid([[3, 4]])
    conv = make(fusion="sum").bfloat16()
    x = torch.randn(12, 4, dtype=torch.bfloat16)
    out = conv(x, grid)
    assert out.dtype == torch.bfloat16
    want = conv.float()(x.float(), grid)
    # Predictions, messages and sums are rounded to half an ulp of their size, up to 4.
    torch.testing.assert_close(out.float(), want, atol=8 * 2**-7, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_compile(fusion):
    torch._dynamo.reset()
    conv = make(fusion=fusion, rates=(2,))
    compiled = torch.compile(conv, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in [[3, 4], [3, 4]], [[2, 3], [5, 2]]:
        grid = Grid(sizes)
        results = []
        for function in (conv, compiled):
            x = torch.randn(grid.num_nodes, 4, generator=torch.Generator().manual_seed(2))
            x.requires_grad_()
            out = function(x, grid)
            grads = torch.autograd.grad(out.square().sum(), [x, *conv.parameters()])
            results.append([out, *grads])
        # The same kernels; gradients are sums over all nodes, of terms of size up to 100.
        torch.testing.assert_close(results[1], results[0], atol=2e-5, rtol=2e-5)


@pytest.mark.slow
def test_compile_with_fused_kernels():
    torch._dynamo.reset()
    conv = make(rates=(2,))
    x, grid = torch.randn(24, 4), Grid([[3, 4], [3, 4]])
    with torch.no_grad():
        out = torch.compile(conv, fullgraph=True)(x, grid)
    # Fused kernels sum in another order, which moves samples a little.
    torch.testing.assert_close(out, conv(x, grid), atol=5e-6, rtol=1e-5)


def test_repr():
    assert repr(make(rates=[1, 6])) == "DGMNConv(4, rates=(1, 6))"


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"groups": 3}, "groups: expected 0 or a divisor of 4 channels, got 3"),
        ({"groups": 0, "affinity": False}, "groups: "),
        ({"rates": ()}, "rates: "),
        ({"rates": (1, 0)}, "rates: "),
        ({"rates": (1, -2), "walk": False}, "rates: "),
        ({"kernel_size": 2}, "kernel_size: "),
        ({"fusion": "add"}, "fusion: "),
        ({"num_steps": 0}, "num_steps: "),
        ({"num_axes": 4}, "num_axes: "),
        ({"samplers": [DilatedSampler()]}, r"samplers: expected one for each of \(1, 3\), got 1"),
        ({"samplers": []}, "samplers: "),
        ({"rates": (1, 2, 3, 4), "legacy_affinity": True, "filters": False}, "legacy_affinity: "),
    ],
)
def test_constructor_errors_name_the_argument(kwargs, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        DGMNConv(4, **{"rates": (1, 3), "groups": 2, **kwargs})


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    ("x", "grid", "match"),
    [
        (torch.ones(4, 5), Grid([[2, 2]]), r"x: expected node features \[N, 4\], got .*\[4, 5\]"),
        (torch.ones(4), Grid([[2, 2]]), "x: "),
        (torch.ones(1, 4, 2, 2), Grid([[2, 2]]), "x: "),
        (torch.ones(3, 4), Grid([[2, 2]]), "x: "),
        (torch.ones(8, 4), Grid([[2, 2, 2]]), "grid: expected 2 spatial axes, got 3"),
    ],
)
def test_forward_errors_name_the_argument(x, grid, match, fusion):
    with pytest.raises(ValueError, match=f"^{match}"):
        make(fusion=fusion)(x, grid)


def test_an_unknown_backend():
    with pytest.raises(ValueError, match=r"^backend: "):
        make(backend="fast")(torch.randn(4, 4), Grid([[2, 2]]))


def test_the_legacy_affinity_needs_a_fourth_rate():
    with pytest.raises(ValueError, match="legacy_affinity: expected at least four rates"):
        DGMNConv(8, rates=(1, 2, 3), legacy_affinity=True)

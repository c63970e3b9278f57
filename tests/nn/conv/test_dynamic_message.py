import copy

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from dyngraph import Grid
from dyngraph.nn.conv import DynamicMessage
from dyngraph.ops import sampled_convolution, use_backend
from dyngraph.samplers import DilatedSampler, OffsetSampler, WalkSampler

BACKENDS = ["torch", "pyg"]
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
#: What is predicted, by the arguments of the message.
KINDS = {
    "affinities and filters": {},
    "one group": {"groups": 1},
    "as many groups as channels": {"groups": 4},
    "affinities": {"filters": False},
    "no groups": {"groups": 0},
    "filters": {"affinity": False},
    "static": {"affinity": False, "filters": False},
    "legacy": {"legacy_affinity": True},
}


def make(kind, rate=1, trained=True, **kwargs):
    """A message on 4 channels, with walks and filters as after some training."""
    message = DynamicMessage(4, rate, **{"groups": 2, **KINDS[kind], **kwargs})
    if trained and isinstance(message.sampler, WalkSampler):
        nn.init.normal_(message.sampler.walk.weight, std=0.3)
    if trained and hasattr(message, "static_filter"):
        nn.init.normal_(message.static_filter)
    return message


def dense_weights(message, x, near):
    """Filters ``[N, G, K]`` and affinities ``[N, K]``, written for each kind of message."""
    n, k = near.pos.shape[:2]
    samples = reference.interpolate(x, near)
    if not message.affinity and not message.filters:
        return message.static_filter.expand(n, -1, -1), torch.ones_like(near.pos[..., 0])
    z = sum(samples[:, tap] @ message.prediction[:, :, tap].t() for tap in range(k))
    if not message.affinity:
        filters = [z[:, k * g : k * (g + 1)].softmax(dim=1) for g in range(message.groups)]
        return torch.stack(filters, dim=1), torch.ones_like(near.pos[..., 0])
    if not message.filters:
        return torch.ones_like(z).unsqueeze(1), z.softmax(dim=1)
    filters = [z[:, k * g : k * (g + 1)] for g in range(message.groups)]
    last = message.groups - message.legacy_affinity
    return torch.stack(filters, dim=1), z[:, k * last : k * (last + 1)].softmax(dim=1)


def dense(message, x, grid):
    near = message.sampler(x, grid)
    filters, affinity = dense_weights(message, x, near)
    samples = reference.interpolate(x, near)
    channels_per_group = x.shape[1] // filters.shape[1]
    out = torch.zeros_like(x)
    for channel in range(x.shape[1]):
        weight = affinity * filters[:, channel // channels_per_group]
        out[:, channel] = (weight * samples[:, :, channel]).sum(dim=1)
    return out


# --- formulas -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("walk", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_the_message_equals_the_formula(num_axes, kind, walk, backend):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    message = make(kind, 2, walk=walk, num_axes=num_axes, backend=backend).double()
    x = torch.randn(grid.num_nodes, 4, dtype=torch.float64, requires_grad=True)
    outs = [message(x, grid), dense(message, x, grid)]
    # float64: sums of up to 108 terms in another order.
    torch.testing.assert_close(*outs, atol=1e-13, rtol=1e-13)
    leaves = [x, *message.parameters()]
    cotangent = torch.randn_like(x)
    got, want = (torch.autograd.grad(out, leaves, cotangent) for out in outs)
    # Gradients of weights are sums over all nodes.
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_the_weights(kind):
    grid = Grid([[3, 4]])
    x = torch.randn(12, 4, dtype=torch.float64)
    message = make(kind).double()
    near = message.sampler(x, grid)
    filters, affinity = message.predict(x, near)
    want_filters, want_affinity = dense_weights(message, x, near)
    torch.testing.assert_close(filters, want_filters, atol=1e-13, rtol=1e-13)
    assert (affinity is None) == (not message.affinity)
    if affinity is not None:
        torch.testing.assert_close(affinity[:, 0], want_affinity, atol=1e-13, rtol=1e-13)
    _, same, weight = message.send(x, grid)
    assert torch.equal(same.pos, near.pos)
    want_weight = want_filters * want_affinity.unsqueeze(1)
    torch.testing.assert_close(weight, want_weight, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("rate", [1, 2, 3])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_constant_filters_at_the_taps_are_a_dilated_convolution(groups, num_axes, rate):
    maps = torch.randn(2, 4, *(5, 4, 3)[:num_axes], dtype=torch.float64)
    grid = Grid.of(maps)
    message = make("static", rate, groups=groups, num_axes=num_axes, trained=False).double()
    nn.init.normal_(message.static_filter)
    out = grid.unflatten(message(grid.flatten(maps), grid))
    filters = message.static_filter.repeat_interleave(4 // groups, dim=0)
    filters = filters.view(4, 1, *[3] * num_axes)
    want = CONV[num_axes](maps, filters, padding=rate, dilation=rate, groups=4)
    torch.testing.assert_close(out, want, atol=1e-14, rtol=1e-14)


def test_static_filters_start_as_an_average():
    maps = torch.randn(1, 4, 5, 5)
    grid = Grid.of(maps)
    out = make("static", trained=False)(grid.flatten(maps), grid)
    want = F.avg_pool2d(maps, 3, stride=1, padding=1)
    torch.testing.assert_close(grid.unflatten(out), want)


@pytest.mark.parametrize("rate", [1, 2, 6])
def test_predictions_are_a_deformable_convolution(rate):
    maps = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    grid = Grid.of(maps)
    x = grid.flatten(maps)
    message = make("affinities and filters", rate).double()
    near = message.sampler(x, grid)
    z = grid.unflatten(sampled_convolution(x, message.prediction, near))
    walks = F.conv2d(maps, message.sampler.walk.weight, padding=rate, dilation=rate)
    weight = message.prediction.unflatten(2, (3, 3))
    want = deform_conv2d(maps, walks, weight, padding=rate, dilation=rate)
    torch.testing.assert_close(z, want, atol=1e-13, rtol=1e-13)
    filters, affinity = message.predict(x, near)
    want = grid.flatten(want)
    torch.testing.assert_close(filters.flatten(1), want[:, :18], atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(
        affinity.flatten(1), want[:, 18:].softmax(dim=1), atol=1e-13, rtol=1e-13
    )


@pytest.mark.parametrize("kernel_size", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_other_kernels(kind, kernel_size):
    grid = Grid([[3, 4], [6, 5]])
    x = torch.randn(grid.num_nodes, 4, dtype=torch.float64)
    message = make(kind, 2, kernel_size=kernel_size).double()
    assert message.sampler.num_samples == kernel_size**2
    # Sums of up to 100 terms.
    want = dense(message, x, grid)
    torch.testing.assert_close(message(x, grid), want, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_another_sampler(kind):
    grid = Grid([[3, 4], [2, 2]])
    x = torch.randn(grid.num_nodes, 4, dtype=torch.float64)
    message = make(kind, sampler=OffsetSampler(4, 5, spread=1.5)).double()
    assert isinstance(message.sampler, OffsetSampler)
    want = dense(message, x, grid)
    torch.testing.assert_close(message(x, grid), want, atol=1e-13, rtol=1e-13)


def test_the_sampler_walks_if_asked():
    assert type(make("legacy").sampler) is WalkSampler
    assert type(make("legacy", walk=False).sampler) is DilatedSampler
    assert make("legacy", 7).sampler.rates == (7,)


# --- derivatives --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_axes", [1, 2])
def test_gradcheck(num_axes, kind, backend):
    grid = Grid([[2] * num_axes, [1] * num_axes])
    message = make(kind, num_axes=num_axes, backend=backend).double()
    # Walks of around 0.3 nodes.
    nn.init.normal_(message.sampler.walk.weight, std=0.1)
    distance = 0
    # The derivative jumps at integers.
    while distance < 1e-4:
        x = torch.randn(grid.num_nodes, 4, dtype=torch.float64, requires_grad=True)
        pos = message.sampler(x, grid).pos
        distance = (pos - pos.round()).abs().min()
    names, parameters = zip(*message.named_parameters(), strict=True)

    def outputs(x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(message, given, (x, grid))

    # With two axes, there are too many weights to try each: a random direction of them.
    assert torch.autograd.gradcheck(outputs, (x, *parameters), fast_mode=num_axes == 2)


@pytest.mark.parametrize("kind", KINDS)
def test_all_parameters_learn(kind):
    message = make(kind, trained=False)
    message(torch.randn(20, 4), Grid([[4, 5]])).square().sum().backward()
    without = {name for name, p in message.named_parameters() if not p.grad.any()}
    assert not without


# --- module -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [("affinities and filters", 27), ("affinities", 9), ("no groups", 9), ("filters", 18)],
)
def test_the_names_and_shapes_of_the_weights(kind, outputs):
    shapes = {name: tuple(p.shape) for name, p in make(kind).state_dict().items()}
    assert shapes == {"prediction": (outputs, 4, 9), "sampler.walk.weight": (18, 4, 3, 3)}
    static = make("static", walk=False).state_dict()
    assert {name: tuple(p.shape) for name, p in static.items()} == {"static_filter": (2, 9)}


@pytest.mark.parametrize("kind", KINDS)
def test_reset_parameters(kind):
    message = make(kind)
    before = {name: p.clone() for name, p in message.named_parameters()}
    message.reset_parameters()
    after = dict(message.named_parameters())
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert not after["sampler.walk.weight"].any()
    if "prediction" in after:
        # As a convolution's: uniform, up to 1 / sqrt(fan_in).
        bound = (4 * 9) ** -0.5
        assert 0.9 * bound < after["prediction"].abs().max() <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_deepcopy(kind):
    message = make(kind)
    copied = copy.deepcopy(message)
    x, grid = torch.randn(12, 4), Grid([[3, 4]])
    assert torch.equal(copied(x, grid), message(x, grid))
    assert not {p.data_ptr() for p in copied.parameters()} & {
        p.data_ptr() for p in message.parameters()
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["affinities and filters", "static"])
def test_the_backend_of_the_message_is_used(kind, backend):
    x, grid = torch.randn(12, 4, requires_grad=True), Grid([[3, 4]])
    other = "pyg" if backend == "torch" else "torch"
    named = make(kind, backend=backend, trained=False)
    automatic = make(kind, trained=False)
    # Inside this block only messages that don't name a backend get the other one.
    with use_backend(other):
        out, differing = named(x, grid), automatic(x, grid)
    with use_backend(backend):
        same = automatic(x, grid)
    assert out.grad_fn.name() == same.grad_fn.name() != differing.grad_fn.name()


@pytest.mark.parametrize("kind", KINDS)
def test_no_nodes(kind):
    message = make(kind)
    x = torch.randn(0, 4, requires_grad=True)
    out = message(x, Grid.of(torch.randn(0, 4, 3, 3)))
    assert out.shape == (0, 4)
    out.sum().backward()
    assert x.grad.shape == (0, 4)


def test_repr():
    expected = "groups=2, affinity=True, filters=False"
    assert f"(\n  {expected}\n" in repr(make("affinities"))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"groups": 3}, "groups: expected 0 or a divisor of 4 channels, got 3"),
        ({"groups": -1}, "groups: "),
        ({"groups": 8}, "groups: "),
        ({"groups": 0, "affinity": False}, "groups: "),
        ({"rate": 0}, "rate"),
        ({"rate": -1, "walk": False}, "rate"),
        ({"kernel_size": 2}, "kernel_size: "),
        ({"kernel_size": 0, "walk": False}, "kernel_size: "),
        ({"num_axes": 4}, "num_axes: "),
        ({"legacy_affinity": True, "filters": False}, "legacy_affinity: "),
        ({"legacy_affinity": True, "affinity": False}, "legacy_affinity: "),
        ({"legacy_affinity": True, "groups": 0}, "legacy_affinity: "),
    ],
)
def test_errors_name_the_argument(kwargs, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        DynamicMessage(4, **{"rate": 1, "groups": 2, **kwargs})

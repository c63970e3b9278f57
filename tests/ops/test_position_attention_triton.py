import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dyngraph import Grid, Neighborhood, neighborhood
from dyngraph.ops import sampled_attention
from dyngraph.ops.position_attention import flatten_runs, position_attention


def make(value=True, bias=True, num_axes=2, dtype=torch.float64):
    """Maps of three sizes, one of a single node, two samples a node, two groups of channels."""

    def randn(*shape):
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    receiver = Grid({1: [[2], [1]], 2: [[1, 2], [2, 1], [1, 1]], 3: [[1, 2, 1]]}[num_axes])
    sender = Grid({1: [[3], [1]], 2: [[2, 2], [3, 1], [1, 1]], 3: [[2, 1, 3]]}[num_axes])
    pos = reference.random_positions(sender, 2, receiver, dtype, reach=1.0).requires_grad_()
    near = Neighborhood(sender, pos, receiver=receiver)
    n, m = receiver.num_nodes, sender.num_nodes
    return (
        randn(n, 4),
        randn(m, 4),
        randn(m, 6) if value else None,
        pos,
        randn(n, 2, 2) if bias else None,
        2,
        0.5,
        flatten_runs(near.runs),
        False,
    )


def leaves(arguments):
    return [a for a in arguments if isinstance(a, torch.Tensor)]


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_opcheck(value, bias):
    torch.library.opcheck(torch.ops.dyngraph.position_attention.default, make(value, bias))


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("needed", [True, False])
def test_opcheck_of_the_backward_pass(value, needed):
    query, key, values, pos, bias, *options = make(value)
    with torch.no_grad():
        out, alpha = position_attention(query, key, values, pos, bias, *options)
    inputs = (None if x is None else x.detach() for x in (query, key, values, pos))
    needs = [needed, True, value, needed, needed]
    torch.library.opcheck(
        torch.ops.dyngraph.position_attention_backward.default,
        (torch.randn_like(out), None, *inputs, alpha, *options, needs),
    )


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("value", [True, False])
def test_gradients_that_can_be_differentiated_are_the_same(value, output):
    inputs = make(value)
    out = position_attention(*inputs)[output]
    grad = torch.randn_like(out)
    first = torch.autograd.grad(out, leaves(inputs), grad, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(out, leaves(inputs), grad, create_graph=True, allow_unused=True)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_gradients(num_axes):
    inputs = make(num_axes=num_axes)

    def outputs(*leaves):
        return position_attention(*leaves, *inputs[5:])

    assert torch.autograd.gradcheck(outputs, inputs[:5], fast_mode=True)


def test_second_derivatives():
    inputs = make(num_axes=1)

    def outputs(*leaves):
        return position_attention(*leaves, *inputs[5:])

    assert torch.autograd.gradgradcheck(outputs, inputs[:5], fast_mode=True)


def test_gradients_that_nobody_asked_for_are_none():
    arguments = make()
    grads = torch.autograd.grad(position_attention(*arguments)[0].square().sum(), arguments[:5])
    for asked, grad in enumerate(grads):
        frozen = [a.detach().requires_grad_(n == asked) for n, a in enumerate(arguments[:5])]
        position_attention(*frozen, *arguments[5:])[0].square().sum().backward()
        torch.testing.assert_close(frozen[asked].grad, grad)
        assert [a.grad is None for a in frozen] == [n != asked for n in range(5)]


@pytest.mark.parametrize("value", [True, False])
def test_flops_are_those_of_the_definition(value):
    arguments = make(value)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        position_attention(*arguments)
    # 5 nodes, 2 samples: interpolate from 4 corners each table once, 4-channel scores, sums.
    channels = 6 if value else 4
    interpolated = 4 * (4 + 6) if value else 4 * 4
    assert counter.get_total_flops() == 2 * 5 * 2 * (interpolated + 4 + channels)


def test_corners_are_never_in_memory(monkeypatch):
    monkeypatch.setattr(neighborhood, "corners", lambda *args: pytest.fail("computed"))
    grid = Grid([[4, 5], [2, 2]])
    pos = reference.random_positions(grid, 3).requires_grad_()
    x = torch.randn(24, 8, requires_grad=True)
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = sampled_attention(x, x, x, Neighborhood(grid, pos), backend="triton")
    out.sum().backward()
    assert pos.grad.any()
    # Query, key, positions and the attention.
    assert sorted(tensor.shape for tensor in kept) == [(24, 1, 3), (24, 3, 2), (24, 8), (24, 8)]


HALF = [torch.float16, torch.bfloat16]
SPECIAL = [torch.inf, -torch.inf, torch.nan, 1e30, -1e30, -1.0, 0.0, 1.0, 2.0]


@st.composite
def special_cases(draw):
    """Positions some of which are on nodes and borders, far away, or not finite."""
    num_axes = draw(st.integers(1, 3))
    size = st.lists(st.integers(1, 3), min_size=num_axes, max_size=num_axes)
    grid = Grid(draw(st.lists(size, min_size=1, max_size=2)))
    num_samples, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    pos = reference.random_positions(grid, num_samples, dtype=torch.float32)
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), pos.shape)]
    share = draw(st.sampled_from([0.05, 0.4]))
    pos = torch.where(torch.rand_like(pos) < share, special, pos)
    channels = groups * draw(st.integers(1, 9))
    return grid, pos, groups, channels, draw(st.sampled_from(["zeros", "border"]))


def outputs_and_gradients(case, shared, dtype, backend):
    grid, pos, groups, channels, padding_mode = case
    generator = torch.Generator(pos.device).manual_seed(0)

    def randn(*shape):
        # Rounded, so that both backends get the same numbers.
        numbers = torch.randn(shape, generator=generator).to(dtype)
        return numbers.to(dtype if backend == "triton" else torch.float32).requires_grad_()

    pos = pos.clone().requires_grad_()
    query, key, value = (randn(grid.num_nodes, channels) for _ in range(3))
    bias = randn(grid.num_nodes, groups, pos.shape[1])
    out, alpha = sampled_attention(
        query,
        key,
        key if shared else value,
        Neighborhood(grid, pos, padding_mode),
        groups,
        0.7,
        bias,
        return_weights=True,
        backend=backend,
    )
    inputs = (query, key, bias, pos) if shared else (query, key, value, bias, pos)
    loss = (out.float() * randn(*out.shape).detach().float()).sum() + alpha.square().sum()
    return [out, alpha, *torch.autograd.grad(loss, inputs)]


@given(special_cases(), st.booleans(), st.sampled_from([torch.float32, *HALF]))
def test_any_positions_equal_the_torch_backend(case, shared, dtype):
    got = outputs_and_gradients(case, shared, dtype, "triton")
    want = outputs_and_gradients(case, shared, dtype, "torch")
    # Relative to the largest number of all: sums whose terms cancel have no relative error.
    size = max(part.detach().abs().nan_to_num(0).max().item() for part in want)
    tolerance = 1e-2 if dtype in HALF else 1e-5
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(
            one.float(), other, atol=tolerance * size, rtol=tolerance, equal_nan=True
        )

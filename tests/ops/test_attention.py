"""The operator of attention, carried out by the kernels of each backend."""

from itertools import product

import pytest
import reference
import torch
from backends import KERNELS
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dyngraph import Grid, Neighborhood, multilinear
from dyngraph.multilinear import flatten_maps
from dyngraph.ops import operators, sampled_attention

GROUPS = 2


def make(backend, value=True, bias=True, num_axes=2, own=False, keep_scores=False):
    """Maps of two sizes, one of a single node, two samples a node, two groups of channels."""

    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    receiver = Grid({1: [[2], [1]], 2: [[1, 2], [1, 1]], 3: [[1, 2, 1]]}[num_axes])
    sender = Grid({1: [[3], [1]], 2: [[3, 2], [1, 1]], 3: [[2, 1, 3]]}[num_axes])
    pos = [
        reference.random_positions(sender, 2, receiver, torch.float64, reach=1.0)
        for _ in range(GROUPS if own else 1)
    ]
    near = Neighborhood(sender, torch.stack(pos, dim=1).requires_grad_(), receiver=receiver)
    n, m = receiver.num_nodes, sender.num_nodes
    return (
        randn(n, 4),
        randn(m, 4),
        randn(m, 6) if value else None,
        near.pos,
        randn(n, GROUPS, 2) if bias else None,
        flatten_maps(near.maps),
        False,
        GROUPS,
        0.5,
        keep_scores,
        backend,
    )


def leaves(arguments):
    return [a for a in arguments if isinstance(a, torch.Tensor)]


@pytest.mark.parametrize("backend", KERNELS)
# Every pair of two, once.
@pytest.mark.parametrize(
    ("value", "bias", "own"),
    [(True, True, False), (True, False, True), (False, True, True), (False, False, False)],
)
def test_opcheck(value, bias, own, backend):
    # Triton keeps no scores, whatever it is told.
    arguments = make(backend, value, bias, own=own, keep_scores=backend != "triton")
    torch.library.opcheck(torch.ops.dyngraph.attention.default, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("needed", [True, False])
def test_opcheck_of_the_backward_pass(value, needed, backend):
    query, key, values, pos, _, *samples, _, _ = arguments = make(backend, value)
    with torch.no_grad():
        out, alpha, scores = operators.attention(*arguments)
    inputs = (None if x is None else x.detach() for x in (query, key, values, pos))
    needs = [needed, True, value, needed, needed]
    torch.library.opcheck(
        torch.ops.dyngraph.attention_backward.default,
        (torch.randn_like(out), None, *inputs, alpha, scores, *samples, needs, backend),
    )


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("value", [True, False])
def test_gradients_that_can_be_differentiated_are_the_same(value, output, backend):
    inputs = make(backend, value)
    out = operators.attention(*inputs)[output]
    grad = torch.randn_like(out)
    first = torch.autograd.grad(out, leaves(inputs), grad, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(out, leaves(inputs), grad, create_graph=True, allow_unused=True)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("backend", "num_axes", "own"),
    [
        *product([name for name in KERNELS if name != "triton"], (1, 2, 3), (False, True)),
        # Fewer in the interpreter, but each number of axes, and positions of both kinds.
        *[("triton", 1, True), ("triton", 2, False), ("triton", 3, True)],
    ],
)
def test_gradients(num_axes, own, backend):
    inputs = make(backend, num_axes=num_axes, own=own)

    def outputs(*leaves):
        return operators.attention(*leaves, *inputs[5:])[:2]

    assert torch.autograd.gradcheck(outputs, inputs[:5], fast_mode=backend == "triton")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "num_axes", "own"),
    [("torch", 2, False), ("torch", 2, True), ("triton", 1, True)],
)
def test_second_derivatives(backend, num_axes, own):
    inputs = make(backend, num_axes=num_axes, own=own)

    def outputs(*leaves):
        return operators.attention(*leaves, *inputs[5:])[:2]

    assert torch.autograd.gradgradcheck(outputs, inputs[:5], fast_mode=True)


@pytest.mark.parametrize("backend", KERNELS)
def test_gradients_that_nobody_asked_for_are_none(backend):
    arguments = make(backend)
    loss = operators.attention(*arguments)[0].square().sum()
    grads = torch.autograd.grad(loss, arguments[:5])
    for asked, grad in enumerate(grads):
        frozen = [a.detach().requires_grad_(n == asked) for n, a in enumerate(arguments[:5])]
        operators.attention(*frozen, *arguments[5:])[0].square().sum().backward()
        torch.testing.assert_close(frozen[asked].grad, grad)
        assert [a.grad is None for a in frozen] == [n != asked for n in range(5)]


@pytest.mark.parametrize("backend", [name for name in KERNELS if name != "triton"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("value", [True, False])
def test_recomputing_changes_nothing(value, own, backend):
    results = []
    for keep_scores in (False, True):
        torch.manual_seed(0)
        inputs = make(backend, value, own=own, keep_scores=keep_scores)
        out, alpha, scores = operators.attention(*inputs)
        assert (scores.numel() > 0) == keep_scores
        loss = out.square().sum() + alpha.square().sum()
        results.append([out, alpha, *torch.autograd.grad(loss, leaves(inputs))])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("value", [True, False])
def test_flops_are_those_of_the_definition(value, own):
    arguments = make("torch", value, own=own)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        operators.attention(*arguments)
    # 3 nodes, 2 samples: interpolate from 4 corners each table once, 4-channel scores, sums.
    channels = 6 if value else 4
    interpolated = 4 * (4 + 6) if value else 4 * 4
    assert counter.get_total_flops() == 2 * 3 * 2 * (interpolated + 4 + channels)


@pytest.mark.parametrize("backend", KERNELS)
def test_corners_are_not_kept(monkeypatch, backend):
    monkeypatch.setattr(multilinear, "corners", lambda *args: pytest.fail("computed"))
    grid = Grid([[4, 5], [2, 2]])
    pos = reference.random_positions(grid, 3).requires_grad_()
    x = torch.randn(24, 8, requires_grad=True)
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        near = Neighborhood(grid, pos)
        out = sampled_attention(x, x, x, near, recompute=True, backend=backend)
    out.sum().backward()
    assert pos.grad.any()
    # No scores; query, key, the attention and positions.
    shapes = sorted(tuple(tensor.shape) for tensor in kept)
    assert shapes == [(0,), (24, 1, 3), (24, 1, 3, 2), (24, 8), (24, 8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_keys_are_sampled_once(monkeypatch, dtype):
    """Keys that are the values stay one table, also when they are converted."""
    values = []
    attention = operators.attention
    monkeypatch.setattr(
        operators, "attention", lambda *args: values.append(args[2]) or attention(*args)
    )
    grid = Grid([[3, 4]])
    near = Neighborhood(grid, reference.random_positions(grid, 2))
    x = torch.randn(12, 4, dtype=dtype)
    shared = sampled_attention(x, x, x, near, backend="torch")
    separate = sampled_attention(x, x, x.clone(), near, backend="torch")
    assert values[0] is None
    assert values[1] is not None
    assert torch.equal(shared, separate)


def test_without_gradients_no_scores_are_kept(monkeypatch):
    kept = []
    attention = operators.attention

    def spy(*args):
        out = attention(*args)
        kept.append(out[2].numel())
        return out

    monkeypatch.setattr(operators, "attention", spy)
    grid = Grid([[3, 4]])
    near = Neighborhood(grid, reference.random_positions(grid, 2))
    x = torch.randn(12, 4)
    sampled_attention(x, x, x, near, backend="torch")
    with torch.no_grad():
        sampled_attention(x, x, x, near, backend="torch")
    assert kept == [12 * 4 * 2, 0]


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
        Neighborhood(grid, pos, padding_mode=padding_mode),
        groups,
        scale=0.7,
        bias=bias,
        return_weights=True,
        backend=backend,
    )
    inputs = (query, key, bias, pos) if shared else (query, key, value, bias, pos)
    loss = (out.float() * randn(*out.shape).detach().float()).sum() + alpha.square().sum()
    return [out, alpha, *torch.autograd.grad(loss, inputs)]


@pytest.mark.slow
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

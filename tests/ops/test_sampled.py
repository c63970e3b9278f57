from itertools import product

import operators
import pytest
import reference
import torch
import torch.nn.functional as F
from backends import BACKENDS
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from operators import make_inputs, run, run_with_gradients

from dyngraph import Grid, Neighborhood, ops
from dyngraph.ops import use_backend

# Where Triton's interpreter would take minutes.
COMPILED = [name for name in BACKENDS if name != "triton"]
HALF = [torch.bfloat16, torch.float16]
#: A convolution's groups share their samples; it has tests of its own.
FUNCTIONS = [name for name in operators.FUNCTIONS if name != "sampled_convolution"]


def make_case(num_axes, padding_mode="zeros", other_sender=False, cells=False, dtype=torch.float64):
    receiver = Grid(reference.MIXED_SIZES[num_axes])
    sender = Grid(reference.SENDER_SIZES[num_axes]) if other_sender else receiver
    pos = reference.random_positions(sender, 3, receiver, dtype)
    if cells:
        # The nodes of a map share the samples of its first node, and two samples coincide.
        pos = pos[receiver.ptr[receiver.batch]]
        pos[:, 2] = pos[:, 0]
    return Neighborhood(sender, pos, padding_mode=padding_mode, receiver=receiver)


CASES = [*product(COMPILED, [1, 2, 3], ["zeros", "border"], [False, True], [False, True])]
# In the interpreter, every pair of two.
CASES += [
    ("triton", 1, "zeros", False, False),
    ("triton", 1, "border", True, True),
    ("triton", 2, "zeros", False, True),
    ("triton", 2, "border", True, False),
    ("triton", 3, "zeros", True, False),
    ("triton", 3, "border", False, True),
]


@pytest.mark.parametrize(
    ("backend", "num_axes", "padding_mode", "cells", "other_sender"),
    [case for case in CASES if case[0] in BACKENDS],
)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_values_and_gradients_equal_the_reference(
    function, num_axes, padding_mode, cells, other_sender, backend
):
    near = make_case(num_axes, padding_mode, other_sender, cells)
    t = make_inputs(near.grid, near.receiver, 3, dtype=torch.float64)
    got = run_with_gradients(function, t, near, 2, backend)
    want = run_with_gradients(function, t, near, 2, None)
    # float64: sums of a few dozen terms of size 1 to 10 in another order.
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_groups(function, groups, backend):
    near = make_case(2)
    t = make_inputs(near.grid, near.receiver, 3, 6, 6, groups, dtype=torch.float64)
    got = run_with_gradients(function, t, near, groups, backend)
    want = run_with_gradients(function, t, near, groups, None)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_non_contiguous_features(function, backend):
    near = make_case(2)
    t = make_inputs(near.grid, near.receiver, 3, dtype=torch.float64)
    strided = {n: x.transpose(0, 1).contiguous().transpose(0, 1) for n, x in t.items()}
    strided = {n: x.repeat_interleave(2, dim=-1)[..., ::2] for n, x in strided.items()}
    assert not any(x.is_contiguous() for x in strided.values())
    got = run_with_gradients(function, strided, near, 2, backend)
    want = run_with_gradients(function, t, near, 2, backend)
    torch.testing.assert_close(got, want, atol=0, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_keys_equal_a_clone(backend):
    near = make_case(2)
    t = make_inputs(near.grid, near.receiver, 3, dtype=torch.float64)
    near.pos.requires_grad_()
    near = Neighborhood(near.grid, near.pos)
    key = t["key"].requires_grad_()
    outs, grads = [], []
    for value in (key, key.clone()):
        out = ops.sampled_attention(t["query"], key, value, near, 2, backend=backend)
        outs.append(out)
        grads.append(torch.autograd.grad(out.square().sum(), (key, near.pos), retain_graph=True))
    torch.testing.assert_close(outs[0], outs[1], atol=0, rtol=0)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("num_axes", [2, 3])
def test_interpolate_is_grid_sample_in_units_of_nodes(num_axes, padding_mode, backend):
    size, out_size = (5, 4, 3)[:num_axes], (3, 2, 2)[:num_axes]
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    sender, receiver = Grid.of(maps), Grid([out_size] * 2)
    pos = reference.random_positions(sender, 4, receiver, torch.float64, reach=2.0)
    scale = 2 / (torch.tensor(size, dtype=torch.float64) - 1)
    # grid_sample wants x before y, in [-1, 1], and one sample a node: samples lengthen the rows.
    normalized = (pos * scale - 1).flip(-1)
    normalized = normalized.view(2, *out_size[:-1], out_size[-1] * 4, num_axes)
    expected = F.grid_sample(maps, normalized, padding_mode=padding_mode, align_corners=True)
    expected = expected.movedim(1, -1).reshape(-1, 4, 3)
    near = Neighborhood(sender, pos, padding_mode=padding_mode, receiver=receiver)
    out = ops.interpolate(sender.flatten(maps), near, backend=backend)
    # float64; grid_sample computes its positions from normalised ones.
    torch.testing.assert_close(out, expected, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_scatter_interpolate_is_the_adjoint_of_interpolate(num_axes, backend):
    near = make_case(num_axes, other_sender=True)
    t = make_inputs(near.grid, near.receiver, 3, dtype=torch.float64)
    key = t["key"].requires_grad_()
    samples = ops.interpolate(key, near, backend=backend)
    spread = ops.scatter_interpolate(t["values"], near, backend=backend)
    assert spread.shape == key.shape
    torch.testing.assert_close((samples * t["values"]).sum(), (key * spread).sum())
    torch.testing.assert_close(torch.autograd.grad(samples, key, t["values"])[0], spread)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_maps_of_different_sizes_equal_each_alone(num_axes, backend):
    near = make_case(num_axes, other_sender=True, dtype=torch.float32)
    t = make_inputs(near.grid, near.receiver, 3)
    out = ops.sampled_attention(t["query"], t["key"], t["value"], near, 2, backend=backend)
    for image, (size, sender_size) in enumerate(
        zip(near.receiver.shapes, near.grid.shapes, strict=True)
    ):
        rows, sent = near.receiver.batch == image, near.grid.batch == image
        alone = Neighborhood(Grid([sender_size]), near.pos[rows], receiver=Grid([size]))
        expected = ops.sampled_attention(
            t["query"][rows], t["key"][sent], t["value"][sent], alone, 2, backend=backend
        )
        # The same terms in the same order, but the softmax of the last nodes, computed one by one,
        # rounds another way.
        torch.testing.assert_close(out[rows], expected, atol=1e-7, rtol=1e-6)


# --- derivatives --------------------------------------------------------------------------------


def differentiable(function, num_axes, padding_mode, backend):
    """The function of its inputs and of positions away from integers, on tiny maps."""
    receiver = Grid({1: [[2], [1]], 2: [[1, 2], [1, 1]], 3: [[1, 2, 1], [1, 1, 1]]}[num_axes])
    sender = Grid({1: [[3], [2]], 2: [[2, 2], [1, 2]], 3: [[2, 1, 2], [1, 1, 2]]}[num_axes])
    t = make_inputs(sender, receiver, 2, dtype=torch.float64)
    pos = reference.random_positions(sender, 2, receiver, torch.float64, reach=1.0)
    names = operators.FUNCTIONS[function]

    def outputs(pos, *leaves):
        near = Neighborhood(sender, pos, padding_mode=padding_mode, receiver=receiver)
        values = {**t, **dict(zip(names, leaves, strict=True))}
        return run(function, values, near, 2, backend)

    return outputs, [x.requires_grad_() for x in (pos, *(t[name] for name in names))]


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize(
    ("num_axes", "padding_mode"), [(1, "zeros"), (2, "zeros"), (2, "border"), (3, "zeros")]
)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradcheck(function, num_axes, padding_mode, backend):
    outputs, inputs = differentiable(function, num_axes, padding_mode, backend)
    assert torch.autograd.gradcheck(outputs, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradgradcheck(function, backend):
    outputs, inputs = differentiable(function, 2, "zeros", backend)
    assert torch.autograd.gradgradcheck(outputs, inputs)


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_half_features_are_rounded_once(function, dtype, backend):
    near = make_case(2, dtype=torch.float32)
    t = {name: x.to(dtype) for name, x in make_inputs(near.grid, near.receiver, 3).items()}
    full = {name: x.float() for name, x in t.items()}
    half_out, half_grads = run_with_gradients(function, t, near, 2, backend)
    out, grads = run_with_gradients(function, full, near, 2, backend)
    assert half_out[0].dtype == dtype
    epsilon = torch.finfo(dtype).eps
    if backend == "triton" and dtype == torch.bfloat16 and not torch.cuda.is_available():
        # Triton's interpreter cuts digits off instead of rounding.
        torch.testing.assert_close(half_out[0].float(), out[0], atol=0, rtol=epsilon)
    else:
        # Equal to the float32 result, rounded.
        assert torch.equal(half_out[0], out[0].to(dtype))
    # The upstream gradient is rounded too: half an ulp of the output's type, 2^-8 or 2^-11, times
    # the size of the terms.
    assert half_grads[-1].dtype == torch.float32
    for half, single in zip(half_grads, grads, strict=True):
        scale = single.abs().max().item()
        torch.testing.assert_close(half.float(), single, atol=2 * epsilon * scale, rtol=epsilon)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_autocast_does_not_round_full_features(function, dtype, backend):
    near = make_case(2, dtype=torch.float32)
    t = make_inputs(near.grid, near.receiver, 3)
    expected = run_with_gradients(function, t, near, 2, backend)
    with torch.autocast("cpu", dtype=dtype):
        got = run_with_gradients(function, t, near, 2, backend)
    assert [x.dtype for x in got[0]] == [torch.float32] * len(got[0])
    torch.testing.assert_close(got, expected, atol=0, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_double_features_on_float32_positions(backend):
    near = make_case(2, dtype=torch.float32)
    t = make_inputs(near.grid, near.receiver, 3, dtype=torch.float64)
    for function in FUNCTIONS:
        (got, *_), (want, *_) = (run(function, t, near, 2, b) for b in (backend, None))
        assert got.dtype == torch.float64
        # The weights are products of float32 factors.
        torch.testing.assert_close(got, want, atol=2e-6, rtol=2e-6)


# --- corners ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("num_samples", [0, 1, 3])
def test_no_nodes(function, num_samples, backend):
    grid = Grid.of(torch.randn(0, 1, 2, 2))
    near = Neighborhood(grid, torch.randn(0, num_samples, 2))
    t = make_inputs(grid, grid, num_samples)
    got = run_with_gradients(function, t, near, 2, backend)
    want = run_with_gradients(function, t, near, 2, None)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_samples(function, backend):
    grid = Grid([[2, 2], [1, 1]])
    near = Neighborhood(grid, torch.randn(5, 0, 2, dtype=torch.float64))
    t = make_inputs(grid, grid, 0, dtype=torch.float64)
    got = run_with_gradients(function, t, near, 2, backend)
    want = run_with_gradients(function, t, near, 2, None)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_sample_has_all_the_attention(backend):
    grid = Grid([[3, 3]])
    near = Neighborhood(grid, reference.random_positions(grid, 1))
    x = torch.randn(9, 4)
    out, alpha = ops.sampled_attention(x, x, x, near, 4, return_weights=True, backend=backend)
    assert torch.equal(alpha, torch.ones(9, 4, 1))
    torch.testing.assert_close(out, reference.interpolate(x, near).squeeze(1))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_more_samples_than_nodes(backend):
    """The corners of a node outnumber the nodes of all maps together."""
    grid = Grid([[2, 1], [1, 1]])
    near = Neighborhood(grid, reference.random_positions(grid, 9, dtype=torch.float64))
    t = make_inputs(grid, grid, 9, dtype=torch.float64)
    for function in FUNCTIONS:
        got = run_with_gradients(function, t, near, 2, backend)
        want = run_with_gradients(function, t, near, 2, None)
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_samples_outside(backend):
    grid = Grid([[3, 4], [2, 2]])
    pos = torch.full((16, 5, 2), 40.0, requires_grad=True)
    near = Neighborhood(grid, pos)
    x = torch.randn(16, 4, requires_grad=True)
    out, alpha = ops.sampled_attention(x, x, x, near, 2, return_weights=True, backend=backend)
    assert torch.equal(out, torch.zeros(16, 4))
    torch.testing.assert_close(alpha, torch.full((16, 2, 5), 0.2))
    out.sum().backward()
    assert not x.grad.any()
    assert not pos.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_samples_share_the_attention(backend):
    grid = Grid([[3, 4]])
    single = Neighborhood(grid, reference.random_positions(grid, 1))
    repeated = Neighborhood(grid, single.pos.expand(12, 4, 2))
    x = torch.randn(12, 4)
    out, alpha = ops.sampled_attention(x, x, x, repeated, return_weights=True, backend=backend)
    assert torch.equal(alpha, torch.full((12, 1, 4), 0.25))
    torch.testing.assert_close(out, ops.sampled_attention(x, x, x, single, backend=backend))


@st.composite
def cases(draw, dtype=torch.float64, few=False):
    """Samples, inputs and groups; ``few``: of each, as the interpreter runs them one by one."""
    num_axes = draw(st.integers(1, 3))
    size = st.lists(st.integers(0, 4), min_size=num_axes, max_size=num_axes)
    sizes = draw(st.lists(st.tuples(size, size), min_size=1, max_size=2 if few else 3))
    sender, receiver = (Grid(list(part)) for part in zip(*sizes, strict=True))
    assume(sender.num_nodes or not receiver.num_nodes)
    num_samples = draw(st.integers(1, 3 if few else 5))
    groups = draw(st.integers(1, 2 if few else 3))
    reach = draw(st.sampled_from([0.0, 1.5, 6.0]))
    pos = reference.random_positions(sender, num_samples, receiver, dtype, reach)
    if draw(st.booleans()):
        pos = pos[:, :1].repeat(1, num_samples, 1)
    near = Neighborhood(
        sender, pos, padding_mode=draw(st.sampled_from(["zeros", "border"])), receiver=receiver
    )
    channels, value_channels = (groups * draw(st.integers(1, 70)) for _ in range(2))
    t = make_inputs(sender, receiver, num_samples, channels, value_channels, groups, dtype=dtype)
    return near, t, groups


def assert_equal_to_reference(function, backend, case):
    near, t, groups = case
    got = run_with_gradients(function, t, near, groups, backend)
    want = run_with_gradients(function, t, near, groups, None)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


def assert_equal_to_torch(function, backend, case):
    near, t, groups = case
    got, want = (
        sum(run_with_gradients(function, t, near, groups, name), ()) for name in (backend, "torch")
    )
    # Relative to the largest number of all: sums whose terms cancel have no relative error.
    size = max((part.abs().max().item() for part in want if part.numel()), default=0.0)
    torch.testing.assert_close(got, want, atol=1e-5 * size, rtol=1e-5)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("function", FUNCTIONS)
@given(case=cases())
def test_any_shapes_equal_the_reference(function, backend, case):
    assert_equal_to_reference(function, backend, case)


@pytest.mark.parametrize("function", FUNCTIONS)
@given(case=cases(dtype=torch.float32))
def test_backends_agree_in_float32(function, case):
    assert_equal_to_torch(function, "pyg", case)


@pytest.mark.slow
# Fewer where Triton's interpreter takes seconds for each.
@pytest.mark.parametrize("backend", ["triton"])
@pytest.mark.parametrize("function", FUNCTIONS)
@settings(max_examples=12)
@given(case=cases(few=True))
def test_any_shapes_in_triton(function, backend, case):
    assert_equal_to_reference(function, backend, case)


@pytest.mark.parametrize("backend", ["triton"])
@pytest.mark.parametrize("function", FUNCTIONS)
@settings(max_examples=6)
@given(case=cases(dtype=torch.float32, few=True))
def test_triton_agrees_in_float32(function, backend, case):
    assert_equal_to_torch(function, backend, case)


@pytest.mark.slow
@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_two_runs_give_equal_bits(function, backend):
    grid = Grid([[24, 24], [9, 31]])
    near = Neighborhood(grid, reference.random_positions(grid, 9))
    t = make_inputs(grid, grid, 9, 16, 16)
    torch.set_num_threads(2)
    try:
        runs = [run_with_gradients(function, t, near, 2, backend) for _ in range(2)]
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(runs[0], runs[1], atol=0, rtol=0)


@pytest.mark.parametrize("function", ["sampled_score", "sampled_sum", "sampled_attention"])
def test_backward_keeps_no_sampled_features(function):
    """Nothing of the size of ``[N, K, C]`` is kept for the backward pass."""
    grid = Grid([[6, 6]])
    near = Neighborhood(grid, reference.random_positions(grid, 9))
    t = make_inputs(grid, grid, 9, 256, 256)
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run_with_gradients(function, t, near, 2, "torch")
    assert kept
    # Inputs and outputs [N, C], or [N, G, 2^P, K].
    assert max(kept) <= 36 * 256 < 36 * 9 * 256


# --- errors -------------------------------------------------------------------------------------


def arguments(function, **changes):
    near = Neighborhood(Grid([[2, 2]]), torch.ones(3, 5, 2), receiver=Grid([[1, 3]]))
    given = {
        "interpolate": {"x": torch.ones(4, 6)},
        "scatter_interpolate": {"values": torch.ones(3, 5, 6)},
        "sampled_score": {"query": torch.ones(3, 6), "key": torch.ones(4, 6), "groups": 2},
        "sampled_sum": {"weight": torch.ones(3, 2, 5), "value": torch.ones(4, 6)},
        "sampled_attention": {
            "query": torch.ones(3, 6),
            "key": torch.ones(4, 6),
            "value": torch.ones(4, 8),
            "groups": 2,
            "bias": torch.ones(3, 2, 5),
        },
    }[function]
    return {"near": near, **given, **changes}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("function", "changes", "match"),
    [
        ("interpolate", {"x": torch.ones(3, 6)}, "x"),
        ("interpolate", {"x": torch.ones(4)}, "x"),
        ("scatter_interpolate", {"values": torch.ones(4, 5, 6)}, "values"),
        ("scatter_interpolate", {"values": torch.ones(3, 4, 6)}, "values"),
        ("scatter_interpolate", {"values": torch.ones(3, 5)}, "values"),
        ("sampled_score", {"query": torch.ones(4, 6)}, "query"),
        ("sampled_score", {"key": torch.ones(3, 6)}, "key"),
        ("sampled_score", {"key": torch.ones(4, 8)}, "key"),
        ("sampled_score", {"groups": 4}, "groups"),
        ("sampled_score", {"groups": 0}, "groups"),
        ("sampled_sum", {"weight": torch.ones(4, 2, 5)}, "weight"),
        ("sampled_sum", {"weight": torch.ones(3, 2, 4)}, "weight"),
        ("sampled_sum", {"weight": torch.ones(3, 5)}, "weight"),
        ("sampled_sum", {"weight": torch.ones(3, 4, 5)}, "groups"),
        ("sampled_sum", {"value": torch.ones(3, 6)}, "value"),
        ("sampled_attention", {"query": torch.ones(3, 6, 1)}, "query"),
        ("sampled_attention", {"key": torch.ones(4, 4)}, "key"),
        ("sampled_attention", {"value": torch.ones(3, 6)}, "value"),
        ("sampled_attention", {"value": torch.ones(4, 7)}, "groups"),
        ("sampled_attention", {"groups": 3}, "groups"),
        ("sampled_attention", {"bias": torch.ones(3, 1, 5)}, "bias"),
    ],
)
def test_errors_name_the_argument(function, changes, match, backend):
    getattr(ops, function)(**arguments(function), backend=backend)
    with pytest.raises(ValueError, match=f"^{match}: "), use_backend(backend):
        getattr(ops, function)(**arguments(function, **changes))

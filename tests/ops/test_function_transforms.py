import pytest
import reference
import torch
from backends import BACKENDS
from torch.autograd import forward_ad

from dyngraph import Grid, Neighborhood, ops
from dyngraph.derivatives import transforms_active

GROUPS = 2
#: The features that each operator differentiates, next to positions, and their channels.
OPERATORS = {
    "interpolate": ["key"],
    "scatter_interpolate": ["values"],
    "sampled_score": ["query", "key"],
    "sampled_sum": ["weight", "value"],
    "sampled_convolution": ["key", "filters"],
    "sampled_attention": ["query", "key", "value", "bias"],
    "attention of shared keys": ["query", "key"],
}


def make(operator, padding_mode="zeros"):
    """A case of a few nodes, and the inputs that the operator differentiates, positions last."""
    grid, receiver = Grid([[2, 3], [2, 2]]), Grid([[1, 2], [2, 1]])
    n, m = receiver.num_nodes, grid.num_nodes
    shapes = {
        "query": (n, 4),
        "key": (m, 4),
        "value": (m, 2),
        "values": (n, 3, 4),
        "weight": (n, GROUPS, 3),
        "bias": (n, GROUPS, 3),
        "filters": (2, 4, 3),
    }
    inputs = [torch.randn(shapes[name], dtype=torch.float64) for name in OPERATORS[operator]]
    pos = reference.random_positions(grid, 3, receiver, torch.float64, reach=0.9)

    def near(pos):
        return Neighborhood(grid, pos, padding_mode=padding_mode, receiver=receiver)

    return near, (*inputs, pos)


def run(operator, near, backend, *inputs):
    """The operator as a function of its inputs, or its dense reference where backend is None."""
    *features, pos = inputs
    library, kwargs = (reference, {}) if backend is None else (ops, {"backend": backend})
    if operator == "attention of shared keys":
        query, key = features
        return library.sampled_attention(query, key, key, near(pos), GROUPS, **kwargs)
    if operator == "sampled_attention":
        query, key, value, bias = features
        return library.sampled_attention(
            query, key, value, near(pos), GROUPS, scale=0.7, bias=bias, **kwargs
        )
    if operator == "sampled_convolution" and backend is None:
        return torch.einsum(
            "nkc,ock->no", reference.interpolate(features[0], near(pos)), features[1]
        )
    groups = (GROUPS,) if operator == "sampled_score" else ()
    return getattr(library, operator)(*features, near(pos), *groups, **kwargs)


def first(out):
    return out[0] if isinstance(out, tuple) else out


def on(operator, near, backend):
    return lambda *inputs: first(run(operator, near, backend, *inputs))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_jvp_equals_finite_differences(operator, padding_mode, backend):
    near, inputs = make(operator, padding_mode)
    function = on(operator, near, backend)
    tangents = tuple(torch.randn_like(part) for part in inputs)
    out, tangent = torch.func.jvp(function, inputs, tangents)
    torch.testing.assert_close(out, function(*inputs), atol=1e-13, rtol=1e-13)
    step = 1e-6
    ahead = function(*(x + step * t for x, t in zip(inputs, tangents, strict=True)))
    behind = function(*(x - step * t for x, t in zip(inputs, tangents, strict=True)))
    assert tangent.abs().max() > 0.1
    # Rounding 1e-16 / step, truncation step^2, of outputs and third derivatives of size 10.
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_jvp_by_dual_numbers_of_one_input_alone(operator, backend):
    near, inputs = make(operator)
    for place, x in enumerate(inputs):
        tangent = torch.randn_like(x)

        def function(part, place=place):
            return run(operator, near, backend, *inputs[:place], part, *inputs[place + 1 :])

        _, want = torch.func.jvp(lambda part, f=function: first(f(part)), (x,), (tangent,))
        with forward_ad.dual_level():
            out = first(function(forward_ad.make_dual(x, tangent)))
            got = forward_ad.unpack_dual(out).tangent
        assert want.abs().max() > 0
        torch.testing.assert_close(got, want, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_jacobians_in_both_modes_equal_those_of_the_dense_formula(operator, backend):
    near, inputs = make(operator)
    places = tuple(range(len(inputs)))
    want = torch.func.jacrev(on(operator, near, None), places)(*inputs)
    for jacobian in (torch.func.jacfwd, torch.func.jacrev):
        got = jacobian(on(operator, near, backend), places)(*inputs)
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("backend", ["torch", "pyg"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_hessians_equal_differentiating_twice(operator, backend):
    near, inputs = make(operator)
    function = on(operator, near, backend)

    def loss(*inputs):
        return function(*inputs).square().sum()

    hessians = torch.func.hessian(loss, tuple(range(len(inputs))))(*inputs)
    leaves = [x.clone().requires_grad_() for x in inputs]
    grads = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    vectors = [torch.randn_like(x) for x in inputs]
    wants = torch.autograd.grad(grads, leaves, vectors)
    for column, want in zip(zip(*hessians, strict=True), wants, strict=True):
        got = sum(
            torch.tensordot(vector, block, vector.dim())
            for vector, block in zip(vectors, column, strict=True)
        )
        torch.testing.assert_close(got, want, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_vmap_equals_a_loop(operator, backend):
    near, _ = make(operator)
    function = on(operator, near, backend)
    # Positions in the batch, and shared by it.
    cases = [make(operator)[1] for _ in range(3)]
    batch = tuple(torch.stack(parts) for parts in zip(*cases, strict=True))
    want = torch.stack([function(*case) for case in cases])
    torch.testing.assert_close(torch.vmap(function)(*batch), want, atol=1e-13, rtol=1e-13)
    shared = cases[0][-1]
    want = torch.stack([function(*case[:-1], shared) for case in cases])
    axes = (*[0] * (len(batch) - 1), None)
    got = torch.vmap(function, in_dims=axes)(*batch[:-1], shared)
    torch.testing.assert_close(got, want, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_gradients_forward_over_a_graph_made_before(operator, backend):
    """Dual numbers may enter in the backward pass alone."""
    near, inputs = make(operator)
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = first(run(operator, near, backend, *leaves))
    weights, tangent = torch.randn_like(out), torch.randn_like(out)
    wants = torch.autograd.grad(out, leaves, tangent, retain_graph=True)
    with forward_ad.dual_level():
        grads = torch.autograd.grad(out, leaves, forward_ad.make_dual(weights, tangent))
        tangents = [forward_ad.unpack_dual(grad).tangent for grad in grads]
    assert not any(grad.requires_grad for grad in grads)
    # A gradient is linear in that of the output.
    torch.testing.assert_close(tangents, [*wants], atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_half_types_keep_their_dtypes(operator, backend):
    near, inputs = make(operator)
    *features, pos = inputs
    halves = (*(x.bfloat16() for x in features), pos.float())
    function = on(operator, near, backend)
    out, tangent = torch.func.jvp(function, halves, halves)
    assert out.dtype == tangent.dtype == torch.bfloat16
    # One rounding of the result, to 8 bits, and one of the attention in between.
    torch.testing.assert_close(out, function(*halves), atol=2**-6, rtol=2**-7)


def test_samples_that_are_not_finite_stay_with_their_node():
    near, (query, key, pos) = make("attention of shared keys")
    pos[1, 0, 0] = torch.nan
    function = on("attention of shared keys", near, "torch")
    out, tangent = torch.func.jvp(lambda pos: function(query, key, pos), (pos,), (pos,))
    assert out.isnan().any(dim=1).tolist() == [False, True, False, False]
    assert tangent.isnan().any(dim=1).tolist() == [False, True, False, False]


def test_a_neighborhood_keeps_nothing_of_a_transform():
    near, (x, pos) = make("interpolate")
    known = near(pos)
    inside, tangent = torch.func.jvp(lambda x: ops.interpolate(x, known), (x,), (x,))
    after = ops.interpolate(x, known)
    # Interpolation is linear.
    torch.testing.assert_close(tangent, after, atol=1e-14, rtol=1e-14)
    torch.testing.assert_close(inside, after, atol=1e-14, rtol=1e-14)


def test_transforms_are_seen_and_nothing_else():
    seen = []

    def function(x):
        seen.append(transforms_active())
        return x.sum()

    x = torch.ones(2, 3)
    torch.func.jvp(function, (x,), (x,))
    torch.func.grad(function)(x)
    torch.vmap(function)(x)
    with forward_ad.dual_level():
        function(x)
    assert seen == [True] * 4
    seen.clear()
    torch.autograd.grad(function(x.requires_grad_()), x)
    with torch.no_grad():
        function(x)
    torch.func.functional_call(torch.nn.Linear(3, 1), {}, (x,))
    assert seen == [False] * 2
    assert not transforms_active()


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["interpolate", "sampled_score"])
def test_a_compiled_jvp(operator):
    near, inputs = make(operator)
    function = on(operator, near, "torch")

    def tangent_of(*inputs):
        return torch.func.jvp(function, inputs, inputs)

    torch._dynamo.reset()
    compiled = torch.compile(tangent_of, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), tangent_of(*inputs), atol=1e-13, rtol=1e-13)

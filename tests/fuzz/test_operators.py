"""Drawn operators: every backend gives what the dense reference gives, with its gradients."""

import pytest
import reference
import torch
from backends import BACKENDS
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import FUNCTIONS, make_inputs, run, run_with_gradients
from strategies import CHANNELS, broken, neighborhoods

from dyngraph import Neighborhood

SETTINGS = settings.get_profile("fuzz")
# Triton's interpreter takes a thousand times as long as a GPU.
FEW = settings(SETTINGS, max_examples=max(1, SETTINGS.max_examples // 10))
#: What belongs to sender nodes; of the rest, but for filters, each row belongs to a listener.
TABLES = {"key", "value"}


@st.composite
def cases(draw, dtype=torch.float64, **kwargs):
    """An operator, its inputs, the samples and the number of groups."""
    function = draw(st.sampled_from(sorted(FUNCTIONS)))
    near = draw(neighborhoods(shared=function == "sampled_convolution", **kwargs))
    groups = draw(st.sampled_from([1, 2, 4])) if near.num_groups is None else near.num_groups
    torch.manual_seed(draw(st.integers(0, 2**31)))
    sizes = (near.num_samples, CHANNELS, CHANNELS * draw(st.integers(1, 2)), groups)
    t = make_inputs(near.grid, near.receiver, *sizes, dtype=dtype)
    if near.num_groups is not None:
        t["values"] = t["values"].unflatten(2, (groups, -1)).transpose(1, 2)
    return function, t, near, groups


def assert_equal_the_reference(case, backend):
    function, t, near, groups = case
    got = run_with_gradients(function, t, near, groups, backend)
    want = run_with_gradients(function, t, near, groups, None)
    # float64: sums of a few dozen terms of size 1 to 10 in another order.
    torch.testing.assert_close(got, want, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("backend", ["torch", "pyg"])
@SETTINGS
@given(case=cases(finite=True))
def test_values_and_gradients_equal_the_reference(backend, case):
    assert_equal_the_reference(case, backend)


@FEW
@given(case=cases(finite=True, small=True))
def test_triton_equals_the_reference(case):
    assert_equal_the_reference(case, "triton")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "pyg"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@SETTINGS
@given(data=st.data())
def test_precision(dtype, backend, data):
    function, t, near, groups = data.draw(cases(dtype, finite=True))
    near = Neighborhood(
        near.grid, near.pos.float(), padding_mode=near.padding_mode, receiver=near.receiver
    )
    got = run_with_gradients(function, t, near, groups, backend, upstream=dtype)
    double = Neighborhood(
        near.grid, near.pos.double(), padding_mode=near.padding_mode, receiver=near.receiver
    )
    t = {name: x.double() for name, x in t.items()}
    want = run_with_gradients(function, t, double, groups, None, upstream=dtype)
    # Sums in float32 of up to a thousand terms, rounded once; errors go with the largest term.
    tolerance = 2e-6 + torch.finfo(dtype).eps
    for one, other in zip((*got[0], *got[1]), (*want[0], *want[1]), strict=True):
        size = max(1.0, *(x.abs().max().item() for x in want[1] if x.numel()), 0.0)
        torch.testing.assert_close(one.double(), other, atol=tolerance * size, rtol=tolerance)


def reached(near, t, function):
    """Listeners that get something not finite along an edge or of their own; senders they read."""
    source, target = near.edges().index
    listeners = ~near.pos.flatten(1).isfinite().all(dim=1)
    for name in FUNCTIONS[function]:
        bad = ~t[name].flatten(1).isfinite().all(dim=1)
        if name in TABLES:
            listeners = listeners.index_put((target[bad[source]],), torch.tensor(True))
        elif name == "filters":
            listeners = listeners | bad.any()
        else:
            listeners = listeners | bad
    senders = torch.zeros(near.grid.num_nodes, dtype=torch.bool)
    return listeners, senders.index_put((source[listeners[target]],), torch.tensor(True))


def named(function, results):
    """Outputs and gradients, and by which name's rows each is ordered."""
    outputs, grads = results
    rows = "key" if function == "scatter_interpolate" else "query"
    return [
        *[(rows, out) for out in outputs],
        *zip([*FUNCTIONS[function], "pos"], grads, strict=True),
    ]


def assert_not_finite_alike(case, bad, backends):
    function, t, near, groups = case
    finite = near.pos.isfinite()
    clean_near = Neighborhood(
        near.grid,
        near.pos.where(finite, 0.25),
        padding_mode=near.padding_mode,
        receiver=near.receiver,
    )
    listeners, senders = reached(near, bad, function)
    results = []
    for backend in backends:
        got = run_with_gradients(function, bad, near, groups, backend)
        clean = run_with_gradients(function, t, clean_near, groups, backend)
        results.append([])
        pairs = zip(named(function, got), named(function, clean), strict=True)
        for (name, one), (_, other) in pairs:
            # A convolution multiplies filters with all senders, read or not, by some backends.
            if function == "sampled_convolution" and name in ("key", "filters"):
                continue
            untouched = ~(senders if name in TABLES else listeners)
            assert torch.equal(one[untouched], other[untouched]), name
            if "attention" not in function:
                # A border gives a position that is not finite the gradient 0.
                same = one.isfinite() & finite if name == "pos" else one.isfinite()
                assert torch.equal(one[same], other[same]), name
            # Which of NaN and infinity it is, is not promised.
            results[-1].append(one.where(one.isfinite(), torch.nan))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, atol=1e-9, rtol=1e-9, equal_nan=True)


@SETTINGS
@given(data=st.data())
def test_what_is_not_finite_goes_along_edges_and_no_further(data):
    case = data.draw(cases())
    assert_not_finite_alike(case, data.draw(broken(case[1], FUNCTIONS[case[0]])), ["torch", "pyg"])


@pytest.mark.slow
@FEW
@given(data=st.data())
def test_triton_agrees_on_what_is_not_finite(data):
    case = data.draw(cases(small=True))
    assert_not_finite_alike(
        case, data.draw(broken(case[1], FUNCTIONS[case[0]])), ["torch", "triton"]
    )


def largest_terms(function, t, near, groups):
    """The sums of products without corner weights: no backend comes to anything larger."""
    table = {"sampled_sum": "value"}.get(function, "key")
    corners = t[table].abs().double()[reference.corners(near)[0]].sum(dim=2)
    if function == "interpolate":
        return corners
    if function == "sampled_score":
        products = t["query"].abs().double().unsqueeze(1) * corners
        return products.unflatten(2, (groups, -1)).sum(dim=-1).transpose(1, 2)
    weight = t["weight"].abs().double().transpose(1, 2).unsqueeze(-1)
    return (weight * corners.unflatten(2, (groups, -1))).sum(dim=1).flatten(1)


@pytest.mark.parametrize("backend", BACKENDS)
@FEW
@given(data=st.data())
def test_what_overflows_is_not_finite(backend, data):
    """Results out of range are not finite; those whose terms stay in range are right."""
    function = data.draw(st.sampled_from(["interpolate", "sampled_score", "sampled_sum"]))
    near = data.draw(neighborhoods(finite=True, shared=True, small=True))
    near = Neighborhood(
        near.grid, near.pos.float(), padding_mode=near.padding_mode, receiver=near.receiver
    )
    groups = data.draw(st.sampled_from([1, 2]))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    sizes = (near.num_samples, CHANNELS, CHANNELS, groups)
    t = make_inputs(near.grid, near.receiver, *sizes, dtype=torch.float32)
    limit = torch.finfo(torch.float32).max
    for name in data.draw(st.sampled_from([["key", "value"], ["query", "key", "weight", "value"]])):
        huge = data.draw(st.sampled_from([1e18, 1e20, 1e30, 1e38]))
        large = (huge * t[name]).clamp(-limit, limit)
        t[name] = torch.where(torch.rand(t[name].shape) < 0.3, large, t[name])
    (got,) = run(function, t, near, groups, backend)
    double = Neighborhood(
        near.grid, near.pos.double(), padding_mode=near.padding_mode, receiver=near.receiver
    )
    (want,) = run(function, {name: x.double() for name, x in t.items()}, double, groups, None)
    terms = largest_terms(function, t, near, groups)
    assert not got[want.abs() > 1.001 * limit].isfinite().any()
    small = terms < 0.999 * limit
    error = (got - want)[small].abs()
    assert (error <= 4e-6 * terms[small]).all()

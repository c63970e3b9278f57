"""Drawn layers: every way to compute one gives the same, with its gradients."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import broken, layers

from dyngraph import Grid
from dyngraph.nn.conv import DGMN2Conv, DGMNConv, NonLocalConv, RepGraphConv
from dyngraph.ops import use_backend

SETTINGS = settings.get_profile("fuzz")


def outputs_and_gradients(function, conv, x):
    out = function()
    inputs = [x, *conv.parameters()]
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    grads = torch.autograd.grad((weight * out).sum(), inputs, allow_unused=True)
    zeros = [torch.zeros_like(part) for part in inputs]
    return out, [zero if grad is None else grad for grad, zero in zip(grads, zeros, strict=True)]


def assert_same(got, want):
    # Samples of two steps move with the rounding of the first; sums of some hundred terms.
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9, equal_nan=True)


def ways(conv, grid, x):
    """The backends, and the edges of the layer's samples: outputs and gradients of each."""
    for backend in ("torch", "pyg"):
        with use_backend(backend):
            yield outputs_and_gradients(lambda: conv(x, grid), conv, x)
    if isinstance(conv, NonLocalConv):
        _, (edge_index, _) = conv(x, grid, return_attention_weights=True)
        yield outputs_and_gradients(lambda: conv(x, edge_index), conv, x)
        return

    def along_edges():
        index, weight, sample = conv.sample(x, grid)[1].edges()
        kwargs = {"grid": grid} if isinstance(conv, DGMN2Conv) else {}
        return conv(x, index, weight, sample, **kwargs)

    yield outputs_and_gradients(along_edges, conv, x)


@SETTINGS
@given(layers())
def test_backends_and_edges_agree(drawn):
    want, *others = ways(*drawn)
    for got in others:
        assert_same(got, want)


@SETTINGS
@given(st.data())
def test_features_that_are_not_finite(data):
    """They stay in their map, and every way finds the same numbers not finite."""
    conv, grid, x = data.draw(layers())
    assume(grid.num_nodes)
    bad = data.draw(broken({"x": x}, ["x"]))["x"].requires_grad_()
    clean = conv(x, grid)
    results = []
    for out, (grad, *_) in ways(conv, grid, bad):
        results.append([part.where(part.isfinite(), torch.nan) for part in (out, grad)])
    want, *others = results
    # Non-local is PyTorch's fused attention, which may return 0 for a query that is NaN.
    if not isinstance(conv, NonLocalConv):
        for got in others:
            assert_same(got, want)
    broken_map = torch.zeros(grid.batch_size, dtype=torch.bool)
    broken_map[grid.batch[~bad.isfinite().all(dim=1)]] = True
    rows = ~broken_map[grid.batch]
    assert_same(want[0][rows], clean[rows])


@SETTINGS
@given(layers())
def test_a_batch_is_each_map_alone(drawn):
    conv, grid, x = drawn
    assume(not isinstance(conv, RepGraphConv))  # Its positions were drawn for the whole batch.
    parts = x.split(grid.ptr.diff().tolist())
    alone = [conv(part, Grid([shape])) for part, shape in zip(parts, grid.shapes, strict=True)]
    assert_same(conv(x, grid), torch.cat(alone))


@SETTINGS
@given(layers())
def test_what_is_not_finite_stays_at_its_node(drawn):
    """A position that is NaN or infinite makes its node NaN, and no other."""
    conv, grid, x = drawn
    assume(not isinstance(conv, (NonLocalConv, DGMNConv)))
    with torch.no_grad():
        out, near, _ = conv.sample(x, grid)
    broken = ~near.pos.isfinite().flatten(1).all(dim=1)
    got = out.isnan()
    if isinstance(conv, DGMN2Conv):
        assert not got.any() or broken.any()
    else:
        assert torch.equal(got.all(dim=1), broken)
    assert not got[~broken].any()

"""Samples on several maps of an image: each level alone, side by side."""

import pytest
import torch
from backends import BACKENDS

from dyngraph import Grid, Neighborhood
from dyngraph.ops import (
    interpolate,
    multi_scale_deformable_attention,
    sampled_attention,
    sampled_convolution,
    sampled_score,
    sampled_sum,
    scatter_interpolate,
)

LEVELS = (2, 0, 3)
SHAPES = {
    1: [[(7,), (4,), (2,)], [(5,), (3,), (2,)]],
    2: [[(4, 5), (2, 2), (2, 3)], [(3, 3), (2, 1), (1, 2)], [(3, 3), (2, 1), (1, 2)]],
    3: [[(2, 3, 4), (2, 2, 2), (1, 2, 3)]],
}
QUERIES = [(5,), (3,), (3,)]
GROUPS = 2


def make(num_axes, own, padding_mode="zeros", dtype=torch.float64):
    shapes = SHAPES[num_axes]
    grid, receiver = (
        Grid([shape for image in shapes for shape in image]),
        Grid(QUERIES[: len(shapes)]),
    )
    size = (receiver.num_nodes, GROUPS, 5, num_axes) if own else (receiver.num_nodes, 5, num_axes)
    pos = (4 * torch.rand(size, dtype=dtype) - 0.7).requires_grad_()
    near = Neighborhood(grid, pos, receiver=receiver, levels=LEVELS, padding_mode=padding_mode)
    return near


def matrix(near):
    """What each sample of each group takes of each sender, ``[N, H, K, M]``, a level at a time."""
    rows, first_sender, first_node = [], 0, 0
    pos = near.pos_of_groups
    step = len(near.levels)
    for image, (size,) in enumerate(near.receiver.shapes):
        columns, first_sample = [], 0
        for level, samples in enumerate(near.levels):
            shape = near.grid.shapes[image * step + level]
            here = pos[first_node : first_node + size, :, first_sample : first_sample + samples]
            num_senders = Grid([shape]).num_nodes
            weight = here.new_zeros(*here.shape[:3], near.grid.num_nodes)
            if samples:
                alone = Neighborhood(
                    Grid([shape]),
                    here.flatten(1, 2),
                    padding_mode=near.padding_mode,
                    receiver=Grid([[size]]),
                )
                eye = torch.eye(num_senders, dtype=here.dtype)
                taken = interpolate(eye, alone, backend="pyg").view(*here.shape[:3], num_senders)
                weight = torch.cat(
                    [
                        weight[..., :first_sender],
                        taken,
                        weight[..., first_sender + num_senders :],
                    ],
                    dim=-1,
                )
            columns.append(weight)
            first_sample, first_sender = first_sample + samples, first_sender + num_senders
        rows.append(torch.cat(columns, dim=2))
        first_node += size
    return torch.cat(rows)


def by_group(near, x):
    """Samples ``[N, G, K, C / G]``."""
    senders = x.unflatten(1, (GROUPS, -1))
    taken = matrix(near).expand(-1, GROUPS, -1, -1)
    return torch.einsum("ngkm,mgc->ngkc", taken, senders)


def cases(near, dtype=torch.float64):
    """Each function with its inputs, by the library and by the dense formula."""
    n, m = near.receiver.num_nodes, near.grid.num_nodes
    draw = {
        "query": torch.randn(n, 6, dtype=dtype),
        "key": torch.randn(m, 6, dtype=dtype),
        "value": torch.randn(m, 4, dtype=dtype),
        "weight": torch.randn(n, GROUPS, 5, dtype=dtype),
    }
    t = {name: x.requires_grad_() for name, x in draw.items()}
    query = t["query"].unflatten(1, (GROUPS, -1))

    def score():
        return torch.einsum("ngc,ngkc->ngk", query, by_group(near, t["key"]))

    def total(weight):
        return torch.einsum("ngk,ngkc->ngc", weight, by_group(near, t["value"])).flatten(1)

    yield (
        lambda backend: sampled_score(t["query"], t["key"], near, GROUPS, backend=backend),
        score,
        [t["query"], t["key"], near.pos],
    )
    yield (
        lambda backend: sampled_sum(t["weight"], t["value"], near, backend=backend),
        lambda: total(t["weight"]),
        [t["weight"], t["value"], near.pos],
    )
    yield (
        lambda backend: sampled_attention(
            t["query"], t["key"], t["value"], near, GROUPS, bias=t["weight"], backend=backend
        ),
        lambda: total((score() + t["weight"]).softmax(dim=-1)),
        [*t.values(), near.pos],
    )
    if near.num_groups is None:
        filters = torch.randn(3, 6, 5, dtype=dtype, requires_grad=True)
        yield (
            lambda backend: sampled_convolution(t["key"], filters, near, backend=backend),
            lambda: torch.einsum("nkm,mc,ock->no", matrix(near).squeeze(1), t["key"], filters),
            [t["key"], filters, near.pos],
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_values_and_gradients(num_axes, own, padding_mode, backend):
    near = make(num_axes, own, padding_mode)
    for function, formula, inputs in cases(near):
        got, want = function(backend), formula()
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        upstream = torch.randn_like(want)
        grads = zip(
            torch.autograd.grad(got, inputs, upstream),
            torch.autograd.grad(want, inputs, upstream),
            strict=True,
        )
        for grad, expected in grads:
            torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("own", [False, True])
def test_interpolate_and_its_adjoint(own, backend):
    near = make(2, own)
    x = torch.randn(near.grid.num_nodes, 4, dtype=torch.float64)
    samples = interpolate(x, near, backend=backend)
    want = by_group(near, x) if own else torch.einsum("nkm,mc->nkc", matrix(near).squeeze(1), x)
    torch.testing.assert_close(samples, want, rtol=1e-10, atol=1e-10)
    values = torch.randn_like(samples)
    back = scatter_interpolate(values, near, backend=backend)
    torch.testing.assert_close((back * x).sum(), (values * samples).sum())


@pytest.mark.parametrize("own", [False, True])
def test_edges_are_those_of_the_levels(own):
    near = make(2, own)
    edges = near.edges()
    n, m, k = near.receiver.num_nodes, near.grid.num_nodes, near.pos_of_groups[0, :, :, 0].numel()
    dense = torch.zeros(n, k, m, dtype=torch.float64)
    dense.index_put_((edges.index[1], edges.sample, edges.index[0]), edges.weight, accumulate=True)
    torch.testing.assert_close(dense, matrix(near).flatten(1, 2))


@pytest.mark.parametrize("function", ["sum", "attention"])
@pytest.mark.parametrize("own", [False, True])
def test_first_and_second_derivatives(own, function):
    near = make(2, own)
    n, m = near.receiver.num_nodes, near.grid.num_nodes
    weight, table = torch.randn(n, GROUPS, 5), torch.randn(m, 4)
    inputs = [x.double().requires_grad_() for x in (weight, table)]

    def call(weight, table, pos):
        there = Neighborhood(near.grid, pos, receiver=near.receiver, levels=LEVELS)
        if function == "sum":
            return sampled_sum(weight, table, there)
        return sampled_attention(table[:n], table, table.tanh(), there, GROUPS, bias=weight)

    arguments = (*inputs, near.pos)
    assert torch.autograd.gradcheck(call, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, arguments, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types(dtype, backend):
    shapes, draw = [(4, 5), (2, 3)], torch.randn
    value = draw(2, 26, 2, 4).to(dtype)
    locations, weight = torch.rand(2, 3, 2, 2, 3, 2), draw(2, 3, 2, 2, 3)
    got = multi_scale_deformable_attention(value, shapes, locations, weight, backend=backend)
    want = multi_scale_deformable_attention(value.float(), shapes, locations, weight)
    assert got.dtype == dtype
    # Summed in float32 and rounded once.
    torch.testing.assert_close(got, want.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"value": torch.ones(1, 6, 4)}, ValueError, r"^value: expected shape \[B, S, heads, d\]"),
        ({"value": torch.ones(1, 6, 2, 4).long()}, TypeError, "^value: expected floating-point"),
        ({"value": torch.ones(1, 7, 2, 4)}, ValueError, "^value: expected a row for each of the 6"),
        ({"value_spatial_shapes": []}, ValueError, "^value_spatial_shapes: expected the shape"),
        ({"value_spatial_shapes": [(2, 2), (2,)]}, ValueError, "^value_spatial_shapes: .*lengths"),
        (
            {"sampling_locations": torch.ones(1, 3, 2, 1, 3, 2)},
            ValueError,
            r"^sampling_locations: expected shape .* \[1, Q, 2, 2, points, 2\], got \[1, 3, 2, 1,",
        ),
        (
            {"attention_weights": torch.ones(1, 3, 2, 2, 4)},
            ValueError,
            r"^attention_weights: expected shape \[1, 3, 2, 2, 3\], got \[1, 3, 2, 2, 4\]",
        ),
        (
            {"attention_weights": torch.ones(1, 3, 2, 2, 3, device="meta")},
            ValueError,
            "^attention_weights: expected it on cpu",
        ),
    ],
)
def test_wrong_arguments_of_deformable_attention(changes, error, match):
    arguments = {
        "value": torch.ones(1, 6, 2, 4),
        "value_spatial_shapes": [(2, 2), (1, 2)],
        "sampling_locations": torch.ones(1, 3, 2, 2, 3, 2),
        "attention_weights": torch.ones(1, 3, 2, 2, 3),
    }
    assert multi_scale_deformable_attention(**arguments).shape == (1, 3, 8)
    with pytest.raises(error, match=match):
        multi_scale_deformable_attention(**(arguments | changes))


def test_shapes_as_a_tensor():
    value, locations = torch.randn(1, 6, 2, 4), torch.rand(1, 3, 2, 2, 3, 2)
    weight = torch.rand(1, 3, 2, 2, 3)
    shapes = [(2, 2), (1, 2)]
    assert torch.equal(
        multi_scale_deformable_attention(value, torch.tensor(shapes), locations, weight),
        multi_scale_deformable_attention(value, shapes, locations, weight),
    )


def test_volumes():
    """Locations are (x, y, z), shapes (depth, height, width)."""
    value = torch.zeros(1, 24, 1, 1, dtype=torch.float64)
    value[0, 12 + 4 + 2] = 1  # z = 1, y = 1 of 3, x = 2 of 4
    location = torch.tensor([2.5 / 4, 1.5 / 3, 1.5 / 2], dtype=torch.float64)
    out = multi_scale_deformable_attention(
        value, [(2, 3, 4)], location.view(1, 1, 1, 1, 1, 3), torch.ones(1, 1, 1, 1, 1)
    )
    torch.testing.assert_close(out.item(), 1.0)


@pytest.mark.parametrize(
    ("levels", "match"),
    [
        ([1, 2], r"^receiver: expected a map for each of the 2 maps .* 3 in all, got 1"),
        ([1, 2, 3], r"^levels: expected numbers of samples that add up to K = 5, got \[1, 2, 3\]"),
        ([-1, 3, 3], r"^levels: expected numbers .*, got \[-1, 3, 3\]"),
    ],
)
def test_wrong_levels(levels, match):
    grid, queries = Grid([[4, 4], [2, 2], [1, 1]]), Grid([[3]])
    with pytest.raises(ValueError, match=match):
        Neighborhood(grid, torch.ones(3, 5, 2), receiver=queries, levels=levels)

"""Drawn samples: the views of a neighborhood tell the same."""

import reference
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import CHANNELS, neighborhoods, positions

from dyngraph import Neighborhood
from dyngraph.ops import interpolate

SETTINGS = settings.get_profile("fuzz")


def features(grid):
    return torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64)


def same_samples(near, pos):
    return Neighborhood(near.grid, pos, padding_mode=near.padding_mode, receiver=near.receiver)


@SETTINGS
@given(neighborhoods())
def test_edges_stay_in_their_map_and_weigh_what_corners_weigh(near):
    index, weight, sample = near.edges()
    source, target = index
    assert torch.equal(near.grid.batch[source], near.receiver.batch[target])
    num_samples = (near.num_groups or 1) * near.num_samples
    corners = 2**near.grid.num_axes
    order = torch.arange(near.receiver.num_nodes * num_samples).repeat_interleave(corners)
    assert torch.equal(target * num_samples + sample, order)
    torch.testing.assert_close(
        weight, near.corners().weight.transpose(2, 3).flatten(), atol=0, rtol=0, equal_nan=True
    )
    total = weight.new_zeros(order.max().item() + 1 if len(order) else 0)
    total = total.index_add(0, order, weight)
    finite = near.pos.isfinite().all(dim=-1).flatten()
    assert torch.equal(total.isfinite(), finite)
    # What is missing from 1 lies outside the map.
    if near.padding_mode == "border":
        torch.testing.assert_close(total[finite], torch.ones_like(total[finite]))
    else:
        assert (weight[weight.isfinite()] >= 0).all()
        assert (total[finite] <= 1 + 1e-12).all()


@SETTINGS
@given(neighborhoods(finite=True))
def test_the_adjacency_matrix_of_edges_sums_the_samples(near):
    index, weight, _ = near.edges()
    size = (near.receiver.num_nodes, near.grid.num_nodes)
    adjacency = torch.zeros(size, dtype=torch.float64)
    adjacency.index_put_((index[1], index[0]), weight, accumulate=True)
    pos = near.pos.flatten(1, -2)
    matrix = reference.interpolation_matrix(same_samples(near, pos))
    torch.testing.assert_close(adjacency, matrix.sum(dim=1), atol=1e-14, rtol=1e-14)


@SETTINGS
@given(neighborhoods())
def test_groups_with_samples_of_their_own_have_corners_of_their_own(near):
    assume(near.num_groups is not None)
    index, weight = near.corners()
    for g in range(near.num_groups):
        own = same_samples(near, near.pos[:, g]).corners()
        assert torch.equal(index[:, g : g + 1], own.index)
        torch.testing.assert_close(weight[:, g : g + 1], own.weight, atol=0, rtol=0, equal_nan=True)


@SETTINGS
@given(st.data())
def test_samples_one_after_the_other(data):
    near = data.draw(neighborhoods(shared=True))
    pos = data.draw(
        positions(near.receiver.num_nodes, data.draw(st.integers(0, 3)), near.grid.num_axes)
    )
    parts = [near, same_samples(near, pos), near]
    x = features(near.grid)
    want = torch.cat([interpolate(x, part) for part in parts], dim=1)
    got = interpolate(x, Neighborhood.cat(parts))
    torch.testing.assert_close(got, want, atol=0, rtol=0, equal_nan=True)


@SETTINGS
@given(neighborhoods())
def test_the_graph_of_samples(near):
    assume(near.grid == near.receiver)
    x = features(near.grid)
    graph = near.to_graph(x)
    index, weight, sample = near.edges()
    assert graph.x is x
    assert graph.validate()
    assert torch.equal(graph.edge_index, index)
    assert torch.equal(graph.edge_sample, sample)
    torch.testing.assert_close(graph.edge_weight, weight, atol=0, rtol=0, equal_nan=True)
    assert torch.equal(graph.pos, reference.node_positions(near.grid))
    assert torch.equal(graph.batch, reference.image_of_node(near.grid))


@SETTINGS
@given(neighborhoods(finite=True))
def test_attention_on_edges_is_that_of_their_samples(near):
    groups = near.num_groups or 2
    alpha = torch.rand(near.receiver.num_nodes, groups, near.num_samples, dtype=torch.float64)
    spread = near.corner_alpha(alpha)
    assert spread.shape == (near.edges().weight.shape[0], groups)
    x = features(near.grid)
    source, target = near.edges().index
    for g, channels in enumerate(spread.t()):
        own = near if near.num_groups is None else same_samples(near, near.pos[:, g])
        want = (alpha[:, g].unsqueeze(-1) * reference.interpolate(x, own)).sum(dim=1)
        got = torch.zeros_like(want).index_add(0, target, channels.unsqueeze(-1) * x[source])
        torch.testing.assert_close(got, want, atol=1e-13, rtol=1e-13)

import pytest
import reference
import torch
import torch.nn.functional as F

from dyngraph import Grid, to_graph
from dyngraph.nn.conv import NonLocalConv, RepGraphConv


def complete_edges(grid):
    target, source = reference.same_image(grid).nonzero().t()
    return torch.stack([source, target])


@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("hidden_channels", [4, None])
def test_a_grid_is_its_complete_graph(num_axes, groups, hidden_channels):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    x = torch.randn(grid.num_nodes, 4)
    conv = NonLocalConv(4, hidden_channels, groups=groups)
    out = conv(x, grid)
    projected = conv.queries_keys_values((x, x))
    want, _ = reference.attention_on_adjacency(*projected, reference.same_image(grid), groups)
    torch.testing.assert_close(out, want)
    edges = complete_edges(grid)
    torch.testing.assert_close(conv(x, edges), want)
    representative = RepGraphConv(4, hidden_channels, groups=groups, num_axes=num_axes)
    representative.load_state_dict(conv.state_dict(), strict=False)
    torch.testing.assert_close(representative(x, edges), want)


@pytest.mark.parametrize("groups", [1, 4])
def test_a_grid_is_scaled_dot_product_attention(groups):
    maps = torch.randn(3, 8, 4, 5)
    graph = to_graph(maps)
    conv = NonLocalConv(8, 8, groups=groups)
    query, key, value = (
        lin(graph.x).view(3, 20, groups, -1).transpose(1, 2)
        for lin in (conv.lin_query, conv.lin_key, conv.lin_value)
    )
    want = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    dense = (query @ key.transpose(2, 3)).softmax(dim=-1) @ value
    torch.testing.assert_close(want, dense)
    want = want.transpose(1, 2).reshape(60, 8)
    torch.testing.assert_close(conv(graph.x, graph.grid), want, atol=0, rtol=0)


def test_maps_of_different_sizes_equal_each_alone():
    sizes = [[3, 4], [2, 2], [2, 2], [1, 1], [2, 2]]
    grid = Grid(sizes)
    x = torch.randn(grid.num_nodes, 4)
    conv = NonLocalConv(4, 6, groups=2)
    parts = x.split(grid.ptr.diff().tolist())
    alone = [conv(part, Grid([size])) for part, size in zip(parts, sizes, strict=True)]
    torch.testing.assert_close(conv(x, grid), torch.cat(alone))


def test_queries_and_keys_of_two_tensors():
    grid = Grid([[2, 3], [1, 2]])
    x = (torch.randn(8, 3), torch.randn(8, 5))
    conv = NonLocalConv((3, 5), 4)
    torch.testing.assert_close(conv(x, grid), conv(x, complete_edges(grid)))


@pytest.mark.parametrize("groups", [1, 2])
def test_attention_weights(groups):
    grid = Grid([[2, 3], [1, 1], [1, 2]])
    x = torch.randn(grid.num_nodes, 4)
    conv = NonLocalConv(4, 6, groups=groups)
    out, (edge_index, alpha) = conv(x, grid, return_attention_weights=True)
    assert torch.equal(edge_index, complete_edges(grid))
    assert alpha.shape == (36 + 1 + 4, groups)
    projected = conv.queries_keys_values((x, x))
    want, dense = reference.attention_on_adjacency(*projected, reference.same_image(grid), groups)
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(alpha, dense[:, edge_index[1], edge_index[0]].t())
    assert torch.equal(conv(x, grid, return_attention_weights=False), conv(x, grid))


@pytest.mark.parametrize("grid", [Grid.of(torch.randn(0, 1, 3, 3)), Grid(torch.empty(0, 2).long())])
def test_no_maps(grid):
    conv = NonLocalConv(4, 6, groups=2)
    x = torch.randn(0, 4, requires_grad=True)
    out = conv(x, grid)
    assert out.shape == (0, 6)
    out.sum().backward()
    assert x.grad.shape == (0, 4)
    out, (edge_index, alpha) = conv(x, grid, return_attention_weights=True)
    assert (out.shape, edge_index.shape, alpha.shape) == ((0, 6), (2, 0), (0, 2))


def test_a_map_without_nodes():
    grid = Grid([[2, 2], [0, 3], [1, 1]])
    x = torch.randn(5, 4)
    conv = NonLocalConv(4, 6)
    torch.testing.assert_close(conv(x, grid), conv(x, complete_edges(grid)))

import pytest
import reference
import torch
from torch_geometric.testing import assert_module

from dyngraph import Grid, to_graph
from dyngraph.nn import CrissCrossConv, RepGraphConv


def lines(grid):
    """The nodes on a common line of a map as a boolean matrix ``[N, N]``."""
    nodes = reference.node_positions(grid)
    differ = (nodes.unsqueeze(1) != nodes.unsqueeze(0)).sum(dim=2)
    return (differ <= 1) & reference.same_image(grid)


def dense(conv, x, grid):
    projected = conv.lin_query(x), conv.lin_key(x), conv.lin_value(x)
    return reference.attention_on_adjacency(*projected, lines(grid))[0]


@pytest.mark.parametrize("backend", ["auto", "torch", "pyg", "triton"])
@pytest.mark.parametrize("sizes", [[[5]], [[3, 4]] * 2, [[1, 1]] * 3, [[6, 1]], [[2, 3, 2]]])
def test_it_is_dense_attention_over_the_lines_of_a_node(sizes, backend):
    grid = Grid(sizes)
    x = torch.randn(grid.num_nodes, 6, dtype=torch.float64, requires_grad=True)
    conv = CrissCrossConv(6, 4, num_axes=grid.num_axes, backend=backend).double()
    out, want = conv(x, grid), dense(conv, x, grid)
    torch.testing.assert_close(out, want)
    assert out.shape == (grid.num_nodes, 6)
    inputs = [x, *conv.parameters()]
    probe = torch.randn_like(out)
    grads = [torch.autograd.grad((y * probe).sum(), inputs) for y in (out, want)]
    torch.testing.assert_close(grads[0], grads[1], atol=1e-12, rtol=1e-10)


def test_the_einsums_of_the_released_code():
    """Scores of a column and of a row, the node itself in the row alone, under one softmax."""
    maps = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    conv = CrissCrossConv(8).double()
    graph = to_graph(maps)
    q, k, v = (
        graph.grid.unflatten(lin(graph.x)) for lin in (conv.lin_query, conv.lin_key, conv.lin_value)
    )
    column = torch.einsum("bchw,bcgw->bhwg", q, k)
    own = torch.eye(4, dtype=torch.bool).view(1, 4, 1, 4)
    column = column.masked_fill(own, -torch.inf)
    row = torch.einsum("bchw,bchv->bhwv", q, k)
    in_column, in_row = torch.cat([column, row], dim=3).softmax(dim=3).split([4, 5], dim=3)
    want = torch.einsum("bhwg,bcgw->bchw", in_column, v) + torch.einsum(
        "bhwv,bchv->bchw", in_row, v
    )
    torch.testing.assert_close(graph.grid.unflatten(conv(graph.x, graph.grid)), want)


def test_the_same_weights_on_the_edges():
    grid = Grid([[3, 4], [3, 4]])
    x = torch.randn(24, 8)
    conv = CrissCrossConv(8)
    target, source = lines(grid).nonzero().t()
    edges = torch.stack([source, target])
    torch.testing.assert_close(conv(x, edges), conv(x, grid))
    # The same sum in another order.
    assert_module(conv, x, edges, expected_size=(24, 8), atol=1e-6)


def test_channels():
    conv = CrissCrossConv(64)
    assert isinstance(conv, RepGraphConv)
    assert conv.lin_query.out_channels == conv.lin_key.out_channels == 8
    assert conv.lin_value.out_channels == conv.out_channels == 64
    assert CrissCrossConv(64, 5).lin_query.out_channels == 5
    assert CrissCrossConv(4).lin_query.out_channels == 1
    assert repr(conv) == "CrissCrossConv(64, 64)"


def test_maps_of_two_sizes():
    with pytest.raises(ValueError, match=r"^grid: expected maps of one size"):
        CrissCrossConv(4)(torch.randn(16, 4), Grid([[3, 4], [2, 2]]))

import pytest
import reference
import torch
from torch_geometric.testing import assert_module

from dyngraph import Grid
from dyngraph.nn import NonLocalConv, PositionAttentionConv


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_it_is_dense_attention_over_the_nodes_of_a_map(num_axes):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    x = torch.randn(grid.num_nodes, 6, dtype=torch.float64)
    conv = PositionAttentionConv(6, 4).double()
    projected = conv.lin_query(x), conv.lin_key(x), conv.lin_value(x)
    adjacency = reference.same_image(grid)
    want, _ = reference.attention_on_adjacency(*projected, adjacency)
    torch.testing.assert_close(conv(x, grid), want)
    target, source = adjacency.nonzero().t()
    torch.testing.assert_close(conv(x, torch.stack([source, target])), want)


def test_any_graph():
    x = torch.randn(4, 8)
    edges = torch.tensor([[0, 1, 2, 3], [1, 1, 3, 0]])
    assert_module(PositionAttentionConv(8), x, edges, expected_size=(4, 8), atol=1e-6)


def test_channels():
    conv = PositionAttentionConv(64)
    assert isinstance(conv, NonLocalConv)
    assert conv.lin_query.out_channels == conv.lin_key.out_channels == 8
    assert conv.lin_value.out_channels == conv.out_channels == 64
    assert PositionAttentionConv(4).lin_query.out_channels == 1

import pytest
import torch
from torch_geometric.testing import assert_module

from dyngraph.ops import pyg_backend
from dyngraph.ops.pyg_backend import EdgeSum


def test_the_template_was_used():
    propagate = EdgeSum().propagate.__module__
    assert propagate.startswith(f"{pyg_backend.__name__}_EdgeSum_propagate")


@pytest.mark.parametrize("width", [1, 3])
def test_edge_sum(width):
    edge_index = torch.tensor([[0, 1, 1, 2], [0, 0, 1, 3]])
    weight = torch.tensor([2.0, 3.0, 5.0, 7.0]).unsqueeze(1)
    x = torch.arange(1.0, 4.0).unsqueeze(1).expand(3, width)
    out = EdgeSum()((x, None), edge_index, weight, (3, 4))
    assert torch.equal(out, torch.tensor([[8.0], [10], [0], [21]]).expand(4, width))


def test_edge_sum_does_not_depend_on_the_order_of_edges():
    edge_index = torch.tensor([[0, 1, 1, 2], [0, 0, 1, 3]])
    x = torch.randn(4, 3)
    # Weights belong to the edges of an edge index: other layouts order their edges themselves.
    assert_module(
        EdgeSum(),
        x,
        edge_index,
        weight=torch.randn(4, 1),
        size=(4, 4),
        expected_size=(4, 3),
        test_sparse_layouts=[],
    )

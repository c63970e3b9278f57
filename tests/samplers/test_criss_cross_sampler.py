import pytest
import reference
import torch

from dyngraph import Grid
from dyngraph.samplers import CrissCrossSampler


@pytest.mark.parametrize("sizes", [[[5]], [[3, 4]] * 2, [[1, 1]], [[1, 6]], [[2, 3, 4]]])
def test_samples_are_the_nodes_of_all_lines_each_once(sizes):
    grid = Grid(sizes)
    near = CrissCrossSampler(grid.num_axes)(torch.randn(grid.num_nodes, 2), grid)
    assert near.num_samples == 1 + sum(length - 1 for length in sizes[0])
    assert torch.equal(near.pos[:, 0], grid.pos), "a node hears itself first"
    nodes = reference.node_positions(grid)
    # Nodes on a common line differ along one axis at most.
    on_a_line = (nodes.unsqueeze(1) != nodes.unsqueeze(0)).sum(dim=2) <= 1
    heard = reference.interpolation_matrix(near).sum(dim=1)
    assert torch.equal(heard, (on_a_line & reference.same_image(grid)).float())


def test_the_order_of_a_small_map():
    grid = Grid([[2, 3]])
    near = CrissCrossSampler()(torch.randn(6, 1), grid)
    # The node, the rest of its column, the rest of its row from the next node on.
    assert near.pos[4].tolist() == [[1, 1], [0, 1], [1, 2], [1, 0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_positions_are_never_of_a_half_type(dtype):
    grid = Grid([[2, 300]])
    near = CrissCrossSampler()(torch.randn(600, 1, dtype=dtype), grid)
    assert near.pos.dtype == torch.promote_types(dtype, torch.float32)
    assert near.pos.max() == 299


def test_no_maps():
    grid = Grid.of(torch.randn(0, 2, 3, 4))
    assert CrissCrossSampler()(torch.randn(0, 2), grid).pos.shape == (0, 6, 2)


def test_errors_name_the_argument():
    x = torch.randn(16, 2)
    with pytest.raises(ValueError, match=r"^grid: expected maps of one size, got Grid\(\[\(3, 4"):
        CrissCrossSampler()(x, Grid([[3, 4], [4, 1]]))
    with pytest.raises(ValueError, match=r"^grid: expected 2 spatial axes, got 1"):
        CrissCrossSampler()(x, Grid([[16]]))
    with pytest.raises(ValueError, match=r"^x: expected node features \[8, C\]"):
        CrissCrossSampler()(x, Grid([[2, 4]]))
    with pytest.raises(ValueError, match=r"^num_axes: expected 1, 2 or 3, got 4"):
        CrissCrossSampler(4)


def test_repr():
    assert repr(CrissCrossSampler(3)) == "CrissCrossSampler(num_axes=3)"

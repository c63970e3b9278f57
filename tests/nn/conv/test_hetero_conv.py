import pytest
import torch
from torch_geometric.nn import HeteroConv

from dyngraph import Grid
from dyngraph.nn.conv import DGMN2Conv, DGMNConv, RepGraphConv

LAYERS = {
    "RepGraph": lambda: RepGraphConv(4, 4, 3),
    "DGMN": lambda: DGMNConv(4, (1, 2), 2),
    "DGMN2": lambda: DGMN2Conv(4, 2, (3, 3)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_edges_of_one_type_among_others(layer):
    grid = Grid([[3, 4]])
    x = torch.randn(12, 4)
    conv = LAYERS[layer]()
    edges = conv.sample(x, grid)[1].edges()
    kind = ("pixel", "hears", "pixel")
    out = HeteroConv({kind: conv})(
        {"pixel": x},
        {kind: edges.index},
        edge_weight_dict={kind: edges.weight},
        edge_sample_dict={kind: edges.sample},
    )
    want = conv(x, edges.index, edge_weight=edges.weight, edge_sample=edges.sample)
    torch.testing.assert_close(out["pixel"], want, atol=0, rtol=0)

import pytest
import torch
from torch import nn
from torch_geometric.nn import HeteroConv, to_hetero

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


class TwoLayers(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first = LAYERS[layer]()
        self.second = LAYERS[layer]()

    def forward(self, x, edge_index, edge_weight, edge_sample):
        x = self.first(x, edge_index, edge_weight, edge_sample).relu()
        return self.second(x, edge_index, edge_weight, edge_sample)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_network_for_several_types_of_edges(layer):
    """Two types of nodes; one hears its own type and the other one."""
    grid, x, other = Grid([[3, 4]]), torch.randn(12, 4), torch.randn(12, 4)
    own, cross = ("pixel", "hears", "pixel"), ("cell", "tells", "pixel")
    back = ("pixel", "tells", "cell")
    network = to_hetero(TwoLayers(layer), (["pixel", "cell"], [own, cross, back]))
    edges = {
        kind: LAYERS[layer]().sample(part, grid)[1].edges()
        for kind, part in {own: x, cross: x, back: other}.items()
    }
    index, weight, sample = ({k: e[i] for k, e in edges.items()} for i in range(3))
    out = network({"pixel": x, "cell": other}, index, weight, sample)

    def layer_of(name, kind, source, target):
        conv = getattr(network, name)["__".join(kind)]
        return conv((source, target), index[kind], weight[kind], sample[kind])

    h = {"pixel": x, "cell": other}
    for name in ("first", "second"):
        h = {
            "pixel": layer_of(name, own, h["pixel"], h["pixel"])
            + layer_of(name, cross, h["cell"], h["pixel"]),
            "cell": layer_of(name, back, h["pixel"], h["cell"]),
        }
        if name == "first":
            h = {kind: part.relu() for kind, part in h.items()}
    for kind, want in h.items():
        torch.testing.assert_close(out[kind], want, atol=1e-6, rtol=1e-6)

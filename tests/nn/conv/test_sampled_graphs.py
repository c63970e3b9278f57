"""Every layer passes the same messages along the edges of a sampled graph as on its grid."""

from functools import partial

import pytest
import reference
import torch
from torch import nn
from torch_geometric import EdgeIndex
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import Sequential
from torch_geometric.testing import assert_module
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import coalesce, to_torch_csr_tensor

from dyngraph import Grid, Neighborhood
from dyngraph.nn.conv import CrissCrossConv, DGMN2Conv, DGMNConv, NonLocalConv, RepGraphConv
from dyngraph.samplers import OffsetSampler, Sampler, WalkSampler

CHANNELS = 4
DGMN = partial(DGMNConv, rates=(1, 2), groups=2, fusion="sum")
#: The layers that sample, as functions of the number of axes.
LAYERS = {
    "RepGraph": partial(RepGraphConv, CHANNELS, 4, num_samples=3, spread=2.0),
    "RepGraph, groups": partial(RepGraphConv, CHANNELS, 4, num_samples=3, groups=2, spread=2.0),
    "RepGraph, cells": partial(RepGraphConv, CHANNELS, 4, num_samples=3, cell_size=2, spread=2.0),
    "RepGraph, no projections": partial(RepGraphConv, CHANNELS, None, num_samples=3, spread=2.0),
    "DGMN": partial(DGMN, CHANNELS),
    "DGMN, concat": partial(DGMN, CHANNELS, fusion="concat"),
    "DGMN, taps": partial(DGMN, CHANNELS, walk=False),
    "DGMN, affinities": partial(DGMN, CHANNELS, groups=0),
    "DGMN, filters": partial(DGMN, CHANNELS, affinity=False),
    "DGMN, static": partial(DGMN, CHANNELS, affinity=False, filters=False),
    "DGMN, biases": partial(DGMN, CHANNELS, bias=True),
    "DGMN, two steps": partial(DGMN, CHANNELS, num_steps=2, activation=nn.Tanh()),
    "DGMN, two steps, concat": partial(DGMN, CHANNELS, num_steps=2, fusion="concat"),
}


class Padded(Sampler):
    """Another sampler, with the other padding."""

    def __init__(self, sampler):
        super().__init__(sampler.num_samples, sampler.num_axes)
        self.sampler = sampler

    def forward(self, x, grid):
        return Neighborhood(grid, self.sampler(x, grid).pos, padding_mode="border")


def trained(conv):
    """The layer in float64, with weights as after some training."""
    for name, parameter in conv.named_parameters():
        if any(part in name for part in ("walk", "static", "beta", "offset.weight", "messages")):
            nn.init.normal_(parameter, std=0.3)
    return conv.double()


def make(name, num_axes=2, padding="zeros", **kwargs):
    conv = trained(LAYERS[name](num_axes=num_axes, **kwargs))
    if padding == "border":
        for module in list(conv.modules()):
            if isinstance(getattr(module, "sampler", None), (OffsetSampler, WalkSampler)):
                module.sampler = Padded(module.sampler)
    return conv


def gradients(out, inputs):
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    # Two results may share the positions that they come from.
    return torch.autograd.grad((weight * out).sum(), inputs, allow_unused=True, retain_graph=True)


def assert_same(got, want):
    # Sums of up to 432 terms in another order.
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


# --- grid and edges -----------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_edges_equal_the_grid(name, num_axes, padding):
    """Outputs, and the gradients of features, parameters and interpolation weights."""
    grid = Grid(reference.MIXED_SIZES[num_axes])
    conv = make(name, num_axes, padding)
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64, requires_grad=True)
    inputs = [x, *conv.parameters()]
    want, near, _ = conv.sample(x, grid)
    assert near.padding_mode == (padding if "taps" not in name else "zeros")
    edges = near.edges()
    out = conv(x, edges.index, edge_weight=edges.weight, edge_sample=edges.sample)
    assert_same(conv(x, grid), want)
    assert_same(out, want)
    assert_same(gradients(out, inputs), gradients(want, inputs))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_interpolation_weights(name):
    """That of an edge's weight is that of its corner, where the graph stands for itself."""
    grid = Grid([[3, 4], [2, 2]])
    conv = make(name)
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64)
    index, weight, sample = (part.detach() for part in conv.sample(x, grid)[1].edges())
    weight = weight.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda weight: conv(x, index, weight, sample), weight, fast_mode=True
    )
    (grad,) = gradients(conv(x, index, weight, sample), [weight])
    assert grad.any()


@pytest.mark.parametrize("name", LAYERS)
def test_the_backend_of_edges_is_the_same_path(name, monkeypatch):
    """On a grid, backend="pyg" calls the layer's own propagate once for every step."""
    grid = Grid([[3, 4], [2, 2]])
    conv, on_edges = make(name), make(name, backend="pyg")
    on_edges.load_state_dict(conv.state_dict())
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64, requires_grad=True)
    calls = []
    on_edges.register_propagate_forward_hook(lambda *args: calls.append(args))
    out, want = on_edges(x, grid), conv(x, grid)
    assert len(calls) == getattr(conv, "num_steps", 1)
    assert_same(out, want)
    both = [
        gradients(result, [x, *layer.parameters()])
        for result, layer in ((out, on_edges), (want, conv))
    ]
    assert_same(*both)


def test_attention_is_that_of_the_samples():
    grid = Grid([[3, 4], [2, 2]])
    conv, on_edges = (make("RepGraph, groups", backend=backend) for backend in ("torch", "pyg"))
    on_edges.load_state_dict(conv.state_dict())
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64)
    _, near, alpha = conv.sample(x, grid)
    assert_same(on_edges.sample(x, grid)[2], alpha)
    edges = near.edges()
    _, (index, spread) = conv(x, *edges, return_attention_weights=True)
    assert index is edges.index
    assert_same(spread, near.corner_alpha(alpha))
    _, (index, spread) = conv(x, grid, return_attention_weights=True)
    assert torch.equal(index, edges.index)
    assert_same(spread, near.corner_alpha(alpha))


def test_the_score_of_a_sample_is_the_interpolation_of_its_corners_scores():
    """Two samples of two corners each, written out: the softmax is over samples, not over edges."""
    conv = RepGraphConv(1, None, num_samples=2)
    x = torch.tensor([[2.0], [3.0], [5.0], [7.0]])
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0]])
    weight, sample = torch.tensor([0.25, 0.75, 0.5, 0.5]), torch.tensor([0, 0, 1, 1])
    samples = torch.tensor([0.25 * 2 + 0.75 * 3, 0.5 * 5 + 0.5 * 7])
    want = ((2 * samples).softmax(dim=0) * samples).sum()
    torch.testing.assert_close(conv(x, edge_index, weight, sample)[0, 0], want)
    assert not conv(x, edge_index, weight, sample)[1:].any(), "nodes without edges hear nothing"


def test_edges_are_their_own_samples_by_default():
    x = torch.randn(5, CHANNELS)
    edge_index = coalesce(torch.randint(5, (2, 14)), sort_by_row=False)
    conv = RepGraphConv(CHANNELS, 4, num_samples=14)
    num_edges = edge_index.shape[1]
    adjacency = torch.zeros(5, 5, dtype=torch.bool)
    adjacency[edge_index[1], edge_index[0]] = True
    query, key, value = conv.queries_keys_values((x, x))
    want, _ = reference.attention_on_adjacency(query, key, value, adjacency)
    torch.testing.assert_close(conv(x, edge_index), want)
    # Weights alone scale scores and values.
    weight = torch.rand(num_edges)
    score = weight * (query[edge_index[1]] * key[edge_index[0]]).sum(dim=1)
    for node in range(5):
        mine = edge_index[1] == node
        alpha = score[mine].softmax(dim=0) * weight[mine]
        want = (alpha.unsqueeze(1) * value[edge_index[0, mine]]).sum(dim=0)
        torch.testing.assert_close(conv(x, edge_index, edge_weight=weight)[node], want)


@pytest.mark.parametrize("name", ["RepGraph", "RepGraph, groups", "DGMN", "DGMN, concat"])
def test_edges_of_zero_weight_may_be_dropped(name):
    """A sample without edges reads 0, as one outside the map does."""
    grid = Grid([[3, 4], [2, 2]])
    conv = make(name)
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64)
    index, weight, sample = conv.sample(x, grid)[1].edges()
    keep = weight != 0
    pairs = torch.stack([index[1, keep], sample[keep]])
    assert len(pairs.unique(dim=1).t()) < grid.num_nodes * conv_samples(conv), "some read nothing"
    assert_same(conv(x, index[:, keep], weight[keep], sample[keep]), conv(x, grid))


def conv_samples(conv):
    return conv.num_samples if isinstance(conv, DGMNConv) else conv.sampler.num_samples


@pytest.mark.parametrize("name", LAYERS)
def test_the_order_of_edges_does_not_matter(name):
    grid = Grid([[3, 4], [2, 2]])
    conv = make(name)
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64)
    index, weight, sample = conv.sample(x, grid)[1].edges()
    order = torch.randperm(len(weight))
    out = conv(x, index[:, order], weight[order], sample[order])
    assert_same(out, conv(x, grid))


@pytest.mark.parametrize("name", ["RepGraph, groups", "DGMN", "DGMN, concat"])
def test_sources_and_targets_may_differ(name):
    grid = Grid([[3, 4], [2, 2]])
    conv = make(name)
    n = grid.num_nodes
    x = tuple(torch.randn(2, n, CHANNELS, dtype=torch.float64).unbind())
    want, near, _ = conv.sample(x, grid)
    edges = near.edges()
    assert_same(conv(x, grid), want)
    assert_same(conv(x, *edges), want)
    # Other numbers of them: the first targets alone.
    keep = edges.index[1] < 5
    out = conv((x[0], x[1][:5]), edges.index[:, keep], edges.weight[keep], edges.sample[keep])
    assert_same(out, want[:5])


def test_sources_and_targets_may_differ_in_dgmn2_and_nonlocal():
    grid = Grid([[3, 4], [2, 5]])
    x = tuple(torch.randn(2, grid.num_nodes, CHANNELS, dtype=torch.float64).unbind())
    conv = dgmn2()
    edges = conv.sample(x, grid)[1].edges()
    assert_same(conv(x, *edges, grid=grid), conv(x, grid))
    repgraph = make("RepGraph")
    other = NonLocalConv(CHANNELS, 4).double()
    other.load_state_dict(repgraph.state_dict(), strict=False)
    want, near, _ = repgraph.sample(x, grid)
    index, weight, sample = near.edges()
    assert_same(other(x, index, weight, sample), want)
    keep = index[1] < 5
    few = other((x[0], x[1][:5]), index[:, keep], weight[keep], sample[keep])
    assert_same(few, want[:5])


@pytest.mark.parametrize("name", LAYERS)
def test_the_flow_can_be_turned(name):
    grid = Grid([[3, 4], [2, 2]])
    conv, turned = make(name), make(name, flow="target_to_source")
    turned.load_state_dict(conv.state_dict())
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64)
    index, weight, sample = conv.sample(x, grid)[1].edges()
    assert_same(turned(x, index.flip(0), weight, sample), conv(x, grid))


# --- DGMN's numbers of samples ------------------------------------------------------------------


def test_samples_are_numbered_through_rates_and_steps():
    grid = Grid([[3, 4]])
    conv = make("DGMN, two steps")
    x = torch.randn(12, CHANNELS, dtype=torch.float64)
    _, near, weight = conv.sample(x, grid)
    assert (near.pos.shape, weight.shape) == ((12, 36, 2), (12, 2, 36))
    rates = [message.sampler(x, grid).pos for message in conv.messages]
    torch.testing.assert_close(near.pos[:, :18], torch.cat(rates, dim=1))
    h = conv.update_nodes(x, [message(x, grid) for message in conv.messages])
    rates = [message.sampler(h, grid).pos for message in conv.messages]
    torch.testing.assert_close(near.pos[:, 18:], torch.cat(rates, dim=1))
    assert near.edges().sample.unique().tolist() == list(range(36))


def test_steps_share_the_edges_of_one_graph():
    grid = Grid([[3, 4], [2, 2]])
    conv, fixed = make("DGMN, two steps"), make("DGMN, two steps", walk=False)
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64)
    # Without walks all steps have the same samples.
    first = Neighborhood(grid, fixed.sample(x, grid)[1].pos[:, :18]).edges()
    assert_same(fixed(x, *first), fixed(x, grid))
    # With walks, those of the first step serve for all.
    first = Neighborhood(grid, conv.sample(x, grid)[1].pos[:, :18])
    h = x
    for _ in range(2):
        messages = []
        for message, pos in zip(conv.messages, first.pos.split(9, dim=1), strict=True):
            near = Neighborhood(grid, pos)
            samples = reference.interpolate(h, near)
            z = torch.einsum("nkc,ock->no", samples, message.prediction).view(-1, 3, 9)
            weight = z[:, :2] * z[:, 2:].softmax(dim=2)
            messages.append(reference.sampled_sum(weight, h, near))
        h = conv.update_nodes(x, messages)
    assert_same(conv(x, *first.edges()), h)


def test_dgmn_takes_ordered_edges_without_samples():
    """K edges a node in order are its samples: here the taps of a grid's inner node."""
    conv = DGMNConv(CHANNELS, rates=(1,), groups=2, fusion="sum", walk=False)
    nn.init.normal_(conv.beta)
    x = torch.randn(9, CHANNELS)
    edge_index = torch.stack([torch.arange(9), torch.zeros(9, dtype=torch.long)])
    target = torch.randn(1, CHANNELS)
    graph = Grid([[3, 3]])
    messages = [message(x, graph)[4:5] for message in conv.messages]
    want = conv.update_nodes(target, messages)
    torch.testing.assert_close(conv((x, target), edge_index), want)
    # In any order of targets: what counts is the order of one node's edges.
    both = torch.cat([edge_index, edge_index + torch.tensor([[0], [1]])], dim=1)
    interleaved = both.view(2, 2, 9).transpose(1, 2).flatten(1)
    out = conv((x, target.expand(2, -1)), interleaved)
    torch.testing.assert_close(out, want.expand(2, -1))


# --- DGMN2 --------------------------------------------------------------------------------------


def dgmn2(**kwargs):
    conv = DGMN2Conv(CHANNELS, 2, **kwargs).double()
    for name, parameter in conv.named_parameters():
        nn.init.normal_(parameter, std=0.5 if "conv_offset" in name else 0.3)
    return conv


def test_dgmn2_on_edges_equals_the_grid():
    grid = Grid([[3, 4], [2, 5]])
    conv = dgmn2()
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64, requires_grad=True)
    inputs = [x, *conv.parameters()]
    _, near, alpha = conv.sample(x, grid)
    edges = near.edges()
    assert edges.sample.unique().tolist() == list(range(18))
    out, (_, spread) = conv(x, *edges, grid=grid, return_attention_weights=True)
    want = conv(x, grid)
    assert_same(out, want)
    assert_same(spread, near.corner_alpha(alpha))
    assert_same(gradients(out, inputs), gradients(want, inputs))
    on_edges = dgmn2(backend="pyg")
    on_edges.load_state_dict(conv.state_dict())
    out = on_edges(x, grid)
    assert_same(out, want)
    assert_same(on_edges.sample(x, grid)[2], alpha)
    assert_same(gradients(out, [x, *on_edges.parameters()]), gradients(want, inputs))


def test_dgmn2_without_a_grid_has_no_relative_positions():
    grid = Grid([[3, 4], [2, 5]])
    conv = dgmn2()
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64)
    edges = conv.sample(x, grid)[1].edges()
    assert not torch.allclose(conv(x, *edges), conv(x, grid))
    for table in (conv.pos_emb.rel_height, conv.pos_emb.rel_width):
        nn.init.zeros_(table)
    assert_same(conv(x, *edges), conv(x, grid))


def test_dgmn2_needs_samples_for_its_grid():
    x, grid = torch.randn(4, CHANNELS, dtype=torch.float64), Grid([[2, 2]])
    with pytest.raises(ValueError, match="grid: expected None without edge_sample"):
        dgmn2()(x, torch.zeros(2, 3, dtype=torch.long), grid=grid)
    edges = torch.zeros(2, 1, dtype=torch.long), None, torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="x: expected a row for each of the 6 nodes"):
        dgmn2()(x, *edges, grid=Grid([[2, 3]]))


# --- Non-local ----------------------------------------------------------------------------------


def test_nonlocal_on_a_sampled_graph_is_repgraph():
    """Both have the same weights; the graph says who listens to whom."""
    grid = Grid([[3, 4], [2, 2]])
    conv = make("RepGraph, groups")
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64)
    other = NonLocalConv(CHANNELS, 4, groups=2).double()
    other.load_state_dict(conv.state_dict(), strict=False)
    want, near, _ = conv.sample(x, grid)
    assert_same(other(x, *near.edges()), want)


def test_criss_cross_on_edges_equals_the_grid():
    """How many samples a node has depends on the size of the maps, and is read from the graph."""
    grid = Grid([[3, 4], [3, 4]])
    conv, on_edges = (CrissCrossConv(CHANNELS, backend=name).double() for name in ("torch", "pyg"))
    on_edges.load_state_dict(conv.state_dict())
    x = torch.randn(24, CHANNELS, dtype=torch.float64)
    edges = conv.sample(x, grid)[1].edges()
    assert_same(conv(x, *edges), conv(x, grid))
    assert_same(on_edges(x, grid), conv(x, grid))


def test_nonlocal_on_all_pairs_equals_the_grid():
    grid = Grid([[3, 4], [2, 2]])
    conv = NonLocalConv(CHANNELS, 4).double()
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64, requires_grad=True)
    want, (edge_index, _) = conv(x, grid, return_attention_weights=True)
    inputs = [x, *conv.parameters()]
    assert_same(conv(x, edge_index), conv(x, grid))
    assert_same(gradients(conv(x, edge_index), inputs), gradients(conv(x, grid), inputs))
    # Each edge a sample of its own, by number.
    place = torch.cat([torch.arange(12).repeat(12), torch.arange(4).repeat(4)])
    ones = torch.ones(len(place), dtype=torch.float64)
    # Numbers without an edge, 4 to 11 in the second map, would be samples that read 0.
    first = edge_index[1] < 12
    assert_same(conv(x, edge_index[:, first], ones[first], place[first])[:12], want[:12])


# --- PyG's graphs and tools ---------------------------------------------------------------------

SAMPLED = ["RepGraph, groups", "DGMN", "DGMN2", "Non-local"]


def sampled_graph(name, coalesced=False):
    """A layer, node features and the graph of the layer's samples on a map, sorted by target."""
    grid = Grid([[5, 5]])
    x = torch.randn(25, CHANNELS, dtype=torch.float64)
    if name == "DGMN2":
        conv = dgmn2()
        nn.init.zeros_(conv.pos_emb.rel_height)
        nn.init.zeros_(conv.pos_emb.rel_width)
        near = conv.sample(x, grid)[1]
    elif name == "Non-local":
        conv = NonLocalConv(CHANNELS, 4).double()
        near = make("RepGraph").sample(x, grid)[1]
    else:
        conv = make(name)
        near = conv.sample(x, grid)[1]
    index, weight, sample = (part.detach() for part in near.edges())
    order = (index[1] * 25 + index[0]).argsort(stable=True)
    if coalesced:
        # Matrices hold one edge of a pair of nodes.
        pair = (index[1] * 25 + index[0])[order]
        order = order[torch.cat([pair.new_ones(1).bool(), pair.diff() > 0])]
    return conv, x, index[:, order], weight[order], sample[order]


@pytest.mark.parametrize("name", SAMPLED)
def test_layouts_of_a_sampled_graph(name):
    conv, x, index, weight, sample = sampled_graph(name, coalesced=True)
    assert_module(
        conv,
        x,
        index,
        edge_weight=weight,
        edge_sample=sample,
        expected_size=(25, 4),
        atol=1e-12,
        rtol=1e-12,
    )


@pytest.mark.parametrize("name", SAMPLED)
def test_edge_index_objects(name):
    conv, x, index, weight, sample = sampled_graph(name)
    edge_index = EdgeIndex(index, sparse_size=(25, 25), sort_order="col")
    assert_same(conv(x, edge_index, weight, sample), conv(x, index, weight, sample))


@pytest.mark.parametrize("name", SAMPLED)
def test_the_values_of_a_matrix_are_weights(name):
    conv, x, index, weight, sample = sampled_graph(name, coalesced=True)
    want, (_, alpha) = conv(x, index, weight, sample, return_attention_weights=True)
    adj_t = to_torch_csr_tensor(index.flip(0), weight, size=(25, 25))
    assert_same(conv(x, adj_t, edge_sample=sample), want)
    out, (adj, spread) = conv(x, adj_t, edge_sample=sample, return_attention_weights=True)
    assert_same((out, spread), (want, alpha))
    assert adj.layout == torch.sparse_csr


@pytest.mark.parametrize("name", SAMPLED)
def test_matrices_of_torch_sparse(name):
    pytest.importorskip("torch_sparse")
    conv, x, index, weight, sample = sampled_graph(name)
    want, (_, alpha) = conv(x, index, weight, sample, return_attention_weights=True)
    adj_t = SparseTensor(row=index[1], col=index[0], value=weight, sparse_sizes=(25, 25))
    out, adj = conv(x, adj_t, edge_sample=sample, return_attention_weights=True)
    assert_same((out, adj.storage.value()), (want, alpha))


@pytest.mark.parametrize("name", SAMPLED)
def test_explainers_see_the_edges(name):
    conv, x, index, weight, sample = sampled_graph(name)
    explainer = Explainer(
        conv,
        GNNExplainer(epochs=3),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification", "task_level": "node", "return_type": "raw"
        },
    )  # fmt: skip
    explanation = explainer(x, index, edge_weight=weight, edge_sample=sample)
    assert explanation.edge_mask.shape == weight.shape
    assert explanation.edge_mask.any()


@pytest.mark.parametrize("name", SAMPLED)
def test_the_message_of_a_masked_edge_is_lost(name):
    """What explainers do: without the messages to node 7, its update has nothing to add."""
    conv, x, index, weight, sample = sampled_graph(name)
    want = conv(x, index, weight, sample)
    set_masks(conv, (index[1] != 7).double(), index, apply_sigmoid=False)
    out = conv(x, index, weight, sample)
    others = torch.arange(25) != 7
    assert_same(out[others], want[others])
    nothing = {"DGMN": x[7], "DGMN2": conv.proj.bias if name == "DGMN2" else None}
    assert_same(out[7], nothing.get(name, torch.zeros_like(out[7])))
    assert not torch.allclose(want[7], out[7])
    clear_masks(conv)
    assert_same(conv(x, index, weight, sample), want)


@pytest.mark.parametrize("name", SAMPLED)
def test_sequential_models_pass_weights_and_samples(name):
    conv, x, index, weight, sample = sampled_graph(name)
    arguments = "x, edge_index, edge_weight, edge_sample"
    model = Sequential(arguments, [(conv, f"{arguments} -> x"), nn.ReLU()])
    want = conv(x, index, weight, sample).relu()
    assert torch.equal(model(x, index, weight, sample), want)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED)
def test_compile(name):
    torch._dynamo.reset()
    conv, x, index, weight, sample = sampled_graph(name)
    if name == "Non-local":
        sample = None  # How many samples there are would have to be read from the graph.
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    assert_same(compiled(x, index, weight, sample), conv(x, index, weight, sample))


# --- errors -------------------------------------------------------------------------------------

EDGES = torch.tensor([[0, 1, 2], [0, 0, 1]])
WRONG = [
    ({"edge_weight": torch.ones(2)}, ValueError, r"edge_weight: expected one per edge \[E\] = \[3"),
    ({"edge_weight": torch.ones(3, 1)}, ValueError, r"edge_weight: .*\[3, 1\]"),
    ({"edge_sample": torch.zeros(4).long()}, ValueError, r"edge_sample: expected one per edge"),
    ({"edge_sample": torch.zeros(3)}, TypeError, "edge_sample: expected int32 or int64"),
    ({"edge_sample": torch.tensor([0, 1, 99])}, ValueError, r"edge_sample: .* from 0 to 99"),
    ({"edge_sample": torch.tensor([0, 1, -1])}, ValueError, r"edge_sample: .* from -1 to 1"),
]


@pytest.mark.parametrize(("kwargs", "error", "match"), WRONG)
@pytest.mark.parametrize("name", ["RepGraph", "DGMN", "DGMN2"])
def test_errors_name_what_edges_carry(name, kwargs, error, match):
    conv = dgmn2() if name == "DGMN2" else make(name)
    with pytest.raises(error, match=f"^{match}"):
        conv(torch.ones(3, CHANNELS, dtype=torch.float64), EDGES, **kwargs)


@pytest.mark.parametrize("name", ["RepGraph", "DGMN", "DGMN2"])
@pytest.mark.parametrize("argument", ["edge_weight", "edge_sample"])
def test_a_grid_has_its_own_edges(name, argument):
    conv = dgmn2() if name == "DGMN2" else make(name)
    x = torch.ones(4, CHANNELS, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"^{argument}: expected None"):
        conv(x, Grid([[2, 2]]), **{argument: torch.ones(4)})


def test_dgmn_says_what_is_missing():
    x = torch.ones(3, CHANNELS, dtype=torch.float64)
    message = "^edge_sample: expected the sample of each edge, because not every node has 18 edges"
    with pytest.raises(ValueError, match=message):
        make("DGMN")(x, EDGES)
    # As many edges as there should be, of which one node has too many.
    edges = torch.stack([torch.zeros(54).long(), torch.arange(3).repeat(18)])
    make("DGMN")(x, edges)
    edges[1, 0] = 1
    with pytest.raises(ValueError, match=message):
        make("DGMN")(x, edges)
    with pytest.raises(ValueError, match=r"^x: expected the same nodes as sources and targets"):
        make("DGMN, two steps")((x, x.clone()), Grid([[1, 3]]))


@pytest.mark.parametrize("layer", [partial(RepGraphConv, 4, 4), partial(DGMNConv, 4)])
def test_messages_are_summed(layer):
    with pytest.raises(ValueError, match=r"^aggr: expected 'add' or 'sum', .*got 'mean'"):
        layer(aggr="mean")
    layer(aggr="sum")

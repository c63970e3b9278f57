"""What NonLocalConv and RepGraphConv share: attention over the edges of any given graph."""

import copy

import pytest
import reference
import torch
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.testing import assert_module
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import coalesce, to_torch_coo_tensor, to_torch_csr_tensor

from dyngraph import Grid
from dyngraph.nn.conv import AttentionConv, NonLocalConv, RepGraphConv

LAYERS = [NonLocalConv, RepGraphConv]
NUM_NODES = 8


def random_edges(num_sources=NUM_NODES, num_targets=NUM_NODES, num_edges=20):
    """Coalesced edges in which the last target hears nobody."""
    source = torch.randint(num_sources, (num_edges,))
    target = torch.randint(num_targets - 1, (num_edges,))
    return coalesce(torch.stack([source, target]), sort_by_row=False)


def adjacency_of(edge_index, num_sources=NUM_NODES, num_targets=NUM_NODES):
    adjacency = torch.zeros(num_targets, num_sources, dtype=torch.bool)
    adjacency[edge_index[1], edge_index[0]] = True
    return adjacency


def expected(conv, x, adjacency):
    """The dense equivalent: output ``[N, C]`` and attention ``[G, N, M]``."""
    source, target = (x, x) if isinstance(x, torch.Tensor) else x
    if not conv.project:
        return reference.attention_on_adjacency(target, source, source, adjacency, conv.groups)
    return reference.attention_on_adjacency(
        conv.lin_query(target),
        conv.lin_key(source),
        conv.lin_value(source),
        adjacency,
        conv.groups,
    )


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("hidden_channels", [6, None])
def test_given_edges_equal_dense_attention(layer, groups, hidden_channels):
    x, edge_index = torch.randn(NUM_NODES, 6), random_edges()
    conv = layer(6, hidden_channels, groups=groups)
    out = conv(x, edge_index)
    want, _ = expected(conv, x, adjacency_of(edge_index))
    torch.testing.assert_close(out, want)
    assert torch.equal(out[-1], torch.zeros(6)), "a node without edges receives zeros"


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("groups", [1, 2])
def test_bipartite_graphs(layer, groups):
    x, edge_index = (torch.randn(5, 3), torch.randn(7, 4)), random_edges(5, 7)
    conv = layer((3, 4), 6, groups=groups)
    want, _ = expected(conv, x, adjacency_of(edge_index, 5, 7))
    torch.testing.assert_close(conv(x, edge_index), want)
    assert_module(conv, x, edge_index, expected_size=(7, 6), atol=1e-6)
    # No projections: sources and targets have equally many channels.
    x = (torch.randn(5, 4), torch.randn(7, 4))
    conv = layer(4, None, groups=groups)
    want, _ = expected(conv, x, adjacency_of(edge_index, 5, 7))
    torch.testing.assert_close(conv(x, edge_index), want)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("hidden_channels", [6, None])
def test_layouts_and_orders_of_edges(layer, hidden_channels):
    x, edge_index = torch.randn(NUM_NODES, 6), random_edges()
    # The sum of a node's messages in another order.
    assert_module(
        layer(6, hidden_channels, groups=2), x, edge_index, expected_size=(8, 6), atol=1e-6
    )


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("sort_order", ["row", "col"])
def test_edge_index_object(layer, sort_order):
    x = torch.randn(NUM_NODES, 6)
    edges = coalesce(random_edges(), sort_by_row=sort_order == "row")
    edge_index = EdgeIndex(edges, sparse_size=(NUM_NODES, NUM_NODES), sort_order=sort_order)
    conv = layer(6, 4, groups=2)
    out, (returned, alpha) = conv(x, edge_index, return_attention_weights=True)
    assert returned is edge_index
    torch.testing.assert_close(conv(x, edge_index), conv(x, edges))
    torch.testing.assert_close(out, conv(x, edges))
    torch.testing.assert_close(alpha, conv(x, edges, return_attention_weights=True)[1][1])


@pytest.mark.parametrize("layer", LAYERS)
def test_the_flow_can_be_turned(layer):
    x, edge_index = torch.randn(NUM_NODES, 6), random_edges()
    conv = layer(6, 4)
    turned = layer(6, 4, flow="target_to_source")
    turned.load_state_dict(conv.state_dict())
    torch.testing.assert_close(turned(x, edge_index.flip(0)), conv(x, edge_index))


@pytest.mark.parametrize("layer", LAYERS)
def test_parallel_edges_count_twice(layer):
    conv = layer(3, 2)
    x = torch.randn(3, 3)
    _, (_, alpha) = conv(x, torch.tensor([[0, 0, 1], [2, 2, 2]]), return_attention_weights=True)
    once = conv(x, torch.tensor([[0, 1], [2, 2]]), return_attention_weights=True)[1][1].exp()
    weight = conv(x, torch.tensor([[0, 1], [2, 2]]), return_attention_weights=True)[1][1]
    assert once.shape == weight.shape == (2, 1)
    total = 2 * weight[0] + weight[1]
    torch.testing.assert_close(alpha, torch.stack([weight[0], weight[0], weight[1]]) / total)


@pytest.mark.parametrize("layer", LAYERS)
def test_graphs_without_edges(layer):
    conv = layer(3, 2)
    x = torch.randn(3, 3, requires_grad=True)
    out, (_, alpha) = conv(x, torch.empty(2, 0, dtype=torch.long), return_attention_weights=True)
    assert torch.equal(out, torch.zeros(3, 2))
    assert alpha.shape == (0, 1)
    out.sum().backward()
    assert not x.grad.any()


# --- attention weights --------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("groups", [1, 2])
def test_attention_of_given_edges(layer, groups):
    x, edge_index = torch.randn(NUM_NODES, 6), random_edges()
    conv = layer(6, 4, groups=groups)
    out, (returned, alpha) = conv(x, edge_index, return_attention_weights=True)
    assert returned is edge_index
    assert torch.equal(out, conv(x, edge_index))
    _, want = expected(conv, x, adjacency_of(edge_index))
    torch.testing.assert_close(alpha, want[:, edge_index[1], edge_index[0]].t())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_attention_of_sparse_tensors(layer, groups, layout):
    x, edge_index = torch.randn(NUM_NODES, 6), random_edges()
    to_sparse = {"coo": to_torch_coo_tensor, "csr": to_torch_csr_tensor}[layout]
    adj_t = to_sparse(edge_index.flip(0), size=(NUM_NODES, NUM_NODES))
    conv = layer(6, 4, groups=groups)
    out, (adj, alpha) = conv(x, adj_t, return_attention_weights=True)
    torch.testing.assert_close(out, conv(x, edge_index))
    _, want = expected(conv, x, adjacency_of(edge_index))
    assert adj.layout == adj_t.layout
    values = adj.coalesce().values() if layout == "coo" else adj.values()
    assert torch.equal(values, alpha)
    coo = adj if layout == "coo" else adj_t.to_sparse_coo()
    row, col = coo.coalesce().indices()
    torch.testing.assert_close(alpha, want[:, row, col].t())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("groups", [1, 2])
def test_attention_of_torch_sparse_tensors(layer, groups):
    pytest.importorskip("torch_sparse")
    x, edge_index = torch.randn(NUM_NODES, 6), random_edges()
    adj_t = SparseTensor.from_edge_index(edge_index, sparse_sizes=(NUM_NODES, NUM_NODES)).t()
    conv = layer(6, 4, groups=groups)
    out, adj = conv(x, adj_t, return_attention_weights=True)
    assert isinstance(adj, SparseTensor)
    torch.testing.assert_close(out, conv(x, edge_index))
    row, col, alpha = adj.coo()
    assert alpha.shape == (edge_index.shape[1], groups)
    _, want = expected(conv, x, adjacency_of(edge_index))
    torch.testing.assert_close(alpha, want[:, row, col].t())


# --- conventions of PyG -------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_the_templates_were_used(layer):
    conv = layer(3, 2)
    prefix = f"{layer.__module__}_{layer.__name__}"
    assert conv.propagate.__module__.startswith(f"{prefix}_propagate")
    assert conv.edge_updater.__module__.startswith(f"{prefix}_edge_updater")


@pytest.mark.parametrize("layer", LAYERS)
def test_repr(layer):
    name = layer.__name__
    assert repr(layer(16, 8)) == f"{name}(16, 8)"
    assert repr(layer(16, 8, groups=4)) == f"{name}(16, 8, groups=4)"
    assert repr(layer((3, 4), 8)) == f"{name}((3, 4), 8)"
    assert repr(layer(16, None)) == f"{name}(16, 16)"
    assert repr(layer(-1, 8)) == f"{name}(-1, 8)"


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("graph", ["grid", "edges"])
def test_lazy_channels(layer, graph):
    x = torch.randn(NUM_NODES, 5)
    edge_index = Grid([[2, 4]]) if graph == "grid" else random_edges()
    lazy = layer(-1, 4)
    copied = copy.deepcopy(lazy)
    assert lazy(x, edge_index).shape == (NUM_NODES, 4)
    assert lazy.lin_query.weight.shape == lazy.lin_key.weight.shape == (4, 5)
    assert copied(torch.randn(NUM_NODES, 3), edge_index).shape == (NUM_NODES, 4)
    with pytest.raises(ValueError, match=r"^x: expected node features \[N, 5\]"):
        lazy(torch.randn(NUM_NODES, 3), edge_index)
    # Weights load into a lazy layer, and from one.
    eager = layer(5, 4)
    other = layer(-1, 4)
    if graph == "grid":
        eager.load_state_dict(lazy.state_dict())
        other.load_state_dict(lazy.state_dict())
        assert torch.equal(eager(x, edge_index), lazy(x, edge_index))
        assert torch.equal(other(x, edge_index), lazy(x, edge_index))


@pytest.mark.parametrize("layer", LAYERS)
def test_lazy_bipartite_channels(layer):
    conv = layer((-1, -1), 4)
    x, edge_index = (torch.randn(5, 3), torch.randn(7, 2)), random_edges(5, 7)
    want_shapes = {"query": (4, 2), "key": (4, 3), "value": (4, 3)}
    assert conv(x, edge_index).shape == (7, 4)
    for name, shape in want_shapes.items():
        assert getattr(conv, f"lin_{name}").weight.shape == shape
    assert layer(-1, None)(torch.randn(5, 3), random_edges(5, 5)).shape == (5, 3)


@pytest.mark.parametrize("layer", LAYERS)
def test_state_dict_and_copies(layer):
    grid = Grid([[20, 20]])
    x = torch.randn(400, 5)
    conv, other = layer(5, 4, groups=2), layer(5, 4, groups=2)
    assert not torch.equal(conv(x, grid), other(x, grid))
    copied = copy.deepcopy(conv)
    assert torch.equal(copied(x, grid), conv(x, grid))
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other(x, grid), conv(x, grid))
    with torch.no_grad():
        copied.lin_value.weight.zero_()
    assert conv.lin_value.weight.any(), "a copy shares no weights"


@pytest.mark.parametrize("layer", LAYERS)
def test_reset_parameters(layer):
    conv = layer(5, 4)
    before = {name: p.clone() for name, p in conv.named_parameters()}
    conv.reset_parameters()
    assert {"lin_query.weight", "lin_key.bias", "lin_value.weight"} < set(before)
    for name, parameter in conv.named_parameters():
        if name == "sampler.offset.weight":
            assert not parameter.any()
        else:
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_without_biases_or_projections(layer):
    names = {name for name, _ in layer(5, 4, bias=False).named_parameters()}
    assert {n for n in names if n.startswith("lin")} == {
        "lin_query.weight",
        "lin_key.weight",
        "lin_value.weight",
    }
    assert not any(n.startswith("lin") for n, _ in layer(5, None).named_parameters())


def test_weights_have_the_same_names():
    nonlocal_conv, repgraph_conv = NonLocalConv(5, 4, groups=2), RepGraphConv(5, 4, groups=2)
    missing = repgraph_conv.load_state_dict(nonlocal_conv.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys == ["sampler.offset.weight", "sampler.offset.bias"]
    x, edge_index = torch.randn(NUM_NODES, 5), random_edges()
    assert torch.equal(nonlocal_conv(x, edge_index), repgraph_conv(x, edge_index))


@pytest.mark.parametrize("layer", LAYERS)
def test_explainers_see_the_edges(layer):
    edge_index = random_edges()
    explainer = Explainer(
        layer(6, 2),
        GNNExplainer(epochs=2),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node"},
    )
    data = Data(x=torch.randn(NUM_NODES, 6), edge_index=edge_index)
    mask = explainer(data.x, data.edge_index).edge_mask
    assert mask.shape == (edge_index.shape[1],)
    assert mask.any()


# --- gradients, precision, compilation ----------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("graph", ["grid", "edges"])
def test_gradcheck(layer, graph):
    grid = Grid([[2, 2], [1, 1]])
    edge_index = grid if graph == "grid" else random_edges(5, 5, 8)
    kwargs = {"num_samples": 2} if layer is RepGraphConv else {}
    conv = layer(3, 2, groups=2, **kwargs).double()
    if layer is RepGraphConv:
        # Samples that move with the features, but stay away from integers.
        with torch.no_grad():
            conv.sampler.offset.weight.uniform_(-0.02, 0.02)
            conv.sampler.offset.bias.copy_(torch.tensor([0.4, -0.6, 0.5, 0.3]))
    names = [name for name, _ in conv.named_parameters()]
    if graph == "edges":
        names = [name for name in names if name.startswith("lin")]
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    parameters = [conv.get_parameter(name) for name in names]

    def output(x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(conv, given, (x, edge_index))

    assert torch.autograd.gradcheck(output, (x, *parameters))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("graph", ["grid", "edges"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(layer, graph, dtype):
    grid = Grid([[2, 4]])
    edge_index = grid if graph == "grid" else random_edges()
    conv = layer(6, 8, groups=2)
    x = torch.randn(NUM_NODES, 6, requires_grad=True)
    full = conv(x, edge_index)
    (full_grad,) = torch.autograd.grad(full.sum(), x)
    with torch.autocast("cpu", dtype=dtype):
        half = conv(x, edge_index)
        (half_grad,) = torch.autograd.grad(half.sum(), x)
    assert half_grad.dtype == torch.float32
    # Queries, keys, values and the output are rounded, each to half an ulp of its size, about 1.
    atol = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(half.float(), full, atol=atol, rtol=0)
    torch.testing.assert_close(half_grad, full_grad, atol=4 * atol, rtol=0)


@pytest.mark.parametrize("layer", LAYERS)
def test_half_layers(layer):
    grid = Grid([[2, 4], [1, 3]])
    conv = layer(6, 8).bfloat16()
    x = torch.randn(grid.num_nodes, 6, dtype=torch.bfloat16)
    out = conv(x, grid)
    assert out.dtype == torch.bfloat16
    want = conv.float()(x.float(), grid)
    torch.testing.assert_close(out.float(), want, atol=4 * 2**-7, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("graph", ["grid", "edges"])
def test_compile(layer, graph):
    torch._dynamo.reset()
    conv = layer(6, 4, groups=2)
    compiled = torch.compile(conv, fullgraph=True, dynamic=True)
    for sizes, num_edges in ([[3, 4], [3, 4]], 60), ([[2, 3], [5, 2]], 31):
        grid = Grid(sizes)
        n = grid.num_nodes
        edge_index = grid if graph == "grid" else random_edges(n, n, num_edges)
        results = []
        for function in (conv, compiled):
            x = torch.randn(n, 6, generator=torch.Generator().manual_seed(2)).requires_grad_()
            out = function(x, edge_index)
            parameters = [p for p in conv.parameters() if p.requires_grad]
            grads = torch.autograd.grad(out.square().sum(), [x, *parameters], allow_unused=True)
            results.append((out, [g for g in grads if g is not None]))
        assert len(results[0][1]) == 7 + 2 * (layer is RepGraphConv and graph == "grid")
        # Fused kernels sum in another order; weight gradients sum over all nodes.
        torch.testing.assert_close(results[1], results[0], atol=2e-6, rtol=2e-5)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda layer: layer(6, 4, groups=3), "groups"),
        (lambda layer: layer(6, None, groups=4), "groups"),
        (lambda layer: layer(6, 4, groups=0), "groups"),
        (lambda layer: layer((3, 4), None), "in_channels"),
        (lambda layer: layer(-1, None, groups=4)(torch.ones(4, 6), Grid([[2, 2]])), "groups"),
    ],
)
def test_constructor_errors_name_the_argument(layer, make, match):
    with pytest.raises(ValueError, match=f"^{match}: "):
        make(layer)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("x", "edge_index", "error", "match"),
    [
        (torch.ones(4, 5), Grid([[2, 2]]), ValueError, r"x: expected node features \[N, 3\]"),
        (torch.ones(4, 5), torch.ones(2, 1).long(), ValueError, r"x: .* \[N, 3\]"),
        (torch.ones(3), Grid([[1, 1]]), ValueError, "x: "),
        ((torch.ones(4, 3), torch.ones(4, 5)), torch.ones(2, 1).long(), ValueError, "x: "),
        (torch.ones(5, 3), Grid([[2, 2]]), ValueError, "x: expected a row for each of the 4 nodes"),
        ((torch.ones(4, 3), torch.ones(5, 3)), Grid([[2, 2]]), ValueError, "x: expected a row"),
        (torch.ones(4, 3), torch.tensor([[4], [0]]), ValueError, r"edge_index: .*source .*\[0, 4"),
        (torch.ones(4, 3), torch.tensor([[-1], [0]]), ValueError, "edge_index: .*source"),
        (torch.ones(4, 3), torch.tensor([[0], [4]]), ValueError, "edge_index: .*target"),
        (torch.ones(4, 3), torch.tensor([[0], [-1]]), ValueError, "edge_index: .*target"),
        ((torch.ones(2, 3), torch.ones(4, 3)), torch.tensor([[3], [0]]), ValueError, "edge_index:"),
        (torch.ones(4, 3), torch.ones(3, 2).long(), ValueError, r"edge_index: .*\[2, E\]"),
        (torch.ones(4, 3), torch.ones(2, 2), ValueError, "Expected 'edge_index'"),
        (torch.ones(4, 3), [[0], [1]], TypeError, "edge_index: "),
        (torch.ones(4, 3), None, TypeError, "edge_index: "),
        ([[1.0, 2.0, 3.0]], Grid([[1, 1]]), TypeError, "x: "),
        ((torch.ones(4, 3), None), torch.ones(2, 1).long(), TypeError, "x: "),
    ],
)
def test_forward_errors_name_the_argument(layer, x, edge_index, error, match):
    with pytest.raises(error, match=f"^{match}"):
        layer(3, 2)(x, edge_index)


def test_attention_without_a_choice_of_samples_is_abstract():
    with pytest.raises(TypeError, match=r"abstract class AttentionConv .*'?attend'?"):
        AttentionConv(4, 4)

import copy

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch_geometric.data import Data
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.testing import assert_module
from torch_geometric.utils import coalesce, to_torch_csr_tensor

from dyngraph import Grid
from dyngraph.nn import DGMN2Conv
from dyngraph.ops import use_backend
from dyngraph.samplers import DilatedSampler

BACKENDS = ["torch", "pyg"]
SIZES = reference.MIXED_SIZES[2]


def trained(conv):
    """The layer with walks and biases as after some training."""
    nn.init.normal_(conv.conv_offset.weight, std=0.5)
    if conv.conv_offset.bias is not None:
        nn.init.normal_(conv.conv_offset.bias, std=0.5)
        nn.init.normal_(conv.qkv.bias)
    nn.init.normal_(conv.qkv.weight, std=0.5)
    return conv


def dense(conv, x, grid):
    """Head by head: its own samples, and its attention over them."""
    channels = x.shape[1] // conv.heads
    query, key, value = (x @ conv.qkv.weight.t() + conv.qkv.bias).chunk(3, dim=1)
    parts = []
    for head in range(conv.heads):
        own = slice(head * channels, (head + 1) * channels)
        near = conv.conv_offset(x[:, own], grid)
        bias = conv.pos_emb(query[:, own].unsqueeze(1), grid)
        out, _ = reference.sampled_attention(
            query[:, own], key[:, own], value[:, own], near, scale=channels**-0.5, bias=bias
        )
        parts.append(out)
    return torch.cat(parts, dim=1) @ conv.proj.weight.t() + conv.proj.bias


# --- on grids -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("sizes", [SIZES, [[3, 3]] * 2, [[1, 1]]])
def test_a_grid_equals_the_formula(sizes, heads, backend):
    grid = Grid(sizes)
    x = torch.randn(grid.num_nodes, 12, dtype=torch.float64, requires_grad=True)
    conv = trained(DGMN2Conv(12, heads, (3, 4), backend=backend)).double()
    outs = [conv(x, grid), dense(conv, x, grid)]
    torch.testing.assert_close(*outs)
    cotangent = torch.randn_like(x)
    leaves = [x, *conv.parameters()]
    got, want = (torch.autograd.grad(out, leaves, cotangent) for out in outs)
    torch.testing.assert_close(got, want)


@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 6)).map(list), min_size=1, max_size=4
    ),
    heads=st.integers(1, 4),
    channels=st.integers(1, 5),
    map_size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_maps_of_any_sizes_equal_each_alone(sizes, heads, channels, map_size):
    torch.manual_seed(0)
    grid = Grid(sizes)
    conv = trained(DGMN2Conv(heads * channels, heads, map_size)).double()
    x = torch.randn(grid.num_nodes, heads * channels, dtype=torch.float64)
    parts = x.split(grid.ptr.diff().tolist())
    alone = [conv(part, Grid([size])) for part, size in zip(parts, sizes, strict=True)]
    out = conv(x, grid)
    assert out.shape == x.shape
    torch.testing.assert_close(out, torch.cat(alone))
    with use_backend("pyg"):
        torch.testing.assert_close(conv(x, grid), out)


def test_heads_listen_at_positions_of_their_own():
    grid = Grid([[4, 5], [2, 3]])
    x = torch.randn(26, 6)
    conv = trained(DGMN2Conv(6, 2))
    out, near, alpha = conv.sample(x, grid)
    assert (out.shape, alpha.shape) == ((26, 6), (26, 2, 9))
    assert near.grid == grid
    for head, part in enumerate(near.pos.unbind(1)):
        own = x[:, 3 * head : 3 * head + 3]
        torch.testing.assert_close(part, conv.conv_offset(own, grid).pos)
    assert not torch.equal(*near.pos.unbind(1))
    torch.testing.assert_close(conv.proj(out), conv(x, grid))


def test_attention_weights_rebuild_the_output():
    grid = Grid(SIZES)
    x = torch.randn(grid.num_nodes, 6)
    conv = trained(DGMN2Conv(6, 3))
    out, (edge_index, alpha) = conv(x, grid, return_attention_weights=True)
    torch.testing.assert_close(out, conv(x, grid))
    assert edge_index.max() < grid.num_nodes
    assert alpha.shape == (edge_index.shape[1], 3)
    _, _, value = conv.queries_keys_values((x, x))
    message = alpha.unsqueeze(-1) * value[edge_index[0]].unflatten(1, (3, -1))
    rebuilt = torch.zeros(grid.num_nodes, 6).index_add(0, edge_index[1], message.flatten(1))
    torch.testing.assert_close(conv.proj(rebuilt), out, atol=1e-6, rtol=1e-5)


def test_targets_choose_the_samples():
    grid = Grid([[3, 3]])
    x = torch.randn(9, 4), torch.randn(9, 4)
    conv = trained(DGMN2Conv(4, 2))
    out, near, _ = conv.sample(x, grid)
    assert torch.equal(near.pos, conv.sample(x[1], grid)[1].pos)
    assert not torch.equal(out, conv.sample(x[1], grid)[0])
    same = x[1].clone(), x[1]
    torch.testing.assert_close(conv(same, grid), conv(x[1], grid))


def test_another_sampler():
    grid = Grid([[4, 5]])
    x = torch.randn(20, 4, dtype=torch.float64)
    conv = DGMN2Conv(4, 2, sampler=DilatedSampler((2,), kernel_size=5)).double()
    assert conv.pos_emb.num_samples == 25
    torch.testing.assert_close(conv(x, grid), dense(conv, x, grid))


def test_gradcheck():
    grid = Grid([[3, 2], [1, 2]])
    conv = DGMN2Conv(4, 2, (3, 3)).double()
    with torch.no_grad():
        # Samples that move with the features, but stay away from integers.
        conv.conv_offset.weight.uniform_(-0.02, 0.02)
        conv.conv_offset.bias.uniform_(0.3, 0.6)
        nn.init.normal_(conv.qkv.weight, std=0.5)
    names, parameters = zip(*conv.named_parameters(), strict=True)
    x = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)

    def output(x, *parameters):
        weights = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(conv, weights, (x, grid))

    assert torch.autograd.gradcheck(output, (x, *parameters))


def test_all_parameters_learn():
    conv = DGMN2Conv(4, 2)
    conv(torch.randn(20, 4), Grid([[4, 5]])).square().sum().backward()
    assert not {name for name, p in conv.named_parameters() if p.grad is None or not p.grad.any()}


def test_a_position_that_is_not_finite_is_noticed():
    conv = DGMN2Conv(4, 2)
    x = torch.randn(20, 4)
    with torch.no_grad():
        conv.conv_offset.weight[0] = torch.inf
    assert conv(x, Grid([[4, 5]])).isnan().all()


def test_no_maps():
    conv = DGMN2Conv(4, 2)
    x = torch.randn(0, 4, requires_grad=True)
    out, (edge_index, alpha) = conv(
        x, Grid.of(torch.randn(0, 4, 3, 3)), return_attention_weights=True
    )
    assert (out.shape, edge_index.shape, alpha.shape) == ((0, 4), (2, 0), (0, 2))
    out.sum().backward()
    assert x.grad.shape == (0, 4)


# --- on given edges -----------------------------------------------------------------------------


def random_edges():
    """Coalesced edges in which the last node hears nobody."""
    edges = torch.stack([torch.randint(8, (20,)), torch.randint(7, (20,))])
    return coalesce(edges, sort_by_row=False)


def test_given_edges_equal_dense_attention():
    x, edge_index = torch.randn(8, 6), random_edges()
    conv = trained(DGMN2Conv(6, 2))
    adjacency = torch.zeros(8, 8, dtype=torch.bool)
    adjacency[edge_index[1], edge_index[0]] = True
    query, key, value = conv.qkv(x).chunk(3, dim=1)
    want, _ = reference.attention_on_adjacency(query / 3**0.5, key, value, adjacency, 2)
    out, (returned, alpha) = conv(x, edge_index, return_attention_weights=True)
    torch.testing.assert_close(out, conv.proj(want))
    torch.testing.assert_close(out, conv(x, edge_index))
    assert returned is edge_index
    assert alpha.shape == (edge_index.shape[1], 2)
    adj_t = to_torch_csr_tensor(edge_index.flip(0), size=(8, 8))
    torch.testing.assert_close(conv(x, adj_t), out)


def test_layouts_and_orders_of_edges():
    x, edge_index = torch.randn(8, 6), random_edges()
    assert_module(DGMN2Conv(6, 2), x, edge_index, expected_size=(8, 6), atol=1e-6)


def test_samples_on_nodes_are_given_edges():
    """Without relative positions, all samples on nodes of the map: every sample is one edge."""
    grid = Grid([[5, 5]])
    x = torch.randn(25, 4)
    conv = DGMN2Conv(4, 2, sampler=DilatedSampler())
    nn.init.zeros_(conv.pos_emb.rel_height)
    nn.init.zeros_(conv.pos_emb.rel_width)
    edge_index, weight = conv.conv_offset(x, grid).edge_index()
    inner = ((grid.pos > 0) & (grid.pos < 4)).all(dim=1)
    edge_index = edge_index[:, (weight == 1) & inner[edge_index[1]]]
    torch.testing.assert_close(conv(x, edge_index)[inner], conv(x, grid)[inner])


def test_explainers_see_the_edges():
    x, edge_index = torch.randn(8, 6), random_edges()
    explainer = Explainer(
        DGMN2Conv(6, 2),
        GNNExplainer(epochs=2),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification", "task_level": "node", "return_type": "raw"
        },
    )  # fmt: skip
    explanation = explainer(Data(x=x, edge_index=edge_index).x, edge_index)
    assert explanation.edge_mask.shape == (edge_index.shape[1],)


# --- conventions --------------------------------------------------------------------------------


def test_the_templates_were_used():
    conv = DGMN2Conv(4, 2)
    prefix = f"{DGMN2Conv.__module__}_DGMN2Conv"
    assert conv.propagate.__module__.startswith(f"{prefix}_propagate")
    assert conv.edge_updater.__module__.startswith(f"{prefix}_edge_updater")


def test_parameters():
    conv = trained(DGMN2Conv(6, 2))
    assert {name: p.shape for name, p in conv.named_parameters()} == {
        "qkv.weight": (18, 6),
        "qkv.bias": (18,),
        "proj.weight": (6, 6),
        "proj.bias": (6,),
        "conv_offset.weight": (18, 3),
        "conv_offset.bias": (18,),
        "pos_emb.rel_height": (64, 3),
        "pos_emb.rel_width": (64, 3),
    }
    assert {name for name, _ in DGMN2Conv(6, 2, bias=False).named_parameters()} == {
        "qkv.weight", "proj.weight", "proj.bias", "conv_offset.weight",
        "pos_emb.rel_height", "pos_emb.rel_width",
    }  # fmt: skip
    before = copy.deepcopy(conv.state_dict())
    conv.reset_parameters()
    for name, tensor in conv.state_dict().items():
        if name.endswith("bias"):
            assert not tensor.any()
        else:
            assert not torch.equal(tensor, before[name]) or name == "proj.bias", name


def test_state_dict_and_copies():
    conv, other = trained(DGMN2Conv(6, 2)), DGMN2Conv(6, 2)
    x, grid = torch.randn(20, 6), Grid([[4, 5]])
    want = conv(x, grid)
    copied = copy.deepcopy(conv)
    assert torch.equal(copied(x, grid), want)
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other(x, grid), want)


def test_repr():
    assert repr(DGMN2Conv(6, 2)) == "DGMN2Conv(6, heads=2)"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    conv = DGMN2Conv(8, 2)
    x, grid = torch.randn(20, 8), Grid([[4, 5]])
    full, near, _ = conv.sample(x, grid)
    with torch.autocast("cpu", dtype=dtype):
        half, half_near, _ = conv.sample(x, grid)
    assert torch.equal(half_near.pos, near.pos)
    atol = 6 * torch.finfo(dtype).eps
    torch.testing.assert_close(half.float(), full, atol=atol, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backend_of_the_layer_is_used(backend):
    grid = Grid([[3, 4]])
    x = torch.randn(12, 4, requires_grad=True)
    conv = DGMN2Conv(4, backend=backend)
    other = DGMN2Conv(4)
    with use_backend("pyg" if backend == "torch" else "torch"):
        named, differing = (type(c.sample(x, grid)[2].grad_fn) for c in (conv, other))
    with use_backend(backend):
        assert type(other.sample(x, grid)[2].grad_fn) is named is not differing


def test_errors_name_the_argument():
    for channels, heads in ((6, 4), (6, 0)):
        with pytest.raises(ValueError, match=r"^heads: expected a divisor of"):
            DGMN2Conv(channels, heads)
    with pytest.raises(ValueError, match=r"^map_size: "):
        DGMN2Conv(6, 2, (0, 4))
    conv = DGMN2Conv(4)
    with pytest.raises(ValueError, match=r"^grid: expected 2 spatial axes, got 3"):
        conv(torch.randn(8, 4), Grid([[2, 2, 2]]))
    with pytest.raises(ValueError, match=r"^x: expected node features \[N, 4\]"):
        conv(torch.randn(4, 5), Grid([[2, 2]]))
    with pytest.raises(ValueError, match=r"^x: expected a row for each of the 4 nodes"):
        conv(torch.randn(5, 4), Grid([[2, 2]]))
    with pytest.raises(TypeError, match=r"^edge_index: "):
        conv(torch.randn(5, 4), None)
    with pytest.raises(ValueError, match=r"^edge_index: expected source nodes"):
        conv(torch.randn(5, 4), torch.tensor([[5], [0]]))
    with pytest.raises(ValueError, match=r"^backend: "):
        DGMN2Conv(4, backend="fast")(torch.randn(4, 4), Grid([[2, 2]]))

import copy
import pickle

import pytest
import reference
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch_geometric import transforms as T
from torch_geometric.data import Batch
from torch_geometric.loader import NeighborLoader
from torch_geometric.utils import coalesce, from_networkx, to_networkx

from dyngraph import Edges, Grid, Neighborhood
from dyngraph.multilinear import _axis_corners
from dyngraph.nn import RepGraphConv
from dyngraph.ops import interpolate, sampled_attention, scatter_interpolate

BACKENDS = ["torch", "pyg"]


def dense_corners(near):
    """Corner weights scattered into ``[N, K, M]``."""
    index, weight = reference.corners(near)
    dense = torch.zeros(*index.shape[:2], near.grid.num_nodes, dtype=weight.dtype)
    return dense.scatter_add(2, index, weight)


def test_corners_of_one_sample():
    near = Neighborhood(Grid([[3, 4]]), torch.tensor([1.25, 2.5]).expand(12, 1, 2))
    assert reference.corners(near)[0][0, 0].tolist() == [6, 7, 10, 11]
    assert reference.corners(near)[1][0, 0].tolist() == [0.375, 0.375, 0.125, 0.125]
    assert repr(near) == "Neighborhood(Grid([(3, 4)]), num_samples=1)"


def test_a_neighborhood_is_a_value():
    near = Neighborhood(Grid([[3, 4]]), torch.zeros(12, 1, 2))
    for name in ("grid", "receiver", "pos", "padding_mode", "anything"):
        with pytest.raises(AttributeError):
            setattr(near, name, None)
    near.corners()
    assert set(vars(near)) == {"grid", "receiver", "pos", "padding_mode", "levels"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_corners_equal_the_formula(num_axes, padding_mode, dtype):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    near = Neighborhood(
        grid, reference.random_positions(grid, 6, dtype=dtype), padding_mode=padding_mode
    )
    assert near.num_samples == 6
    assert (
        near.corners().index.shape
        == near.corners().weight.shape
        == (grid.num_nodes, 1, 2**num_axes, 6)
    )
    assert near.corners().weight.dtype == dtype
    torch.testing.assert_close(dense_corners(near), reference.interpolation_matrix(near))
    assert (near.corners().weight == 0).any(), "no sample reaches over the border"


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_receivers_on_another_grid(num_axes, padding_mode):
    sender = Grid(reference.SENDER_SIZES[num_axes])
    receiver = Grid(reference.MIXED_SIZES[num_axes])
    pos = reference.random_positions(sender, 4, receiver)
    near = Neighborhood(sender, pos, padding_mode=padding_mode, receiver=receiver)
    assert near.corners().index.shape == (receiver.num_nodes, 1, 2**num_axes, 4)
    torch.testing.assert_close(dense_corners(near), reference.interpolation_matrix(near))
    x = torch.randn(sender.num_nodes, 3)
    torch.testing.assert_close(interpolate(x, near), reference.interpolate(x, near))


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_samples_never_cross_images(num_axes):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    pos = reference.random_positions(grid, 8, reach=4.0)
    for padding_mode in ("zeros", "border"):
        (source, target), _ = Neighborhood(grid, pos, padding_mode=padding_mode).edge_index()
        assert torch.equal(grid.batch[source], grid.batch[target])


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_edges_are_ordered_by_node_sample_and_corner(num_axes):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    near = Neighborhood(grid, reference.random_positions(grid, 3))
    edges = near.edges()
    num_edges = grid.num_nodes * 3 * 2**num_axes
    assert isinstance(edges, Edges)
    assert edges.index.shape == (2, num_edges)
    assert edges.weight.shape == edges.sample.shape == (num_edges,)
    assert edges.index.dtype == edges.sample.dtype == torch.int64
    edge = 0
    for node in range(grid.num_nodes):
        for sample in range(3):
            for corner in range(2**num_axes):
                assert edges.index[1, edge] == node
                assert edges.index[0, edge] == reference.corners(near)[0][node, sample, corner]
                assert edges.weight[edge] == reference.corners(near)[1][node, sample, corner]
                assert edges.sample[edge] == sample
                edge += 1
    index, weight = near.edge_index()
    assert torch.equal(index, edges.index)
    assert torch.equal(weight, edges.weight)


# --- the graph in PyG's tools -------------------------------------------------------------------


def sampled_graph(num_samples=2):
    grid = Grid([[3, 4], [2, 2]])
    near = Neighborhood(grid, reference.random_positions(grid, num_samples))
    return near, near.to_graph(torch.randn(16, 5))


def test_a_graph_of_the_samples():
    near, graph = sampled_graph()
    assert graph.validate()
    assert graph.num_nodes == 16
    assert graph.num_edges == 16 * 2 * 4
    for name, part in zip(("edge_index", "edge_weight", "edge_sample"), near.edges(), strict=True):
        assert torch.equal(graph[name], part)
        assert graph.is_edge_attr(name)
    assert torch.equal(graph.pos, near.grid.pos)
    assert torch.equal(graph.batch, near.grid.batch)
    # Interpolation, by nothing but the graph.
    x = torch.zeros(16 * 2, 5)
    at = graph.edge_index[1] * 2 + graph.edge_sample
    x.index_add_(0, at, graph.edge_weight.unsqueeze(1) * graph.x[graph.edge_index[0]])
    torch.testing.assert_close(x.view(16, 2, 5), interpolate(graph.x, near))


def test_pygs_tools_take_the_graph():
    _, graph = sampled_graph()
    # Each of PyG's functions keeps what an edge carries beside the edge.
    want = {
        (int(j), int(i), int(k)): float(w)
        for (j, i), w, k in zip(
            graph.edge_index.t(), graph.edge_weight, graph.edge_sample, strict=True
        )
        if w != 0
    }

    drawn = to_networkx(graph, edge_attrs=["edge_weight", "edge_sample"], to_multi=True)
    assert drawn.number_of_edges() == graph.num_edges
    got = {
        (j, i, edge["edge_sample"]): edge["edge_weight"]
        for j, i, edge in drawn.edges(data=True)
        if edge["edge_weight"] != 0
    }
    assert got == pytest.approx(want)

    again = from_networkx(drawn)
    assert again.num_edges == graph.num_edges

    moved = T.Compose([T.ToUndirected(reduce="max"), T.AddSelfLoops("edge_weight")])(graph.clone())
    assert moved.is_undirected()

    part = graph.subgraph(graph.batch == 1)
    assert part.num_nodes == 4
    inside = graph.batch[graph.edge_index[1]] == 1
    assert torch.equal(part.edge_weight, graph.edge_weight[inside])
    assert torch.equal(part.edge_sample, graph.edge_sample[inside])

    both = Batch.from_data_list([part, part])
    assert torch.equal(both.edge_sample, part.edge_sample.repeat(2))


def test_the_neighbor_loader_takes_the_graph():
    pytest.importorskip("torch_sparse")
    near, graph = sampled_graph()
    loader = NeighborLoader(graph, num_neighbors=[-1], batch_size=5, input_nodes=graph.batch == 0)
    conv = RepGraphConv(5, 3, num_samples=2)
    want = conv(graph.x, *near.edges())
    seen = 0
    for batch in loader:
        out = conv(batch.x, batch.edge_index, batch.edge_weight, batch.edge_sample)
        seeds = batch.n_id[: batch.batch_size]
        torch.testing.assert_close(out[: batch.batch_size], want[seeds])
        seen += batch.batch_size
    assert seen == 12


def test_a_graph_has_senders_that_listen():
    sender, receiver = Grid([[2, 2]]), Grid([[1, 3]])
    near = Neighborhood(sender, torch.zeros(3, 1, 2), receiver=receiver)
    with pytest.raises(ValueError, match=r"^receiver: expected the senders' grid"):
        near.to_graph(torch.zeros(4, 2))
    near = Neighborhood(sender, torch.zeros(4, 1, 2))
    with pytest.raises(ValueError, match=r"^x: expected node features \[4, C\]"):
        near.to_graph(torch.zeros(3, 2))


# --- groups with samples of their own, and several neighborhoods --------------------------------


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_samples_of_groups(num_axes, padding_mode):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    parts = [
        Neighborhood(grid, reference.random_positions(grid, 3), padding_mode=padding_mode)
        for _ in "ab"
    ]
    near = Neighborhood(
        grid, torch.stack([part.pos for part in parts], dim=1), padding_mode=padding_mode
    )
    assert (near.num_samples, near.num_groups, parts[0].num_groups) == (3, 2, None)
    # Sample k of group g is number 3 g + k.
    for group, part in enumerate(parts):
        mine = near.edges().sample // 3 == group
        assert torch.equal(near.edges().index[:, mine], part.edges().index)
        assert torch.equal(near.edges().weight[mine], part.edges().weight)
        assert torch.equal(near.edges().sample[mine] % 3, part.edges().sample)
    alpha = torch.randn(grid.num_nodes, 2, 3)
    spread = near.corner_alpha(alpha)
    for group, part in enumerate(parts):
        mine = near.edges().sample // 3 == group
        want = part.corner_alpha(alpha[:, group : group + 1])
        torch.testing.assert_close(spread[mine, group], want[:, 0])
        assert not spread[mine, 1 - group].any()


def test_neighborhoods_side_by_side():
    grid = Grid([[3, 4], [2, 2]])
    first, second = (Neighborhood(grid, reference.random_positions(grid, k)) for k in (2, 3))
    near = Neighborhood.cat([first, second])
    assert torch.equal(near.pos, torch.cat([first.pos, second.pos], dim=1))
    second_edges = near.edges().sample >= 2
    assert torch.equal(near.edges().index[:, second_edges], second.edges().index)
    with pytest.raises(ValueError, match=r"^parts: expected at least one"):
        Neighborhood.cat([])
    for other in (
        Neighborhood(grid, second.pos, padding_mode="border"),
        Neighborhood(Grid([[2, 2], [3, 4]]), second.pos),
    ):
        with pytest.raises(ValueError, match=r"^parts: expected the grids and padding of"):
            Neighborhood.cat([first, other])


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_weights_inside_the_map_sum_to_one(num_axes):
    grid = Grid([[4] * num_axes, [3] * num_axes])
    length = grid.sizes[grid.batch].unsqueeze(1)
    pos = torch.rand(grid.num_nodes, 5, num_axes) * (length - 1)
    near = Neighborhood(grid, pos)
    # 1 - f and f are each rounded once along every axis.
    torch.testing.assert_close(
        reference.corners(near)[1].sum(dim=-1), torch.ones(pos.shape[:2]), atol=1e-6, rtol=0
    )
    _, weight = near.edge_index()
    assert (weight >= 0).all()


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_adjacency_times_features_is_the_sum_of_samples(num_axes):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    near = Neighborhood(grid, reference.random_positions(grid, 4))
    x = torch.randn(grid.num_nodes, 3)
    edge_index, weight = near.edge_index()
    adjacency = torch.zeros(grid.num_nodes, grid.num_nodes)
    adjacency.index_put_((edge_index[1], edge_index[0]), weight, accumulate=True)
    torch.testing.assert_close(adjacency @ x, interpolate(x, near).sum(dim=1))
    merged, merged_weight = coalesce(edge_index, weight, grid.num_nodes, reduce="sum")
    assert merged.shape[1] < edge_index.shape[1], "no two samples share a corner"
    dense = torch.zeros_like(adjacency)
    dense[merged[1], merged[0]] = merged_weight
    torch.testing.assert_close(dense, adjacency)


def test_samples_at_nodes_are_the_nodes():
    grid = Grid([[3, 4], [2, 2]])
    x = torch.randn(grid.num_nodes, 5)
    for padding_mode in ("zeros", "border"):
        near = Neighborhood(grid, grid.pos.unsqueeze(1), padding_mode=padding_mode)
        assert torch.equal(interpolate(x, near).squeeze(1), x)


def test_border_repeats_the_edge_of_the_map():
    grid = Grid([[3]])
    pos = torch.tensor([[-7.0, -0.5, 2.5, 1e30]]).t().expand(3, 4, 1)
    out = interpolate(
        torch.tensor([[1.0], [2.0], [4.0]]), Neighborhood(grid, pos, padding_mode="border")
    )
    assert out[0].flatten().tolist() == [1, 1, 4, 4]
    near = Neighborhood(grid, pos, padding_mode="zeros")
    assert interpolate(torch.tensor([[1.0], [2.0], [4.0]]), near)[0].flatten().tolist() == [
        0,
        0.5,
        2,
        0,
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_position_is_nan_in_its_node_alone(bad, num_axes, padding_mode, backend):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    pos = reference.random_positions(grid, 3)
    clean = Neighborhood(grid, pos, padding_mode=padding_mode)
    pos = pos.clone()
    # The other coordinates are far outside, where weights are zero: 0 * NaN has to stay NaN.
    pos[4, 1] = -50.0
    pos[4, 1, -1] = bad
    near = Neighborhood(grid, pos, padding_mode=padding_mode)
    assert near.corners().index.min() >= 0
    assert near.corners().index.max() < grid.num_nodes
    x = torch.randn(grid.num_nodes, 4)
    others = torch.arange(grid.num_nodes) != 4
    for run in (
        lambda near: interpolate(x, near, backend=backend).flatten(1),
        lambda near: sampled_attention(x, x, x, near, 2, backend=backend),
    ):
        out = run(near)
        assert out[4].isnan().any(dim=-1)
        assert torch.equal(out[others], run(clean)[others])
    assert interpolate(x, near, backend=backend)[4, 1].isnan().all()
    assert sampled_attention(x, x, x, near, 2, backend=backend)[4].isnan().all()


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_index_of_any_coordinate_is_a_node(dtype, padding_mode):
    """What a cast of NaN or of a far number to an integer gives is not defined."""
    p = torch.tensor(
        [torch.nan, torch.finfo(dtype).max, torch.finfo(dtype).min, -0.5, 2.5], dtype=dtype
    )
    for index, *_ in _axis_corners(p, 3, padding_mode == "border"):
        assert index.min() >= 0
        assert index.max() <= 2


@pytest.mark.parametrize("far", [1e30, -1e30, 3e38, -(2.0**31), 2.0**63, 2.0**24])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_far_positions_contribute_zero(num_axes, far):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    x = torch.randn(grid.num_nodes, 4)
    for axis in range(num_axes):
        pos = grid.pos.unsqueeze(1).clone()
        pos[:, :, axis] = far
        pos.requires_grad_()
        near = Neighborhood(grid, pos)
        assert near.corners().index.min() >= 0
        assert near.corners().index.max() < grid.num_nodes
        out = interpolate(x, near)
        assert torch.equal(out, torch.zeros_like(out))
        out.sum().backward()
        assert torch.equal(pos.grad, torch.zeros_like(pos))
        border = Neighborhood(grid, pos.detach(), padding_mode="border")
        last = (grid.sizes[grid.batch][:, axis] - 1) * (far > 0)
        clamped = grid.pos.unsqueeze(1).clone()
        clamped[:, 0, axis] = last.float()
        assert torch.equal(interpolate(x, border), interpolate(x, Neighborhood(grid, clamped)))


def test_positions_get_the_gradient_of_the_formula():
    grid = Grid(reference.MIXED_SIZES[2])
    pos = reference.random_positions(grid, 3, dtype=torch.float64).requires_grad_()
    for padding_mode in ("zeros", "border"):
        near = Neighborhood(grid, pos, padding_mode=padding_mode)
        upstream = torch.randn(grid.num_nodes, 3, grid.num_nodes, dtype=torch.float64)
        got = torch.autograd.grad((dense_corners(near) * upstream).sum(), pos)
        want = torch.autograd.grad((reference.interpolation_matrix(near) * upstream).sum(), pos)
        torch.testing.assert_close(got, want)


# --- a value -------------------------------------------------------------------------------------


def test_features_get_gradients_after_an_inference():
    grid = Grid([[3, 4]])
    near = Neighborhood(grid, reference.random_positions(grid, 3))
    x = torch.randn(12, 2, requires_grad=True)
    with torch.inference_mode():
        interpolate(x, near)
    interpolate(x, near).sum().backward()
    assert x.grad.any()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_on_their_own(duplicate):
    grid = Grid(reference.MIXED_SIZES[2])
    near = Neighborhood(grid, reference.random_positions(grid, 3).requires_grad_())
    other = duplicate(near)
    for found in (near, other):
        found.corners().weight.square().sum().backward()
    assert other.pos is not near.pos
    assert torch.equal(other.pos.grad, near.pos.grad)
    assert torch.equal(other.corners().index, near.corners().index)


class Fixed(torch.nn.Module):
    """Samples that are the same for all inputs."""

    def __init__(self, near):
        super().__init__()
        self.near = near

    def forward(self, x):
        return interpolate(x, self.near) * interpolate(x, self.near)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
def test_a_program_takes_a_neighborhood_from_outside(strict):
    grid = Grid([[3, 4]])
    layer = Fixed(Neighborhood(grid, reference.random_positions(grid, 3)))
    x = torch.randn(12, 2)
    programs = [
        torch.export.export(layer, (x,), strict=strict).module(),
        torch.export.export(layer, (x,), strict=strict).module(),
        torch.compile(layer, fullgraph=True, backend="aot_eager"),
    ]
    out = [program(x) for program in programs]
    for result in out:
        torch.testing.assert_close(result, layer(x))


@pytest.mark.parametrize("num_samples", [0, 1])
def test_empty_neighborhoods(num_samples):
    empty = Grid.of(torch.randn(0, 3, 2, 2))
    near = Neighborhood(empty, torch.randn(0, num_samples, 2))
    assert near.edge_index()[0].shape == (2, 0)
    # A map without nodes between maps with nodes, as senders and as receivers.
    grid = Grid([[2, 2], [0, 3], [1, 1]])
    full = Grid([[1, 1], [1, 2], [1, 1]])
    pos = torch.zeros(4, num_samples, 2)
    for padding_mode in ("zeros", "border"):
        near = Neighborhood(grid, pos, padding_mode=padding_mode, receiver=full)
        out = interpolate(torch.ones(5, 1), near).sum(dim=1)
        assert out.flatten().tolist() == [num_samples, 0, 0, num_samples]
        assert scatter_interpolate(torch.ones(4, num_samples, 1), near).shape == (5, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_only_full_precision_positions(dtype):
    with pytest.raises(TypeError, match=r"^pos: "):
        Neighborhood(Grid([[2, 2]]), torch.ones(4, 1, 2, dtype=dtype))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"pos": torch.ones(4, 2)}, "pos"),
        ({"pos": torch.ones(3, 1, 2)}, "pos"),
        ({"pos": torch.ones(4, 1, 3)}, "pos"),
        ({"padding_mode": "reflection"}, "padding_mode"),
        ({"receiver": Grid([[2, 2], [2, 2]])}, "receiver"),
        ({"receiver": Grid([[2, 3]])}, "pos"),
        ({"grid": Grid([[0, 2]]), "receiver": Grid([[2, 2]])}, "grid"),
    ],
)
def test_errors_name_the_argument(kwargs, match):
    kwargs = {"grid": Grid([[2, 2]]), "pos": torch.ones(4, 1, 2), **kwargs}
    with pytest.raises(ValueError, match=f"^{match}: "):
        Neighborhood(**kwargs)


@st.composite
def neighborhoods(draw):
    num_axes = draw(st.integers(1, 3))
    size = st.lists(st.integers(0, 4), min_size=num_axes, max_size=num_axes)
    sizes = draw(st.lists(st.tuples(size, size), min_size=1, max_size=3))
    sender, receiver = (Grid(list(part)) for part in zip(*sizes, strict=True))
    assume(sender.num_nodes and receiver.num_nodes)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    pos = reference.random_positions(sender, draw(st.integers(1, 4)), receiver, dtype)
    # Some positions exactly on nodes and on borders.
    pos = torch.where(torch.rand_like(pos) < 0.3, pos.round(), pos)
    return Neighborhood(
        sender, pos, padding_mode=draw(st.sampled_from(["zeros", "border"])), receiver=receiver
    )


@given(neighborhoods())
def test_any_neighborhood_equals_the_formula(near):
    assert near.corners().index.min() >= 0
    assert near.corners().index.max() < near.grid.num_nodes
    torch.testing.assert_close(dense_corners(near), reference.interpolation_matrix(near))
    edge_index, weight = near.edge_index()
    # An edge to a map without nodes weighs 0, and comes from anywhere.
    source, target = edge_index[:, weight != 0]
    assert torch.equal(near.grid.batch[source], near.receiver.batch[target])

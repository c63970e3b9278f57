import copy
import pickle
from itertools import pairwise

import pytest
import reference
import torch
import torch_geometric.transforms as T
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.loader import DataLoader
from torch_geometric.nn import global_mean_pool

from dyngraph import Grid, to_feature_map, to_graph
from dyngraph.grid import Run
from dyngraph.nn.conv import RepGraphConv

SHAPES = {1: (5,), 2: (3, 4), 3: (2, 3, 4)}


def mixed_maps(num_axes, channels=3, dtype=torch.float32):
    return [torch.randn(channels, *size).to(dtype) for size in reference.MIXED_SIZES[num_axes]]


def test_default_device():
    with torch.device("meta"):
        assert Grid([[2, 2]]).device.type == "meta"
        assert Grid(torch.tensor([[2, 2]], device="cpu")).device.type == "cpu"


def test_grid_of_sizes():
    grid = Grid([[2, 2], [2, 2], [1, 3]])
    assert (grid.batch_size, grid.num_axes, grid.num_nodes) == (3, 2, 11)
    assert grid.runs == ((2, (2, 2)), (1, (1, 3)))
    assert grid.shapes == [(2, 2), (2, 2), (1, 3)]
    assert grid.sizes.tolist() == [[2, 2], [2, 2], [1, 3]]
    assert grid.ptr.tolist() == [0, 4, 8, 11]
    assert grid.batch.tolist() == [0] * 4 + [1] * 4 + [2] * 3
    square = [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert grid.pos.tolist() == square + square + [[0, 0], [0, 1], [0, 2]]
    assert grid.pos.dtype == torch.float32
    assert {t.dtype for t in (grid.sizes, grid.ptr, grid.batch)} == {torch.int64}
    assert repr(grid) == "Grid([(2, 2), (2, 2), (1, 3)])"


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_grid_attributes_of_mixed_sizes(num_axes):
    sizes = torch.tensor(reference.MIXED_SIZES[num_axes])
    for grid in (Grid(sizes), Grid(sizes.tolist()), Grid.of(mixed_maps(num_axes))):
        assert torch.equal(grid.sizes, sizes)
        assert torch.equal(grid.pos, reference.node_positions(grid))
        assert torch.equal(grid.batch, reference.image_of_node(grid))
        assert torch.equal(grid.ptr.diff(), sizes.prod(dim=1))
        assert grid.num_nodes == grid.ptr[-1]


def test_runs_join_only_neighbouring_maps_of_equal_size():
    assert Grid([[2], [3], [2], [2]]).runs == ((1, (2,)), (1, (3,)), (2, (2,)))
    assert Grid.of(torch.ones(4, 1, 2)).runs == ((4, (2,)),)


def test_grid_equality_ignores_how_it_was_made():
    grid = Grid([[3, 4], [3, 4]])
    same = Grid.of(torch.zeros(2, 5, 3, 4))
    assert grid == same
    assert hash(grid) == hash(same)
    assert grid == copy.deepcopy(grid) == pickle.loads(pickle.dumps(grid)) == grid.to("cpu")
    assert grid != Grid([[4, 3], [3, 4]])
    assert grid != [[3, 4], [3, 4]]
    assert Grid(torch.empty(0, 1, dtype=torch.long)) != Grid(torch.empty(0, 2, dtype=torch.long))


def test_a_grid_is_a_value():
    grid = Grid([[3, 4]])
    for name in ("runs", "device", "num_axes", "anything"):
        with pytest.raises(AttributeError):
            setattr(grid, name, None)
    with pytest.raises(AttributeError):
        del grid.runs
    assert {grid: "found"}[Grid([[3, 4]])] == "found"


def test_a_grid_of_runs():
    grid = Grid([[2, 2], [2, 2], [1, 3]])
    assert Grid(grid.runs) == Grid([Run(2, (2, 2)), Run(1, (1, 3))]) == grid
    assert [run.num_nodes for run in grid.runs] == [8, 3]
    no_maps = Grid(torch.empty(0, 3, dtype=torch.long))
    assert no_maps == Grid([Run(0, (4, 4, 4))])
    assert (no_maps.num_axes, no_maps.shapes, no_maps.sizes.shape) == (3, [], (0, 3))


def test_grid_lives_on_the_asked_device():
    grid = Grid([[2, 2]], device="meta")
    assert {t.device.type for t in (grid.sizes, grid.ptr, grid.pos)} == {"meta"}
    assert grid.to("cpu").sizes.device.type == "cpu"
    assert Grid.of(torch.empty(1, 1, 2, 2, device="meta")).device.type == "meta"


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_flatten_is_node_major(num_axes):
    maps = torch.randn(2, 3, *SHAPES[num_axes])
    grid = Grid.of(maps)
    x = grid.flatten(maps)
    assert x.shape == (grid.num_nodes, 3)
    for node, (image, position) in enumerate(zip(grid.batch, grid.pos.long(), strict=True)):
        assert torch.equal(x[node], maps[(image, slice(None), *position)])
    assert torch.equal(grid.unflatten(x), maps)


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_flatten_round_trip_of_mixed_sizes(num_axes):
    maps = mixed_maps(num_axes)
    grid = Grid.of(maps)
    x = grid.flatten(maps)
    assert torch.equal(x, torch.cat([m.flatten(1).t() for m in maps]))
    back = grid.unflatten(x)
    assert isinstance(back, list)
    assert len(back) == len(maps)
    assert all(torch.equal(a, b) for a, b in zip(back, maps, strict=True))
    runs = grid.unflatten_runs(x)
    assert [run.shape[0] for run in runs] == [count for count, _ in grid.runs]
    assert all(run.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for run in runs)


@pytest.mark.parametrize(
    ("maps", "layout"),
    [
        (torch.randn(2, 3, 4, 5), torch.channels_last),
        (torch.randn(2, 3, 2, 4, 5), torch.channels_last_3d),
    ],
)
def test_flatten_of_channels_last_is_a_free_view(maps, layout):
    maps = maps.to(memory_format=layout)
    grid = Grid.of(maps)
    x = grid.flatten(maps)
    assert x.data_ptr() == maps.data_ptr()
    assert x.is_contiguous()
    back = grid.unflatten(x)
    assert back.data_ptr() == maps.data_ptr()
    assert back.is_contiguous(memory_format=layout)
    assert torch.equal(back, maps)


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_flatten_of_non_contiguous_maps(num_axes):
    wide = torch.randn(4, 6, *(2 * length for length in SHAPES[num_axes]))
    maps = wide[(slice(None, None, 2), slice(1, 4), *[slice(None, None, 2)] * num_axes)]
    maps = maps.transpose(2, -1)
    assert not maps.is_contiguous()
    grid = Grid.of(maps)
    assert torch.equal(grid.flatten(maps), grid.flatten(maps.contiguous()))
    assert torch.equal(grid.unflatten(grid.flatten(maps)), maps)
    assert torch.equal(grid.flatten(list(maps)), grid.flatten(maps))


def test_unflatten_of_non_contiguous_features():
    grid = Grid([[2, 3], [2, 3]])
    x = torch.randn(4, 12).t()
    assert torch.equal(grid.unflatten(x), grid.unflatten(x.contiguous()))


@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [0, 1, 3])
def test_flatten_of_empty_batches_and_single_nodes(num_axes, batch_size):
    for shape in (SHAPES[num_axes], (1,) * num_axes):
        maps = torch.randn(batch_size, 2, *shape)
        grid = Grid.of(maps)
        assert grid.sizes.shape == (batch_size, num_axes)
        assert grid.ptr.shape == (batch_size + 1,)
        assert grid.pos.shape == (grid.num_nodes, num_axes)
        x = grid.flatten(maps)
        assert x.shape == (grid.num_nodes, 2)
        assert torch.equal(grid.unflatten(x), maps)


def test_flatten_passes_gradients():
    maps = torch.randn(2, 3, 2, 2, requires_grad=True)
    grid = Grid.of(maps)
    upstream = torch.randn(8, 3)
    grid.flatten(maps).backward(upstream)
    assert torch.equal(maps.grad, grid.unflatten(upstream))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))), st.integers(0, 12))
def test_split_takes_as_many_maps_as_fit(sizes, num_nodes):
    grid = Grid(sizes) if sizes else Grid(torch.empty(0, 2, dtype=torch.long))
    parts = grid.split(num_nodes)
    assert [shape for part in parts for shape in part.shapes] == grid.shapes
    assert all(part.num_nodes <= num_nodes or part.batch_size == 1 for part in parts)
    for part, following in pairwise(parts):
        assert part.num_nodes + Grid(following.shapes[:1]).num_nodes > num_nodes


def test_coarsen_counts_partial_cells():
    grid = Grid([[5, 4], [1, 2]])
    assert grid.coarsen(2) == Grid([[3, 2], [1, 1]])
    assert grid.coarsen(9) == Grid([[1, 1], [1, 1]])
    assert grid.coarsen(1) == grid


class Doubled(torch.nn.Module):
    """Makes its own grid, of the sizes of its maps and of two more."""

    def forward(self, maps):
        grid = Grid([*[tuple(maps.shape[2:])] * maps.shape[0], (1, 2), [3, 1]])
        x = torch.cat([maps.movedim(1, -1).flatten(0, 2), maps.new_zeros(5, maps.shape[1])])
        return 2 * grid.unflatten_runs(x)[0], grid.pos


@pytest.mark.slow
@pytest.mark.parametrize("how", ["compile", "export"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_grid_of_integers_inside_a_program(dynamic, how):
    """Sizes as Python integers, or as the symbols that tracers have for them."""
    maps, other = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 7)
    module = Doubled()
    if how == "compile":
        torch._dynamo.reset()
        function = torch.compile(module, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    else:
        size = torch.export.Dim.AUTO
        shapes = ({2: size, 3: size},) if dynamic else None
        function = torch.export.export(module, (maps,), dynamic_shapes=shapes).module()
    for batch in (maps, other) if dynamic or how == "compile" else (maps,):
        for got, want in zip(function(batch), module(batch), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("row", [(2, 3), torch.Size([2, 3]), [2, torch.tensor(3)]])
def test_rows_of_sizes(row):
    assert Grid([row, [2, 3]]).runs == ((2, (2, 3)),)


def test_an_explainer_of_a_grid_says_what_to_explain():
    conv = RepGraphConv(4, 4, 3)
    model_config = {
        "mode": "multiclass_classification", "task_level": "node", "return_type": "raw"
    }  # fmt: skip
    explainer = Explainer(
        conv,
        GNNExplainer(epochs=1),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config=model_config,
    )
    grid, x = Grid([[3, 4]]), torch.randn(12, 4)
    with pytest.raises(TypeError, match=r"^edge_index: expected edges, got a Grid\."):
        explainer(x, grid)
    # What the message says.
    edges = conv.sample(x, grid)[1].edges()
    explained = explainer(x, edges.index, edge_weight=edges.weight, edge_sample=edges.sample)
    assert explained.edge_mask.shape == edges.weight.shape


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Grid([2, 2]), ValueError, "sizes"),
        (lambda: Grid([[2.0, 2.0]]), TypeError, "sizes"),
        (lambda: Grid(torch.ones(1, 2, dtype=torch.bool)), TypeError, "sizes"),
        (lambda: Grid([[True, True]]), TypeError, "sizes"),
        (lambda: Grid([[2, -1]]), ValueError, "sizes"),
        (lambda: Grid([]), ValueError, "sizes"),
        (lambda: Grid([[1, 1, 1, 1]]), ValueError, "sizes"),
        (lambda: Grid(torch.empty(2, 0, dtype=torch.long)), ValueError, "sizes"),
        (lambda: Grid([Run(1, (2, -1))]), ValueError, "sizes"),
        (lambda: Grid([Run(1, ())]), ValueError, "sizes"),
        (lambda: Grid([Run(1, (2,)), Run(1, (2, 3))]), ValueError, "sizes"),
        (lambda: Grid.of(torch.ones(2, 2)), ValueError, "maps"),
        (lambda: Grid.of(torch.ones(1, 1, 1, 1, 1, 1)), ValueError, "maps"),
        (lambda: Grid.of([]), ValueError, "maps"),
        (lambda: Grid.of([torch.ones(1, 2), torch.ones(1, 2, 2)]), ValueError, "maps"),
        (lambda: Grid.of([torch.ones(1)]), ValueError, "maps"),
        (lambda: Grid.of("maps"), TypeError, "maps"),
        (lambda: Grid.of([torch.ones(1, 2), None]), TypeError, "maps"),
        (lambda: Grid([[2, 2]]).flatten(torch.ones(1, 3, 2, 3)), ValueError, "maps"),
        (lambda: Grid([[2, 2]]).flatten(torch.ones(2, 3, 2, 2)), ValueError, "maps"),
        (
            lambda: Grid([[2], [1]]).flatten([torch.ones(3, 2), torch.ones(4, 1)]),
            ValueError,
            "maps",
        ),
        (lambda: Grid([[2, 2]]).unflatten(torch.ones(3, 5)), ValueError, "x"),
        (lambda: Grid([[2, 2]]).unflatten(torch.ones(4)), ValueError, "x"),
        (lambda: to_graph("maps"), TypeError, "maps"),
        (lambda: to_graph([]), ValueError, "maps"),
        (lambda: to_graph(torch.ones(0, 1, 2, 2)), ValueError, "maps"),
        (lambda: to_feature_map(Data(x=torch.ones(4, 1))), TypeError, "graph"),
    ],
)
def test_errors_name_the_argument(make, error, match):
    with pytest.raises(error, match=f"^{match}: "):
        make()


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_to_graph_is_a_batch(num_axes):
    maps = mixed_maps(num_axes)
    graph = to_graph(maps)
    grid = Grid.of(maps)
    assert isinstance(graph, Batch)
    assert graph.num_graphs == len(maps)
    assert graph.grid == grid
    assert torch.equal(graph.x, grid.flatten(maps))
    assert torch.equal(graph.pos, grid.pos)
    assert torch.equal(graph.batch, grid.batch)
    assert torch.equal(graph.ptr, grid.ptr)
    assert graph.validate()
    back = to_feature_map(graph)
    assert all(torch.equal(a, b) for a, b in zip(back, maps, strict=True))


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_to_graph_of_one_batch(num_axes):
    maps = torch.randn(3, 2, *SHAPES[num_axes])
    graph = to_graph(maps)
    assert graph.grid == Grid.of(maps)
    assert torch.equal(to_feature_map(graph), maps)


def test_loader_batches_graphs_of_different_sizes():
    maps = mixed_maps(2)
    graphs = to_graph(maps).to_data_list()
    assert [g.grid for g in graphs] == [Grid.of([m]) for m in maps]
    assert torch.equal(to_feature_map(graphs[1])[0], maps[1])
    batches = list(DataLoader(graphs, batch_size=2))
    assert [b.grid for b in batches] == [Grid.of(maps[:2]), Grid.of(maps[2:])]
    assert all(torch.equal(a, b) for a, b in zip(to_feature_map(batches[0]), maps[:2], strict=True))
    assert to_graph(maps)[2].grid == Grid([[1, 1]])


def test_graph_survives_pickling():
    graph = to_graph(mixed_maps(2))
    assert pickle.loads(pickle.dumps(graph)).grid == graph.grid
    assert copy.copy(graph).grid == graph.grid


def test_transforms_keep_the_grid():
    maps = mixed_maps(2)
    graph = to_graph(maps)
    source = torch.arange(graph.num_nodes - 1)
    graph.edge_index = torch.stack([source, source + 1])
    transform = T.Compose([T.ToUndirected(), T.AddSelfLoops(), T.NormalizeFeatures()])
    out = transform(graph)
    assert out.num_edges == 2 * len(source) + graph.num_nodes
    assert out.grid == Grid.of(maps)
    x = torch.cat([m.flatten(1).t() for m in maps])
    x = x - x.min()
    # float32 rounding of one division.
    torch.testing.assert_close(out.x, x / x.sum(dim=-1, keepdim=True).clamp(min=1))
    for back, size in zip(to_feature_map(out), reference.MIXED_SIZES[2], strict=True):
        assert list(back.shape[1:]) == size


def test_pooling_of_a_graph_is_the_mean_of_its_map():
    maps = mixed_maps(3)
    graph = to_graph(maps)
    pooled = global_mean_pool(graph.x, graph.batch)
    torch.testing.assert_close(pooled, torch.stack([m.flatten(1).mean(dim=1) for m in maps]))


def test_grid_of_a_changed_graph_raises():
    graph = to_graph(mixed_maps(2))
    keep = torch.ones(graph.num_nodes, dtype=torch.bool)
    assert graph.subgraph(keep).grid == graph.grid
    keep[3] = False
    smaller = graph.subgraph(keep)
    with pytest.raises(ValueError, match="graph: its 16 nodes are not the 17 nodes"):
        _ = smaller.grid
    with pytest.raises(ValueError, match="graph"):
        to_feature_map(smaller)


@st.composite
def map_lists(draw):
    num_axes = draw(st.integers(1, 3))
    channels = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64]))
    size = st.lists(st.integers(1, 4), min_size=num_axes, max_size=num_axes)
    sizes = draw(st.lists(size, min_size=1, max_size=4))
    return [(10 * torch.randn(channels, *s)).to(dtype) for s in sizes]


@given(map_lists())
def test_round_trips_of_any_maps(maps):
    grid = Grid.of(maps)
    graph = to_graph(maps)
    assert graph.grid == grid == Grid(grid.sizes)
    assert graph.x.dtype == maps[0].dtype
    assert torch.equal(graph.x, grid.flatten(maps))
    assert torch.equal(grid.pos, reference.node_positions(grid))
    assert torch.equal(grid.batch, reference.image_of_node(grid))
    back = to_feature_map(graph)
    assert isinstance(back, torch.Tensor) == (len(set(grid.shapes)) == 1)
    assert all(torch.equal(a, b) for a, b in zip(back, maps, strict=True))

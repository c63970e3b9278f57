import backends
import pytest
import torch
from torch import nn

from dyngraph import Grid
from dyngraph.nn import DeformableAttentionConv, MultiScaleDeformableAttention

# Where Triton's interpreter would take minutes.
BACKENDS = [name for name in backends.BACKENDS if name != "triton"]
#: Two images with two maps each.
SIZES = [[4, 5], [2, 3], [3, 3], [2, 1]]


def make(num_levels=2, **options):
    torch.manual_seed(0)
    conv = DeformableAttentionConv(8, 2, num_levels=num_levels, num_points=3, **options).double()
    for parameter in conv.parameters():
        nn.init.normal_(parameter, std=0.5)
    return conv


def with_gradients(conv, out, x):
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).double()
    return out, torch.autograd.grad(out, [x, *conv.parameters()], cotangent)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_levels", [1, 2])
def test_a_grid_equals_the_edges_of_its_samples(num_levels, backend):
    conv, grid = make(num_levels, backend=backend), Grid(SIZES)
    x = torch.randn(grid.num_nodes, 8, dtype=torch.float64, requires_grad=True)
    on_grid = with_gradients(conv, conv(x, grid), x)
    edges = conv.sample(x, grid)[1].edges()
    along = with_gradients(conv, conv(x, edges.index, edges.weight, edges.sample), x)
    torch.testing.assert_close(along, on_grid, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_agree(backend):
    grid = Grid(SIZES)
    x = torch.randn(grid.num_nodes, 8, dtype=torch.float64, requires_grad=True)
    got, want = (
        with_gradients(conv, conv(x, grid), x)
        for conv in (make(backend=backend), make(backend="pyg"))
    )
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("num_levels", [1, 2])
def test_on_nodes_of_one_size_it_is_the_layer_of_deformable_detr(num_levels):
    conv = make(num_levels)
    shapes = SIZES[:num_levels]
    dense = MultiScaleDeformableAttention(8, num_levels=num_levels, heads=2, num_points=3).double()
    dense.load_state_dict(conv.state_dict())
    grid = Grid(shapes * 3)
    x = torch.randn(3, sum(h * w for h, w in shapes), 8, dtype=torch.float64)
    # (x, y) of the centres of pixels, on all levels.
    points = torch.cat([(Grid([s]).pos + 0.5) / torch.tensor(s) for s in shapes]).flip(1)
    points = points.view(1, -1, 1, 2).expand(3, -1, num_levels, -1).double()
    # Places of nodes are computed in float32.
    out = conv(x.flatten(0, 1), grid)
    torch.testing.assert_close(out, dense(x, points, x, shapes).flatten(0, 1), rtol=1e-5, atol=1e-5)


def test_queries_with_places():
    conv, grid = make(), Grid([*SIZES[:2], *SIZES[:2]])
    dense = MultiScaleDeformableAttention(8, num_levels=2, heads=2, num_points=3).double()
    dense.load_state_dict(conv.state_dict())
    x, queries = torch.randn(2, 26, 8).double(), torch.randn(2, 7, 8).double()
    places = torch.rand(2, 7, 2).double()
    out = conv(
        (x.flatten(0, 1), queries.flatten(0, 1)),
        grid,
        receiver=Grid([[7], [7]]),
        reference=places.flatten(0, 1),
    )
    points = places.flip(2).unsqueeze(2).expand(-1, -1, 2, -1)
    want = dense(queries, points, x, SIZES[:2])
    torch.testing.assert_close(out, want.flatten(0, 1), rtol=1e-12, atol=1e-12)


def test_attention_is_that_of_the_edges():
    conv, grid = make(), Grid(SIZES)
    x = torch.randn(grid.num_nodes, 8, dtype=torch.float64)
    out, (index, alpha) = conv(x, grid, return_attention_weights=True)
    assert torch.equal(out, conv(x, grid))
    by_head = alpha.unsqueeze(2) * conv.value_proj(x).unflatten(1, (2, 4))[index[0]]
    total = torch.zeros(grid.num_nodes, 2, 4, dtype=torch.float64).index_add(0, index[1], by_head)
    torch.testing.assert_close(conv.output_proj(total.flatten(1)), out)
    edges = conv.sample(x, grid)[1].edges()
    given = (edges.index, edges.weight, edges.sample)
    _, (same_index, same_alpha) = conv(x, *given, return_attention_weights=True)
    assert torch.equal(same_index, index)
    torch.testing.assert_close(same_alpha, alpha)


def test_the_templates_were_used():
    conv = make()
    prefix = f"{DeformableAttentionConv.__module__}_DeformableAttentionConv"
    assert conv.propagate.__module__.startswith(f"{prefix}_propagate")
    assert conv.edge_updater.__module__.startswith(f"{prefix}_edge_updater")


def test_images_of_other_sizes_do_not_mix():
    conv = make()
    x = torch.randn(37, 8, dtype=torch.float64)
    alone = [conv(x[:26], Grid(SIZES[:2])), conv(x[26:], Grid(SIZES[2:]))]
    torch.testing.assert_close(conv(x, Grid(SIZES)), torch.cat(alone), rtol=1e-12, atol=1e-12)


def test_by_hand():
    """Two nodes and one sample: the value of the other node, projected."""
    conv = DeformableAttentionConv(1, 1, num_points=1)
    for layer in (conv.sampling_offsets, conv.attention_weights):
        nn.init.zeros_(layer.weight)
    conv.sampling_offsets.bias.data = torch.tensor([1.0, 0.0])  # one node to the right
    conv.value_proj.weight.data.fill_(2)
    conv.output_proj.weight.data.fill_(3)
    out = conv(torch.tensor([[5.0], [7.0]]), Grid([[1, 2]]))
    assert out.tolist() == [[42.0], [0.0]]


@pytest.mark.slow
def test_compiling():
    torch.compiler.reset()
    conv, grid = make(), Grid(SIZES)
    x = torch.randn(grid.num_nodes, 8, dtype=torch.float64)
    compiled = torch.compile(lambda x: conv(x, Grid(SIZES)), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), conv(x, grid))


def test_half_types():
    conv, grid = make().bfloat16(), Grid(SIZES)
    x = torch.randn(grid.num_nodes, 8, dtype=torch.bfloat16)
    assert conv(x, grid).dtype == torch.bfloat16
    edges = conv.sample(x, grid)[1].edges()
    assert edges.weight.dtype == torch.float32
    same = conv(x, edges.index, edges.weight, edges.sample)
    torch.testing.assert_close(same, conv(x, grid), rtol=0.02, atol=0.02)


def test_repr():
    assert repr(DeformableAttentionConv(8, 2)) == "DeformableAttentionConv(8, heads=2)"
    assert repr(make()) == "DeformableAttentionConv(8, heads=2, num_levels=2)"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": torch.ones(37, 7)}, r"x: expected node features \[N, 8\]"),
        ({"x": torch.ones(36, 8)}, "reference: expected .* as many listeners"),
        ({"edge_index": Grid([[37, 1]])}, "edge_index: expected a grid of images with 2 maps"),
        ({"reference": torch.ones(37, 2)}, "reference: expected together with receiver"),
        ({"edge_index": torch.zeros(2, 3, dtype=torch.long)}, "edge_sample: expected one per edge"),
    ],
)
def test_errors_name_the_argument(changes, match):
    given = {"x": torch.ones(37, 8), "edge_index": Grid(SIZES)}
    conv = make().float()
    assert conv(**given).shape == (37, 8)
    with pytest.raises(ValueError, match=f"^{match}"):
        conv(**{**given, **changes})


def test_samples_that_no_head_has_are_refused():
    edges, sample = torch.tensor([[0], [1]]), torch.tensor([12])
    with pytest.raises(ValueError, match=r"^edge_sample: expected samples in \[0, 12\)"):
        make()(torch.ones(2, 8).double(), edges, None, sample)


@pytest.mark.parametrize("options", [{"heads": 3}, {"num_levels": 0}, {"num_points": 0}])
def test_wrong_settings(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        DeformableAttentionConv(8, **{"heads": 2, **options})

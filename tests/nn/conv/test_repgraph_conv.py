import pytest
import reference
import torch
from torch import nn

from dyngraph import Grid, Neighborhood
from dyngraph.nn.conv import NonLocalConv, RepGraphConv
from dyngraph.ops import use_backend

BACKENDS = ["torch", "pyg"]


def trained(conv):
    """The layer with offsets that depend on the features, as after some training."""
    nn.init.normal_(conv.sampler.offset.weight, std=0.3)
    nn.init.uniform_(conv.sampler.offset.bias, -1.5, 1.5)
    return conv


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("hidden_channels", [6, None])
@pytest.mark.parametrize(
    "sizes", [[[12], [12]], [[3, 4], [2, 6], [12, 1]], [[2, 3, 2], [1, 3, 4]], [[1, 1]]]
)
def test_samples_at_all_nodes_make_it_nonlocal(sizes, hidden_channels, groups, backend):
    grid = Grid(sizes)
    x = torch.randn(grid.num_nodes, 4)
    nonlocal_conv = NonLocalConv(4, hidden_channels, groups=groups)
    conv = RepGraphConv(
        4, hidden_channels, groups=groups, sampler=reference.AllNodes(), backend=backend
    )
    conv.load_state_dict(nonlocal_conv.state_dict(), strict=False)
    # The same sums in another order.
    torch.testing.assert_close(conv(x, grid), nonlocal_conv(x, grid), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell_size", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("hidden_channels", [6, None])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_a_grid_equals_the_formula(num_axes, hidden_channels, groups, cell_size, backend):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    x = torch.randn(grid.num_nodes, 6, dtype=torch.float64)
    conv = RepGraphConv(
        6, hidden_channels, 4, groups=groups, cell_size=cell_size, num_axes=num_axes
    )
    conv = trained(conv).double()
    near = conv.sampler(x, grid)
    with use_backend(backend):
        out, sampled, alpha = conv.sample(x, grid)
        assert torch.equal(conv(x, grid), out)
    assert torch.equal(sampled.pos, near.pos)
    query, key, value = conv.queries_keys_values((x, x))
    want, want_alpha = reference.sampled_attention(query, key, value, near, groups)
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(alpha, want_alpha)


@pytest.mark.parametrize("cell_size", [1, 2])
def test_maps_of_different_sizes_equal_each_alone(cell_size):
    sizes = [[3, 4], [2, 2], [2, 2], [1, 1], [5, 3]]
    grid = Grid(sizes)
    x = torch.randn(grid.num_nodes, 4)
    conv = trained(RepGraphConv(4, 6, groups=2, cell_size=cell_size))
    parts = x.split(grid.ptr.diff().tolist())
    alone = [conv(part, Grid([size])) for part, size in zip(parts, sizes, strict=True)]
    # The projections of more rows at once may sum in another order, which moves samples a little.
    torch.testing.assert_close(conv(x, grid), torch.cat(alone), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("cell_size", [1, 3])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_attention_weights_rebuild_the_output(num_axes, cell_size, groups):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    x = torch.randn(grid.num_nodes, 4)
    conv = RepGraphConv(4, 6, 3, groups=groups, cell_size=cell_size, num_axes=num_axes)
    trained(conv)
    out, (edge_index, alpha) = conv(x, grid, return_attention_weights=True)
    assert torch.equal(out, conv(x, grid))
    assert torch.equal(edge_index, conv.sampler(x, grid).edge_index()[0])
    assert alpha.shape == (edge_index.shape[1], groups)
    message = alpha.unsqueeze(-1) * conv.lin_value(x)[edge_index[0]].unflatten(1, (groups, -1))
    rebuilt = torch.zeros(grid.num_nodes, 6).index_add(0, edge_index[1], message.flatten(1))
    torch.testing.assert_close(rebuilt, out, atol=1e-6, rtol=1e-5)


def test_targets_choose_the_samples():
    grid = Grid([[3, 3]])
    x_source, x_target = torch.randn(9, 3), torch.randn(9, 5)
    conv = trained(RepGraphConv((3, 5), 4))
    out, near, _ = conv.sample((x_source, x_target), grid)
    assert torch.equal(near.pos, conv.sampler(x_target, grid).pos)
    want, _ = reference.sampled_attention(
        conv.lin_query(x_target), conv.lin_key(x_source), conv.lin_value(x_source), near
    )
    torch.testing.assert_close(out, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backend_of_the_layer_is_used(backend):
    conv = trained(RepGraphConv(4, 6, backend=backend))
    grid = Grid([[3, 4]])
    x = torch.randn(12, 4, requires_grad=True)
    want = RepGraphConv(4, 6)
    want.load_state_dict(conv.state_dict())
    # Inside this block only layers that don't name a backend get the other one.
    with use_backend("pyg" if backend == "torch" else "torch"):
        named = conv(x, grid).grad_fn
    with use_backend(backend):
        automatic = want(x, grid).grad_fn
    other = "pyg" if backend == "torch" else "torch"
    with use_backend(other):
        differing = want(x, grid).grad_fn
    assert type(named) is type(automatic) is not type(differing)


def test_all_parameters_learn():
    grid = Grid([[4, 5]])
    conv = RepGraphConv(4, 6, groups=2, spread=3.0)
    conv(torch.randn(20, 4), grid).square().sum().backward()
    without = {name for name, p in conv.named_parameters() if p.grad is None or not p.grad.any()}
    assert not without


def test_any_module_can_be_the_sampler():
    class Left(nn.Module):
        def forward(self, x, grid):
            return Neighborhood(grid, grid.pos.unsqueeze(1) + torch.tensor([0.0, -1.0]))

    x = torch.randn(6, 2)
    grid = Grid([[2, 3]])
    conv = RepGraphConv(2, None, sampler=Left())
    left = grid.unflatten(x).roll(1, dims=3)
    left[..., 0] = 0
    torch.testing.assert_close(conv(x, grid), grid.flatten(left))
    conv.reset_parameters()


@pytest.mark.parametrize("cell_size", [1, 2])
def test_no_maps(cell_size):
    conv = RepGraphConv(4, 6, groups=2, cell_size=cell_size)
    x = torch.randn(0, 4, requires_grad=True)
    out, (edge_index, alpha) = conv(
        x, Grid.of(torch.randn(0, 4, 3, 3)), return_attention_weights=True
    )
    assert (out.shape, edge_index.shape, alpha.shape) == ((0, 6), (2, 0), (0, 2))
    out.sum().backward()
    assert x.grad.shape == (0, 4)


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_a_single_node(num_axes):
    grid = Grid([[1] * num_axes])
    conv = RepGraphConv(4, 6, num_axes=num_axes)
    x = torch.randn(1, 4, requires_grad=True)
    conv(x, grid).sum().backward()
    assert x.grad.isfinite().all()


def test_errors_name_the_argument():
    conv = RepGraphConv(4, 6)
    with pytest.raises(ValueError, match=r"^grid: expected 2 spatial axes, got 3"):
        conv(torch.randn(8, 4), Grid([[2, 2, 2]]))
    with pytest.raises(ValueError, match=r"^num_samples: "):
        RepGraphConv(4, 6, num_samples=0)
    with pytest.raises(ValueError, match=r"^cell_size: "):
        RepGraphConv(4, 6, cell_size=0)
    with pytest.raises(ValueError, match=r"^num_axes: "):
        RepGraphConv(4, 6, num_axes=4)
    with pytest.raises(ValueError, match=r"^backend: "):
        RepGraphConv(4, 6, backend="fast")(torch.randn(4, 4), Grid([[2, 2]]))

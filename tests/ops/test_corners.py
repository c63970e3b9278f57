import importlib

import pytest
import reference
import torch
from backends import KERNELS
from hypothesis import given
from hypothesis import strategies as st

from dyngraph import Grid, Neighborhood, multilinear
from dyngraph.multilinear import Level, Maps, flatten_maps
from dyngraph.ops import find_corners, interpolate
from dyngraph.ops.kernels import load_kernels

GRID = Grid([[3, 4], [3, 4], [2, 5]])
PADDING_MODES = ["zeros", "border"]
SPECIAL = [torch.inf, -torch.inf, torch.nan, 1e30, -1e30, -1.0, 0.0, 1.0, 2.0]


def corners_and_gradient(backend, grid, pos, padding_mode, upstream):
    pos = pos.clone().requires_grad_()
    index, weight = find_corners(
        Neighborhood(grid, pos, padding_mode=padding_mode), backend=backend
    )
    return index, weight, *torch.autograd.grad(weight, pos, upstream)


@st.composite
def positions(draw):
    """Some of them on nodes and borders, far away, or not finite."""
    num_axes = draw(st.integers(1, 3))
    size = st.lists(st.integers(1, 4), min_size=num_axes, max_size=num_axes)
    grid = Grid(draw(st.lists(size, min_size=1, max_size=3)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    pos = reference.random_positions(grid, draw(st.integers(1, 4)), dtype=dtype)
    if draw(st.booleans()):
        others = [reference.random_positions(grid, pos.shape[1], dtype=dtype) for _ in "ab"]
        pos = torch.stack([pos, *others], dim=1)
    special = torch.tensor(SPECIAL, dtype=dtype)[torch.randint(len(SPECIAL), pos.shape)]
    return grid, torch.where(torch.rand_like(pos) < 0.2, special, pos)


@pytest.mark.parametrize("backend", KERNELS)
@given(positions(), st.sampled_from(PADDING_MODES))
def test_equal_to_standard_operators(backend, drawn, padding_mode):
    grid, pos = drawn
    groups = pos.shape[1] if pos.dim() == 4 else 1
    upstream = torch.randn(len(pos), groups, 2**grid.num_axes, pos.shape[-2], dtype=pos.dtype)
    want = corners_and_gradient("pyg", grid, pos, padding_mode, upstream)
    got = corners_and_gradient(backend, grid, pos, padding_mode, upstream)
    torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize("backend", KERNELS)
def test_a_map_of_more_nodes_than_int32_holds(backend):
    lengths = torch.tensor([60_001, 60_003])
    pos = torch.tensor([[[60_000.0, 60_002.0], [59_999.5, 1.25]]])
    near = Neighborhood(Grid([lengths.tolist()]), pos, receiver=Grid([[1, 1]]))
    index, weight = find_corners(near, backend=backend)
    last = lengths.prod() - 1
    assert index[0, 0, 0].tolist() == [last, 59_999 * 60_003 + 1]
    assert index[0, 0, 3].tolist() == [last, 60_000 * 60_003 + 2]
    assert weight[0, 0, :, 1].tolist() == [0.375, 0.125, 0.375, 0.125]


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_chunks_give_the_same(monkeypatch, padding_mode):
    grid = Grid([[4, 3], [4, 3], [2, 5]])
    pos = reference.random_positions(grid, 3)
    upstream = torch.randn(grid.num_nodes, 1, 4, 3)
    whole = corners_and_gradient("torch", grid, pos, padding_mode, upstream)
    # Not the function, which has the name of its module.
    kernels = importlib.import_module("dyngraph.ops.kernels.pytorch.corners")
    monkeypatch.setattr(kernels, "_SAMPLES", 15)
    chunked = corners_and_gradient("torch", grid, pos, padding_mode, upstream)
    assert all(torch.equal(a, b) for a, b in zip(whole, chunked, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_gradients(num_axes, padding_mode):
    grid = Grid(reference.MIXED_SIZES[num_axes])
    pos = reference.random_positions(grid, 2, dtype=torch.float64).requires_grad_()

    def weight(pos):
        return find_corners(Neighborhood(grid, pos, padding_mode=padding_mode)).weight

    assert torch.autograd.gradcheck(weight, pos)
    assert torch.autograd.gradgradcheck(weight, pos)


@pytest.mark.parametrize("backend", KERNELS)
def test_operators(backend):
    # Without gradients: the check can't draw one of an index.
    near = Neighborhood(GRID, reference.random_positions(GRID, 2))
    pos, maps = near.pos_of_groups, flatten_maps(near.maps)
    torch.library.opcheck(torch.ops.dyngraph.corners, (pos, maps, False, torch.int32, backend))
    torch.library.opcheck(
        torch.ops.dyngraph.corners_backward,
        (torch.randn(len(pos), 1, 4, 2), pos, maps, True, backend),
    )


@pytest.mark.parametrize("backend", KERNELS)
def test_operators_share_corners(backend):
    near = Neighborhood(GRID, reference.random_positions(GRID, 2, dtype=torch.float64))
    x = torch.randn(GRID.num_nodes, 3, dtype=torch.float64)
    corners = find_corners(near, backend=backend)
    got = interpolate(x, near, corners=corners, backend=backend)
    assert torch.equal(got, interpolate(x, near, backend=backend))
    for other in (
        Neighborhood(Grid([[2, 2]]), torch.zeros(4, 2, 2)),
        Neighborhood(GRID, near.pos[:, :1]),
    ):
        with pytest.raises(
            ValueError, match=r"^corners: expected those of near, .*\[34, 1, 4, 2\]"
        ):
            interpolate(x, near, corners=find_corners(other), backend=backend)


def test_plain_corners_of_some_nodes_at_a_time(monkeypatch):
    """On three levels, one without nodes, of two images and one of another size."""
    levels = [[(3, 4), (0, 5), (2, 2)], [(1, 6), (0, 5), (3, 1)]]
    maps = [
        Maps(images, receivers, tuple(Level(2, shape) for shape in shapes))
        for images, receivers, shapes in zip((2, 1), (5, 4), levels, strict=True)
    ]
    num_receivers = sum(part.num_receivers for part in maps)
    pos = 4 * torch.rand(num_receivers, 3, 6, 2, dtype=torch.float64) - 1
    pos[0, 0, 2] = torch.nan
    expected, weight = multilinear.corners(pos, maps, False, torch.int32)
    grad_weight = torch.randn_like(weight)
    monkeypatch.setattr("dyngraph.ops.kernels.pytorch.corners._SAMPLES", 40)
    kernels = load_kernels("torch")
    index, got = kernels.corners(pos, maps, False, torch.int32)
    torch.testing.assert_close(got, weight, rtol=0, atol=0)
    assert torch.equal(index[got != 0], expected[got != 0])
    num_senders = sum(part.num_senders for part in maps)
    assert ((index >= 0) & (index < num_senders)).all()
    grad_pos = kernels.corners_backward(grad_weight, pos, maps, False)
    want = multilinear.corners_backward(grad_weight, pos, maps, False)
    torch.testing.assert_close(grad_pos, want)
    assert (grad_pos[:, :, 2:4] == 0).all()

import pytest
import torch
from torch.nn import functional as F

from dyngraph import Grid
from dyngraph.nn.relative_position import RelativePosition


def loops(module, query):
    """The formula, node by node, of queries ``[B, H, W, d]`` on maps of the tables' size."""
    batch, height, width, _ = query.shape
    out = query.new_zeros(batch, height, width, module.num_samples)
    for y in range(height):
        for x in range(width):
            for s in range(module.num_samples):
                out[:, y, x, s] += query[:, y, x] @ module.rel_width[width - 1 - x + s]
                # Transposed, as in the released code.
                out[:, y, x, s] += query[:, x, y] @ module.rel_height[height - 1 - x + s]
    return out


@pytest.mark.parametrize("num_samples", [1, 4, 9])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_square_maps_equal_the_formula(length, num_samples):
    module = RelativePosition(3, (length, length), num_samples).double()
    query = torch.randn(2, length, length, 3, dtype=torch.float64)
    out = module(query.flatten(0, 2).unsqueeze(1), Grid([[length, length]] * 2))
    torch.testing.assert_close(out.view(2, length, length, -1), loops(module, query))


def test_maps_of_another_size_resize_the_tables():
    module = RelativePosition(3, (7, 7)).double()
    query = torch.randn(1, 4, 4, 3, dtype=torch.float64)
    resized = RelativePosition(3, (4, 4)).double()
    for name, table in module.named_parameters():
        rows = F.interpolate(table[None, None], (12, 3), mode="bilinear")[0, 0]
        getattr(resized, name).data = rows
    out = module(query.flatten(0, 2).unsqueeze(1), Grid([[4, 4]]))
    torch.testing.assert_close(out.view(1, 4, 4, 9), loops(resized, query))


def test_maps_of_different_sizes_equal_each_alone():
    module = RelativePosition(3, (5, 4))
    sizes = [[3, 4], [3, 4], [2, 5], [1, 1]]
    grid = Grid(sizes)
    query = torch.randn(grid.num_nodes, 2, 3)
    parts = query.split(grid.ptr.diff().tolist())
    alone = [module(part, Grid([size])) for part, size in zip(parts, sizes, strict=True)]
    torch.testing.assert_close(module(query, grid), torch.cat(alone))


def test_gradcheck():
    module = RelativePosition(2, (3, 2), 3).double()
    query = torch.randn(12, 1, 2, dtype=torch.float64, requires_grad=True)

    def output(query, *tables):
        given = dict(zip(("rel_height", "rel_width"), tables, strict=True))
        return torch.func.functional_call(module, given, (query, Grid([[4, 3]])))

    assert torch.autograd.gradcheck(output, (query, *module.parameters()))


def test_tables():
    module = RelativePosition(16, (40, 50), 9)
    assert (module.rel_height.shape, module.rel_width.shape) == ((48, 16), (58, 16))
    before = module.rel_width.clone()
    module.reset_parameters()
    assert not torch.equal(module.rel_width, before)
    # Scores of queries of size 1 are of size 1.
    assert 0.2 < module.rel_width.std() < 0.3


@pytest.mark.parametrize("size", [(0, 3), (3,), (2, 2, 2)])
def test_errors_name_the_argument(size):
    with pytest.raises(ValueError, match=r"^map_size: expected two positive lengths"):
        RelativePosition(3, size)

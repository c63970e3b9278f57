import torch
from torch import nn

from dyngraph import Grid
from dyngraph.nn.each_run import each_run


def test_each_map_is_convolved_alone():
    sizes = [(3, 4), (3, 4), (2, 2), (3, 4)]
    maps = [torch.randn(2, *size) for size in sizes]
    conv = nn.Conv2d(2, 5, 3, padding=1)
    grid = Grid.of(maps)
    out = grid.unflatten(each_run(conv, grid.flatten(maps), grid))
    for found, feature_map in zip(out, maps, strict=True):
        torch.testing.assert_close(found, conv(feature_map))


def test_equal_maps_are_one_batch():
    calls = []

    def function(maps):
        calls.append(maps.shape)
        return 2 * maps

    grid = Grid([[3, 4], [3, 4], [5, 1]])
    x = torch.randn(29, 2)
    assert torch.equal(each_run(function, x, grid), 2 * x)
    assert calls == [(2, 2, 3, 4), (1, 2, 5, 1)]


def test_a_single_run_is_not_copied():
    grid = Grid([[3, 4]])
    x = torch.randn(12, 2)
    assert each_run(lambda maps: maps, x, grid).data_ptr() == x.data_ptr()

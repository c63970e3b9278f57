"""Tiles that are chosen by time, here in the interpreter and with a clock of our own."""

import pytest
import reference
import torch

from dyngraph import Grid, Neighborhood
from dyngraph.ops import sampled_attention, sampled_score, sampled_sum
from dyngraph.ops.kernels.triton import edges, tiles


class Clock:
    """Runs what it is given twice and says how long it took; the more runs so far, the longer."""

    def __init__(self):
        self.runs = 0

    def __call__(self, run, quantiles):
        for _ in range(2):
            run()
        self.runs += 1
        return [float(self.runs)] * len(quantiles)


@pytest.fixture
def clock(monkeypatch):
    """Makes all calls worth tuning."""
    clock = Clock()
    autotune = tiles.triton.autotune
    monkeypatch.setattr(tiles, "_is_worth_tuning", lambda size: True)
    monkeypatch.setattr(
        tiles.triton, "autotune", lambda *args, **kwargs: autotune(*args, **kwargs, do_bench=clock)
    )
    tiles._tuner.cache_clear()
    yield clock
    tiles._tuner.cache_clear()


def outputs_and_gradients(num_samples):
    """Of the fused kernels and of those on edges, on maps of two sizes."""
    torch.manual_seed(0)
    grid = Grid([[6, 7], [3, 2]])
    pos = reference.random_positions(grid, num_samples).requires_grad_()
    query, key, value = (torch.randn(48, 12, requires_grad=True) for _ in range(3))
    near = Neighborhood(grid, pos)
    out = sampled_attention(query, key, value, near, 2, backend="triton")
    score = sampled_score(query, key, near, 2, backend="triton")
    total = sampled_sum(score, value, near, backend="triton")
    loss = out.square().sum() + total.square().sum()
    return [out, score, total, *torch.autograd.grad(loss, (query, key, value, pos))]


@pytest.mark.slow
def test_tuned_calls_equal_untuned_ones(clock, monkeypatch):
    tuned = outputs_and_gradients(3)
    assert clock.runs > 0
    monkeypatch.undo()
    # Sums over the channels of tiles, in another order.
    torch.testing.assert_close(tuned, outputs_and_gradients(3))


def test_what_a_kernel_adds_to_is_left_as_it_was(clock):
    weight, x, out = torch.ones(3, 1, 2), torch.ones(3, 4), torch.full((2, 4), 10.0)
    index = torch.zeros(3, 1, 2, dtype=torch.int32)
    options = {"num_nodes": 3, "own": 1, "degree": 2, "width": 4, "block_channels": 4}
    tiles.launch(
        edges._scatter_kernel,
        (3, 1, 4),
        weight,
        x,
        index,
        out,
        **options,
        kind=["degree"],
        adds_to=["out"],
    )
    assert clock.runs > 1
    assert out.tolist() == [[16.0] * 4, [10.0] * 4]


@pytest.mark.slow
def test_each_kind_of_call_is_measured_once(clock):
    outputs_and_gradients(3)
    once = clock.runs
    outputs_and_gradients(3)
    assert clock.runs == once
    outputs_and_gradients(2)
    assert clock.runs == 2 * once


@pytest.mark.parametrize("width", [1, 12, 64, 256, 5000])
def test_tiles_hold_all_channels_of_a_group(width):
    channels = tiles.block_channels(width)
    assert width <= channels < 2 * width
    for config in tiles._tiles(width):
        nodes = config.kwargs["block_nodes"]
        assert nodes * channels <= max(2048, channels)
        assert 1 <= nodes <= 64


def test_what_is_worth_tuning(monkeypatch):
    assert not tiles._is_worth_tuning(2**30), "in the interpreter"
    monkeypatch.setattr(tiles, "is_interpreted", lambda: False)
    assert tiles._is_worth_tuning(2**20)
    assert not tiles._is_worth_tuning(2**20 - 1)
    torch.use_deterministic_algorithms(True)
    try:
        assert not tiles._is_worth_tuning(2**30)
    finally:
        torch.use_deterministic_algorithms(False)

import pytest
import reference
import torch

from dyngraph import Grid, Neighborhood
from dyngraph.ops import operator_backend, sampled_attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_keys_are_sampled_once(monkeypatch, dtype):
    """Keys that are the values stay one table, also when they are converted."""
    values = []
    attention = operator_backend.attention

    def spy(query, key, value, *args):
        values.append(value)
        return attention(query, key, value, *args)

    monkeypatch.setattr(operator_backend, "attention", spy)
    grid = Grid([[3, 4]])
    near = Neighborhood(grid, reference.random_positions(grid, 2))
    x = torch.randn(12, 4, dtype=dtype)
    shared = sampled_attention(x, x, x, near, backend="torch")
    separate = sampled_attention(x, x, x.clone(), near, backend="torch")
    assert values[0] is None
    assert values[1] is not None
    assert torch.equal(shared, separate)


def test_recomputed_scores_change_nothing():
    grid = Grid([[3, 4]])
    x = torch.randn(12, 4, requires_grad=True)
    pos = reference.random_positions(grid, 2).requires_grad_()
    results = []
    for recompute in (False, True):
        near = Neighborhood(grid, pos)
        out = sampled_attention(x, x, x, near, groups=2, recompute=recompute)
        results.append([out, *torch.autograd.grad(out.square().sum(), (x, pos))])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_without_gradients_no_scores_are_kept(monkeypatch):
    kept = []
    attention = operator_backend.attention

    def spy(*args):
        out = attention(*args)
        kept.append(out[2].numel())
        return out

    monkeypatch.setattr(operator_backend, "attention", spy)
    grid = Grid([[3, 4]])
    near = Neighborhood(grid, reference.random_positions(grid, 2))
    x = torch.randn(12, 4)
    sampled_attention(x, x, x, near)
    with torch.no_grad():
        sampled_attention(x, x, x, near)
    assert kept == [12 * 4 * 2, 0]

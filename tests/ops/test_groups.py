"""Operators where each group of channels has samples of its own."""

import pytest
import reference
import torch
from backends import BACKENDS

from dyngraph import Grid, Neighborhood, ops

GRID, RECEIVER = Grid([[3, 4], [2, 2]]), Grid([[2, 3], [3, 1]])
GROUPS, SAMPLES, CHANNELS = 2, 3, 6


def make(padding_mode="zeros"):
    """The samples of all groups, and those of each alone."""
    parts = [
        Neighborhood(
            GRID,
            reference.random_positions(GRID, SAMPLES, RECEIVER, torch.float64),
            padding_mode=padding_mode,
            receiver=RECEIVER,
        )
        for _ in range(GROUPS)
    ]
    pos = torch.stack([part.pos for part in parts], dim=1).requires_grad_()
    near = Neighborhood(GRID, pos, padding_mode=padding_mode, receiver=RECEIVER)
    return near, [
        Neighborhood(GRID, p, padding_mode=padding_mode, receiver=RECEIVER) for p in pos.unbind(1)
    ]


def features(num_nodes, *shape):
    return torch.randn(num_nodes, *shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_each_group_has_its_own_samples(padding_mode, backend):
    """Every operator equals the dense formula of one group after the other, with gradients."""
    near, parts = make(padding_mode)
    query, key, value = features(9, CHANNELS), features(16, CHANNELS), features(16, CHANNELS)
    weight, bias = features(9, GROUPS, SAMPLES), features(9, GROUPS, SAMPLES)
    values = features(9, GROUPS, SAMPLES, CHANNELS // GROUPS)
    slices = [x.chunk(GROUPS, dim=1) for x in (query, key, value)]
    attended = [
        reference.sampled_attention(q, k, v, part, 1, scale=0.7, bias=bias[:, g : g + 1])
        for g, (q, k, v, part) in enumerate(zip(*slices, parts, strict=True))
    ]
    want = [
        torch.stack(
            [reference.interpolate(k, p) for k, p in zip(slices[1], parts, strict=True)], dim=1
        ),
        torch.cat(
            [reference.scatter_interpolate(values[:, g], p) for g, p in enumerate(parts)], dim=1
        ),
        torch.cat(
            [reference.sampled_score(q, k, p) for q, k, p in zip(*slices[:2], parts, strict=True)],
            dim=1,
        ),
        torch.cat(
            [
                reference.sampled_sum(weight[:, g : g + 1], v, p)
                for g, (v, p) in enumerate(zip(slices[2], parts, strict=True))
            ],
            dim=1,
        ),
        torch.cat([out for out, _ in attended], dim=1),
        torch.cat([alpha for _, alpha in attended], dim=1),
    ]
    got = [
        ops.interpolate(key, near, backend=backend),
        ops.scatter_interpolate(values, near, backend=backend),
        ops.sampled_score(query, key, near, GROUPS, backend=backend),
        ops.sampled_sum(weight, value, near, backend=backend),
        *ops.sampled_attention(
            query,
            key,
            value,
            near,
            GROUPS,
            scale=0.7,
            bias=bias,
            return_weights=True,
            backend=backend,
        ),
    ]
    torch.testing.assert_close(got, want, atol=1e-13, rtol=1e-13)
    inputs = [query, key, value, weight, bias, values, near.pos]
    weights = [torch.randn_like(out) for out in want]
    grads = [
        torch.autograd.grad(
            sum((w * out).sum() for w, out in zip(weights, outs, strict=True)),
            inputs,
            retain_graph=True,
        )
        for outs in (got, want)
    ]
    torch.testing.assert_close(*grads, atol=1e-12, rtol=1e-12)


def test_the_number_of_groups_is_that_of_the_samples():
    near, _ = make()
    x, query = torch.ones(16, CHANNELS), torch.ones(9, CHANNELS)
    with pytest.raises(ValueError, match=r"^groups: expected 2, as near has, got 3"):
        ops.sampled_score(query, x, near, groups=3)
    with pytest.raises(ValueError, match=r"^groups: expected 2, as near has, got 1"):
        ops.sampled_attention(query, x, x, near)
    with pytest.raises(ValueError, match=r"^groups: expected 2, as near has, got 3"):
        ops.sampled_sum(torch.ones(9, 3, SAMPLES), x, near)
    with pytest.raises(ValueError, match=r"^groups: expected a divisor of 5 channels, got 2"):
        ops.interpolate(torch.ones(16, 5), near)
    with pytest.raises(ValueError, match=r"^values: .*\[N, G, K, C / G\] = \[9, 2, 3, C\]"):
        ops.scatter_interpolate(torch.ones(9, 3, 4), near)
    with pytest.raises(ValueError, match=r"^groups: expected a divisor or a multiple of 2, .* 3"):
        ops.sampled_convolution(x, torch.ones(3, CHANNELS // 3, SAMPLES), near, groups=3)

"""The shapes of mmcv's own test of this operator: odd channels, small maps, few of everything."""

import backends
import pytest
import torch
from torch.nn.functional import grid_sample

from dyngraph.ops import multi_scale_deformable_attention

# Where Triton's interpreter would take minutes.
BACKENDS = [name for name in backends.BACKENDS if name != "triton"]
SHAPES = [(6, 4), (3, 2)]
HEADS, QUERIES, POINTS = 2, 2, 2


def make(channels, batch_size=1):
    torch.manual_seed(3)
    senders = sum(height * width for height, width in SHAPES)
    value = 0.01 * torch.rand(batch_size, senders, HEADS, channels, dtype=torch.float64)
    shape = (batch_size, QUERIES, HEADS, len(SHAPES), POINTS)
    locations = torch.rand(*shape, 2, dtype=torch.float64)
    weights = torch.rand(shape, dtype=torch.float64) + 1e-5
    weights /= weights.sum(dim=(-2, -1), keepdim=True)
    return [tensor.requires_grad_() for tensor in (value, locations, weights)]


def by_grid_sample(value, locations, weights):
    """As in mmcv and transformers."""
    batch_size, _, heads, channels = value.shape
    samples, start = [], 0
    for level, (height, width) in enumerate(SHAPES):
        maps = value[:, start : start + height * width].permute(0, 2, 3, 1)
        maps = maps.reshape(batch_size * heads, channels, height, width)
        places = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        samples.append(grid_sample(maps, places, align_corners=False))
        start += height * width
    # [B, heads, d, Q, L, points]
    samples = torch.stack(samples, dim=3).unflatten(0, (batch_size, heads))
    return torch.einsum("bhcqlp,bqhlp->bqhc", samples, weights).flatten(2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("channels", [2, 4, 30, 32, 64, 71, 1025])
def test_values_and_gradients(channels, batch_size, backend):
    value, locations, weights = leaves = make(channels, batch_size)
    out = multi_scale_deformable_attention(value, SHAPES, locations, weights, backend=backend)
    want = by_grid_sample(*leaves)
    torch.testing.assert_close(out, want, rtol=1e-13, atol=1e-16)
    cotangent = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, leaves, cotangent),
        torch.autograd.grad(want, leaves, cotangent),
        # Those of weights and locations are sums over up to 1025 channels.
        rtol=1e-12,
        atol=1e-14,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [4, 30, 32, 64, 71, 1025])
def test_derivatives(channels, backend):
    def function(value, locations, weights):
        return multi_scale_deformable_attention(value, SHAPES, locations, weights, backend=backend)

    # One random direction: there are up to 61,500 values. All of them for few channels.
    assert torch.autograd.gradcheck(function, make(channels), fast_mode=channels > 4)

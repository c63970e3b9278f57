import backends
import pytest
import reference
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from dyngraph import Grid, Neighborhood
from dyngraph.ops import sampled_convolution, use_backend
from dyngraph.samplers import DilatedSampler

# Where Triton's interpreter would take minutes.
BACKENDS = [name for name in backends.BACKENDS if name != "triton"]
HALF = [torch.bfloat16, torch.float16]
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def make_case(num_axes, padding_mode="zeros", other_sender=False, dtype=torch.float64):
    receiver = Grid(reference.MIXED_SIZES[num_axes])
    sender = Grid(reference.SENDER_SIZES[num_axes]) if other_sender else receiver
    pos = reference.random_positions(sender, 3, receiver, dtype)
    x = torch.randn(sender.num_nodes, 4, dtype=dtype)
    filters = torch.randn(5, 4, 3, dtype=dtype)
    return x, filters, Neighborhood(sender, pos, padding_mode=padding_mode, receiver=receiver)


def run_with_gradients(function, x, filters, near, **kwargs):
    leaves = [t.detach().requires_grad_() for t in (x, filters, near.pos)]
    near = Neighborhood(
        near.grid, leaves[2], padding_mode=near.padding_mode, receiver=near.receiver
    )
    out = function(*leaves[:2], near, **kwargs)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return out, torch.autograd.grad((out * weight).sum(), leaves)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("other_sender", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_values_and_gradients_equal_the_reference(num_axes, padding_mode, other_sender, backend):
    case = make_case(num_axes, padding_mode, other_sender)
    got = run_with_gradients(sampled_convolution, *case, backend=backend)
    want = run_with_gradients(reference.sampled_convolution, *case)
    # float64: sums of a few dozen terms of size 1 to 10 in another order.
    torch.testing.assert_close(got, want, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_backends_agree_in_float32(num_axes):
    case = make_case(num_axes, dtype=torch.float32)
    got = run_with_gradients(sampled_convolution, *case, backend="torch")
    want = run_with_gradients(sampled_convolution, *case, backend="pyg")
    # float32: gradients of positions are differences of terms of size 10, each rounded by 1e-6.
    torch.testing.assert_close(got, want, atol=5e-6, rtol=1.3e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rate", [1, 2])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_at_the_taps_it_is_a_dilated_convolution(num_axes, rate, backend):
    maps = torch.randn(2, 4, *(5, 4, 3)[:num_axes], dtype=torch.float64)
    weight = torch.randn(5, 4, *[3] * num_axes, dtype=torch.float64)
    grid = Grid.of(maps)
    x = grid.flatten(maps)
    near = DilatedSampler([rate], kernel_size=3, num_axes=num_axes)(x, grid)
    out = sampled_convolution(x, weight.flatten(2), near, backend=backend)
    want = CONV[num_axes](maps, weight, padding=rate, dilation=rate)
    # Up to 108 terms.
    torch.testing.assert_close(grid.unflatten(out), want, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rate", [1, 2, 6])
def test_with_walks_it_is_a_deformable_convolution(rate, backend):
    maps = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    walks = torch.randn(2, 18, 6, 5, dtype=torch.float64, requires_grad=True)
    grid = Grid.of(maps)
    x = grid.flatten(maps)
    pos = DilatedSampler([rate])(x, grid).pos + grid.flatten(walks).unflatten(1, (9, 2))
    near = Neighborhood(grid, pos)
    out = grid.unflatten(sampled_convolution(x, weight.flatten(2), near, backend=backend))
    want = deform_conv2d(maps, walks, weight, padding=rate, dilation=rate)
    torch.testing.assert_close(out, want, atol=1e-13, rtol=1e-13)
    leaves = (maps, weight, walks)
    cotangent = torch.randn_like(out)
    got = torch.autograd.grad(out, leaves, cotangent)
    # Weight gradients are sums over all 60 nodes.
    expected = torch.autograd.grad(want, leaves, cotangent)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_derivatives(num_axes, backend):
    receiver = Grid({1: [[2], [1]], 2: [[1, 2], [1, 1]], 3: [[1, 2, 1], [1, 1, 1]]}[num_axes])
    sender = Grid({1: [[3], [2]], 2: [[2, 2], [1, 2]], 3: [[2, 1, 2], [1, 1, 2]]}[num_axes])
    x = torch.randn(sender.num_nodes, 3, dtype=torch.float64)
    filters = torch.randn(2, 3, 2, dtype=torch.float64)
    pos = reference.random_positions(sender, 2, receiver, torch.float64, reach=1.0)

    def outputs(x, filters, pos):
        near = Neighborhood(sender, pos, receiver=receiver)
        return sampled_convolution(x, filters, near, backend=backend)

    inputs = [t.requires_grad_() for t in (x, filters, pos)]
    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradgradcheck(outputs, inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_features(backend):
    x, filters, near = make_case(2)
    strided = [t.repeat_interleave(2, dim=-1)[..., ::2] for t in (x, filters)]
    assert not any(t.is_contiguous() for t in strided)
    got = run_with_gradients(sampled_convolution, *strided, near, backend=backend)
    want = run_with_gradients(sampled_convolution, x, filters, near, backend=backend)
    torch.testing.assert_close(got, want, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF)
def test_half_features_are_rounded_once(dtype, backend):
    x, filters, near = make_case(2, dtype=torch.float32)
    x, filters = x.to(dtype), filters.to(dtype)
    out = sampled_convolution(x, filters, near, backend=backend)
    want = sampled_convolution(x.float(), filters.float(), near, backend=backend)
    assert out.dtype == dtype
    assert torch.equal(out, want.to(dtype))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF)
def test_autocast_rounds_at_most_the_matrix_product(dtype, backend):
    x, filters, near = make_case(2, dtype=torch.float32)
    want, grads = run_with_gradients(sampled_convolution, x, filters, near, backend=backend)
    with torch.autocast("cpu", dtype=dtype):
        out = sampled_convolution(x, filters, near, backend=backend)
        half = run_with_gradients(sampled_convolution, x, filters, near, backend=backend)[1]
    assert out.dtype == torch.float32
    # Both factors and the product are rounded to half an ulp; a dozen terms of size up to 5.
    atol = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(out, want, atol=atol, rtol=0)
    assert [g.dtype for g in half] == [torch.float32] * 3
    torch.testing.assert_close(half, grads, atol=4 * atol, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_samples", [0, 2])
def test_no_nodes(num_samples, backend):
    grid = Grid.of(torch.randn(0, 1, 2, 2))
    near = Neighborhood(grid, torch.randn(0, num_samples, 2))
    x, filters = torch.randn(0, 4), torch.randn(5, 4, num_samples)
    out, grads = run_with_gradients(sampled_convolution, x, filters, near, backend=backend)
    assert out.shape == (0, 5)
    assert [g.shape for g in grads] == [x.shape, filters.shape, near.pos.shape]
    assert not grads[1].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_samples(backend):
    near = Neighborhood(Grid([[2, 2]]), torch.randn(4, 0, 2))
    out = sampled_convolution(torch.randn(4, 3), torch.randn(5, 3, 0), near, backend=backend)
    assert torch.equal(out, torch.zeros(4, 5))


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_samples_outside(backend):
    near = Neighborhood(Grid([[3, 4]]), torch.full((12, 2, 2), 40.0))
    out = sampled_convolution(torch.randn(12, 3), torch.randn(5, 3, 2), near, backend=backend)
    assert torch.equal(out, torch.zeros(12, 5))


def test_backward_keeps_no_sampled_features():
    """Nothing of the size of ``[N, K, C]`` is kept for the backward pass."""
    grid = Grid([[6, 6]])
    near = Neighborhood(grid, reference.random_positions(grid, 9))
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        x, filters = torch.randn(36, 512), torch.randn(4, 512, 9)
        run_with_gradients(sampled_convolution, x, filters, near, backend="torch")
    assert kept
    # The input and the filters.
    assert max(kept) <= 36 * 512 < 36 * 9 * 512


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": torch.ones(3, 6)}, r"x: expected shape \[M, C\] = \[4, C\]"),
        ({"x": torch.ones(4)}, "x: "),
        ({"filters": torch.ones(2, 5, 5)}, r"filters: expected shape .* \[O, 6, 5\]"),
        ({"filters": torch.ones(2, 6, 4)}, "filters: "),
        ({"filters": torch.ones(2, 30)}, "filters: "),
        ({"backend": "fast"}, "backend: "),
    ],
)
def test_errors_name_the_argument(changes, match, backend):
    near = Neighborhood(Grid([[2, 2]]), torch.ones(3, 5, 2), receiver=Grid([[1, 3]]))
    given = {"x": torch.ones(4, 6), "filters": torch.ones(2, 6, 5)}
    with use_backend(backend):
        assert sampled_convolution(near=near, **given).shape == (3, 2)
        with pytest.raises(ValueError, match=f"^{match}"):
            sampled_convolution(near=near, **{**given, **changes})


@pytest.mark.parametrize("backend", backends.BACKENDS)
def test_filters_without_outputs(backend):
    grid = Grid([[2, 3]])
    near = Neighborhood(grid, grid.pos.unsqueeze(1).repeat(1, 3, 1))
    x = torch.randn(6, 4, requires_grad=True)
    out = sampled_convolution(x, torch.empty(0, 4, 3), near, backend=backend)
    assert out.shape == (6, 0)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad, torch.zeros(6, 4))

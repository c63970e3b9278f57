import pytest
import torch
import torch.nn.functional as F

from dyngraph.ops import project as module
from dyngraph.ops.project import project


@pytest.fixture(params=["small", "large"], autouse=True)
def size(request, monkeypatch):
    """Every test once as a matrix product and once, with two threads, as a convolution."""
    threads = torch.get_num_threads()
    if request.param == "large":
        monkeypatch.setattr(module, "_LARGE", 0)
        torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_it_is_a_convolution_where_that_is_fast(size, request, monkeypatch):
    called = []
    conv2d = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *args: called.append(args) or conv2d(*args))
    project(*make())
    assert bool(called) == ("large" in request.node.callspec.id)


def make(num_nodes=7, channels=5, outputs=3, dtype=torch.float32):
    return (
        torch.randn(num_nodes, channels, dtype=dtype, requires_grad=True),
        torch.randn(outputs, channels, dtype=dtype, requires_grad=True),
        torch.randn(outputs, dtype=dtype, requires_grad=True),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 5, 3), (1, 1, 1), (0, 5, 3), (7, 5, 0), (70, 33, 17)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_it_is_the_linear_map(shape, with_bias, dtype):
    x, weight, bias = make(*shape, dtype=dtype)
    inputs = (x, weight, bias) if with_bias else (x, weight)
    out, expected = project(*inputs), F.linear(*inputs)
    assert out.dtype == expected.dtype
    assert out.is_contiguous()
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(out, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_rows_may_lie_apart():
    x, weight, bias = make(5, 7)
    for table in (x.t().contiguous().t(), torch.stack([x, x], dim=1)[:, 1], x.repeat(1, 2)[:, :7]):
        torch.testing.assert_close(project(table, weight[:, :7], bias), F.linear(x, weight, bias))


def test_it_follows_autocast():
    x, weight, bias = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert project(x, weight, bias).dtype == torch.bfloat16

import backends
import pytest
import torch
import torchvision.ops
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from dyngraph.ops import deform_conv2d

# Where Triton's interpreter would take minutes.
BACKENDS = [name for name in backends.BACKENDS if name != "triton"]

#: in and out channels, groups of weights, groups of offsets, kernel, and the geometry.
CASES = {
    "plain": (4, 6, 1, 1, (3, 3), {"padding": 1}),
    "no padding": (4, 6, 1, 1, (3, 3), {}),
    "stride": (4, 6, 1, 1, (3, 3), {"stride": 2, "padding": 1}),
    "uneven": (3, 2, 1, 1, (2, 3), {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)}),
    "one tap": (4, 5, 1, 1, (1, 1), {}),
    "groups of weights": (8, 4, 4, 1, (3, 3), {"padding": 1}),
    "groups of offsets": (8, 3, 1, 4, (3, 3), {"padding": 1}),
    "as many of both": (8, 4, 2, 2, (3, 3), {"padding": 1}),
    "more of weights": (8, 4, 4, 2, (3, 3), {"padding": 1}),
    "more of offsets": (8, 4, 2, 4, (3, 3), {"padding": 1}),
    "two and three": (12, 4, 2, 3, (3, 3), {"padding": 1}),
    "two and three, with a stride": (12, 4, 2, 3, (3, 3), {"padding": 1, "stride": 2}),
    "each channel its own": (6, 6, 6, 1, (3, 3), {"padding": 2, "dilation": 2}),
}


def make(name, size=(5, 7), batch_size=2, dtype=torch.float64):
    channels, outputs, groups, own, kernel, geometry = CASES[name]
    torch.manual_seed(0)
    x = torch.randn(batch_size, channels, *size)
    weight = torch.randn(outputs, channels // groups, *kernel)
    shape = torch.nn.functional.conv2d(x, weight, groups=groups, **geometry).shape[2:]
    taps = kernel[0] * kernel[1]
    # Some samples leave the map, and more than one step.
    offset = 2 * torch.randn(batch_size, 2 * own * taps, *shape)
    mask = torch.rand(batch_size, own * taps, *shape)
    tensors = [x, offset, weight, torch.randn(outputs), mask]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors], geometry


def with_gradients(function, leaves, *, bias=True, mask=True, **options):
    x, offset, weight, b, m = leaves
    out = function(x, offset, weight, b if bias else None, mask=m if mask else None, **options)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    used = [x, offset, weight, *([b] if bias else []), *([m] if mask else [])]
    return out, torch.autograd.grad(out, used, cotangent)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torchvision(name, modulated, backend):
    leaves, geometry = make(name)
    used = {"bias": modulated, "mask": modulated}
    got = with_gradients(deform_conv2d, leaves, **used, **geometry, backend=backend)
    want = with_gradients(torchvision.ops.deform_conv2d, leaves, **used, **geometry)
    # Sums of up to a few hundred terms of size 1 to 10.
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def by_loops(x, offset, weight, bias, mask, stride, padding, dilation):
    """The formula, one number after the other."""
    batch_size, channels, height, width = x.shape
    outputs, per_group, *kernel = weight.shape
    taps = kernel[0] * kernel[1]
    groups, own = channels // per_group, offset.shape[1] // (2 * taps)
    y = bias.view(1, -1, 1, 1).expand(batch_size, -1, *offset.shape[2:]).clone()
    for b, o, i, j in torch.cartesian_prod(*map(torch.arange, y.shape)).tolist():
        first = o // (outputs // groups) * per_group
        for c in range(per_group):
            h = (first + c) // (channels // own)
            for k in range(taps):
                dy, dx = offset[b, 2 * (h * taps + k) : 2 * (h * taps + k) + 2, i, j].tolist()
                py = i * stride[0] - padding[0] + k // kernel[1] * dilation[0] + dy
                px = j * stride[1] - padding[1] + k % kernel[1] * dilation[1] + dx
                for r, q in torch.cartesian_prod(torch.arange(height), torch.arange(width)):
                    share = max(0, 1 - abs(py - int(r))) * max(0, 1 - abs(px - int(q)))
                    if share:
                        value = share * mask[b, h * taps + k, i, j] * x[b, first + c, r, q]
                        y[b, o, i, j] += weight[o, c, k // kernel[1], k % kernel[1]] * value
    return y


@pytest.mark.parametrize("groups", [(1, 1), (1, 2), (2, 1), (2, 4)])
def test_it_is_the_formula(groups):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 3, 2), torch.randn(2, 4 // groups[0], 2, 1)
    geometry = {"stride": (1, 2), "padding": (1, 0), "dilation": (2, 1)}
    offset, mask = torch.randn(1, 4 * groups[1], 3, 1), torch.rand(1, 2 * groups[1], 3, 1)
    tensors = [t.double() for t in (x, offset, weight, torch.randn(2), mask)]
    *first, mask = tensors
    out = deform_conv2d(*first, mask=mask, **geometry)
    torch.testing.assert_close(out, by_loops(*tensors, **geometry), rtol=1e-13, atol=1e-13)


def by_onnx(x, offset, weight, bias, mask, groups, own, geometry):
    """ONNX's own implementation of its operator."""
    both = {k: v if isinstance(v, tuple) else (v, v) for k, v in geometry.items()}
    padding = both.get("padding", (0, 0))
    node = helper.make_node(
        "DeformConv",
        ["x", "w", "offset", "b", "mask"],
        ["y"],
        group=groups,
        offset_group=own,
        kernel_shape=list(weight.shape[2:]),
        strides=list(both.get("stride", (1, 1))),
        dilations=list(both.get("dilation", (1, 1))),
        pads=[*padding, *padding],
    )
    given = {"x": x, "w": weight, "offset": offset, "b": bias, "mask": mask}
    infos = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in given.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph([node], "deform", infos, [output]))
    arrays = {k: v.detach().numpy() for k, v in given.items()}
    (y,) = ReferenceEvaluator(model).run(None, arrays)
    return torch.from_numpy(y)


@pytest.mark.parametrize("name", ["plain", "uneven", "more of weights", "more of offsets"])
def test_it_is_the_operator_of_onnx(name):
    (x, offset, weight, bias, mask), geometry = make(name, (4, 5), 1, torch.float32)
    out = deform_conv2d(x, offset, weight, bias, mask=mask, **geometry)
    _, _, groups, own, _, _ = CASES[name]
    want = by_onnx(x, offset, weight, bias, mask, groups, own, geometry)
    # float32: up to 72 terms.
    torch.testing.assert_close(out.detach(), want, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["uneven", "more of weights", "more of offsets"])
def test_derivatives(name):
    leaves, geometry = make(name, (2, 3), 1)

    def function(x, offset, weight, bias, mask):
        return deform_conv2d(x, offset, weight, bias, mask=mask, **geometry)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype):
    leaves, geometry = make("more of weights", dtype=torch.float32)
    x, offset, weight, bias, mask = (leaf.detach().to(dtype) for leaf in leaves)
    out = deform_conv2d(x, offset, weight, bias, mask=mask, **geometry, backend="torch")
    exact = [t.double() for t in (x, offset, weight, bias)]
    want = deform_conv2d(*exact, mask=mask.double(), **geometry)
    assert out.dtype == dtype
    # The sum is rounded, the bias added and the result rounded again.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), want, rtol=eps, atol=eps * float(want.abs().max()))


def test_an_empty_batch():
    leaves, geometry = make("plain", batch_size=0)
    got = with_gradients(deform_conv2d, leaves, **geometry)
    assert got[0].shape == (0, 6, 5, 7)
    assert not any(grad.any() for grad in got[1])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"input": torch.ones(4, 5, 7)}, r"input: expected four axes, got shape \[4, 5, 7\]"),
        ({"offset": torch.ones(2, 18, 5, 6)}, r"offset: expected .* \[2, 18 groups, 5, 7\]"),
        ({"offset": torch.ones(2, 17, 5, 7)}, "offset: "),
        ({"offset": torch.ones(2, 54, 5, 7)}, "offset: .* divides 4 channels"),
        ({"mask": torch.ones(2, 8, 5, 7)}, r"mask: expected shape \[2, 9, 5, 7\]"),
        ({"weight": torch.ones(6, 3, 3, 3)}, "weight: expected a divisor of 4 channels"),
    ],
)
def test_errors_name_the_argument(changes, match):
    given = {
        "input": torch.ones(2, 4, 5, 7),
        "offset": torch.ones(2, 18, 5, 7),
        "weight": torch.ones(6, 4, 3, 3),
        "padding": 1,
        "mask": torch.ones(2, 9, 5, 7),
    }
    assert deform_conv2d(**given).shape == (2, 6, 5, 7)
    with pytest.raises(ValueError, match=f"^{match}"):
        deform_conv2d(**{**given, **changes})

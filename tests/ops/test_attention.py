import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dyngraph.ops.attention import attention


def make(
    value=True,
    bias=True,
    index_dtype=torch.int32,
    table_rows=9,
    recompute=False,
):
    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    return (
        randn(5, 4),
        randn(table_rows, 4),
        randn(table_rows, 6) if value else None,
        torch.randint(table_rows, (5, 2, 3), dtype=index_dtype),
        randn(5, 2, 3),
        randn(2, 5, 3) if bias else None,
        2,
        0.5,
        recompute,
    )


@pytest.mark.parametrize("table_rows", [9, 2])
@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
def test_opcheck(value, bias, table_rows, recompute):
    torch.library.opcheck(
        torch.ops.dyngraph.attention.default,
        make(value, bias, table_rows=table_rows, recompute=recompute),
    )


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("value", [True, False])
def test_gradients_of_output_and_attention(value, recompute):
    query, key, values, index, weight, bias, *options = make(value, recompute=recompute)

    def outputs(query, key, weight, bias, *values):
        return attention(query, key, values[0] if values else None, index, weight, bias, *options)[
            :2
        ]

    inputs = (query, key, weight, bias, *([values] if value else []))
    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradgradcheck(outputs, inputs)


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("value", [True, False])
def test_gradients_that_can_be_differentiated_are_the_same(value, output):
    inputs = make(value)
    tensors = [t for t in inputs if isinstance(t, torch.Tensor) and t.requires_grad]
    out = attention(*inputs)[output]
    grad = torch.randn_like(out)
    first = torch.autograd.grad(out, tensors, grad, retain_graph=True)
    second = torch.autograd.grad(out, tensors, grad, create_graph=True)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("value", [True, False])
def test_recomputing_changes_nothing(value):
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        inputs = make(value, recompute=recompute)
        out, alpha, saved = attention(*inputs)
        assert (saved.numel() == 0) == recompute
        tensors = [t for t in inputs if isinstance(t, torch.Tensor) and t.requires_grad]
        loss = out.square().sum() + alpha.square().sum()
        results.append([out, alpha, *torch.autograd.grad(loss, tensors)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_gradients_that_nobody_asked_for_are_none():
    arguments = make()
    for asked in (0, 1, 2, 4, 5):
        frozen = [
            a.detach().requires_grad_(n == asked)
            if isinstance(a, torch.Tensor) and a.is_floating_point()
            else a
            for n, a in enumerate(arguments)
        ]
        attention(*frozen)[0].square().sum().backward()
        attention(*arguments)[0].square().sum().backward()
        torch.testing.assert_close(frozen[asked].grad, arguments[asked].grad)
        for n, a in enumerate(frozen):
            if n != asked and isinstance(a, torch.Tensor):
                assert a.grad is None
        for a in arguments:
            if isinstance(a, torch.Tensor):
                a.grad = None


@pytest.mark.parametrize("value", [True, False])
def test_flops_are_those_of_the_definition(value):
    arguments = make(value)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        attention(*arguments)
    # 5 nodes, 3 samples: interpolate from 2 corners each table once, 4-channel scores, sums.
    channels = 6 if value else 4
    interpolated = 2 * (4 + 6) if value else 2 * 4
    assert counter.get_total_flops() == 2 * 5 * 3 * (interpolated + 4 + channels)

import pytest
import torch
from torch.autograd import forward_ad

from dyngraph import Grid
from dyngraph.nn.conv import (
    CrissCrossConv,
    DeformableAttentionConv,
    DGMN2Conv,
    DGMNConv,
    NonLocalConv,
    PositionAttentionConv,
    RepGraphConv,
)

GRID = Grid([[3, 2], [2, 2]])
#: With walks, cells, steps and groups, and positions that depend on the nodes.
LAYERS = {
    "RepGraph": lambda backend: RepGraphConv(4, 4, 3, groups=2, spread=1.5, backend=backend),
    "Grid RepGraph": lambda backend: RepGraphConv(
        4, None, 3, cell_size=2, spread=1.5, backend=backend
    ),
    "DGMN": lambda backend: DGMNConv(4, (1, 2), groups=2, num_steps=2, backend=backend),
    "DGMN sum": lambda backend: DGMNConv(4, (1,), 2, fusion="sum", bias=True, backend=backend),
    "DGMN2": lambda backend: DGMN2Conv(4, 2, (3, 3), backend=backend),
    "deformable attention": lambda backend: DeformableAttentionConv(
        4, 2, num_levels=2, backend=backend
    ),
    "Non-local": lambda _: NonLocalConv(4, 4, groups=2),
    "Non-local without projections": lambda _: NonLocalConv(4, None),
    "position attention": lambda _: PositionAttentionConv(4),
}
COMPILED = [
    *((layer, "torch") for layer in LAYERS),
    *((layer, "pyg") for layer in LAYERS if "DGMN" in layer or "RepGraph" in layer),
]
layers = pytest.mark.parametrize(("layer", "backend"), [*COMPILED, ("RepGraph", "triton")])


def make(layer, backend):
    conv = LAYERS[layer](backend).double()
    for parameter in conv.parameters():
        # No walk and no fusion that starts at zero.
        torch.nn.init.normal_(parameter, std=0.3)
    return conv, torch.randn(GRID.num_nodes, 4, dtype=torch.float64)


@layers
def test_jvp_equals_finite_differences(layer, backend):
    conv, x = make(layer, backend)
    tangent = torch.randn_like(x)
    out, got = torch.func.jvp(lambda x: conv(x, GRID), (x,), (tangent,))
    torch.testing.assert_close(out, conv(x, GRID), atol=1e-12, rtol=1e-12)
    step = 1e-6
    want = (conv(x + step * tangent, GRID) - conv(x - step * tangent, GRID)) / (2 * step)
    assert got.abs().max() > 0.01
    # Rounding 1e-16 / step, truncation step^2, of outputs and third derivatives of size 100.
    torch.testing.assert_close(got, want, atol=1e-7, rtol=1e-7)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(conv(forward_ad.make_dual(x, tangent), GRID)).tangent
    torch.testing.assert_close(dual, got, atol=1e-12, rtol=1e-12)


# Row by row, Triton's interpreter would take minutes.
@pytest.mark.parametrize(("layer", "backend"), COMPILED)
def test_jacobians_in_both_modes_are_equal(layer, backend):
    conv, x = make(layer, backend)

    def function(x):
        return conv(x, GRID)

    want = torch.autograd.functional.jacobian(function, x)
    for jacobian in (torch.func.jacfwd, torch.func.jacrev):
        torch.testing.assert_close(jacobian(function)(x), want, atol=1e-11, rtol=1e-11)
    for strategy in ("reverse-mode", "forward-mode"):
        got = torch.autograd.functional.jacobian(function, x, vectorize=True, strategy=strategy)
        torch.testing.assert_close(got, want, atol=1e-11, rtol=1e-11)


@layers
def test_hessian_equals_differentiating_twice(layer, backend):
    conv, x = make(layer, backend)

    def loss(x):
        return conv(x, GRID).square().sum()

    vector = torch.randn_like(x)
    hessian = torch.func.hessian(loss)(x)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (want,) = torch.autograd.grad(grad, leaf, vector)
    got = torch.tensordot(hessian, vector, 2)
    # Up to 1e3 large, of sums of a hundred terms.
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-10)


@layers
def test_vmap_equals_a_loop(layer, backend):
    conv, _ = make(layer, backend)
    batch = torch.randn(3, GRID.num_nodes, 4, dtype=torch.float64)
    want = torch.stack([conv(x, GRID) for x in batch])
    got = torch.vmap(lambda x: conv(x, GRID))(batch)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


@layers
def test_gradients_of_a_functional_call(layer, backend):
    conv, x = make(layer, backend)
    parameters = dict(conv.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(conv, parameters, (x, GRID)).square().sum()

    got, got_x = torch.func.grad(loss, (0, 1))(parameters, x)
    leaf = x.clone().requires_grad_()
    want_x, *want = torch.autograd.grad(loss(parameters, leaf), [leaf, *parameters.values()])
    torch.testing.assert_close([*got.values()], want, atol=1e-10, rtol=1e-11)
    torch.testing.assert_close(got_x, want_x, atol=1e-10, rtol=1e-11)


def test_second_derivatives_of_fused_attention_leave_the_first_alone():
    conv, x = make("Non-local", "torch")
    x.requires_grad_()
    out = conv(x, GRID)
    weights = torch.randn_like(out)
    (fused,) = torch.autograd.grad(out, x, weights, retain_graph=True)
    (formula,) = torch.autograd.grad(out, x, weights, create_graph=True)
    assert formula.requires_grad
    assert not fused.requires_grad
    torch.testing.assert_close(formula, fused, atol=1e-13, rtol=1e-13)
    assert torch.autograd.gradgradcheck(lambda x: conv(x, GRID), x)
    # Its result may be changed in place, as that of fused attention.
    conv(x, GRID).mul_(2).sum().backward()
    (twice,) = torch.autograd.grad(conv(x, GRID).sum(), x)
    torch.testing.assert_close(x.grad, 2 * twice, atol=1e-13, rtol=1e-13)


def test_criss_cross_attention():
    grid = Grid([[3, 2]])
    conv = CrissCrossConv(4).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    forward, reverse = (
        jacobian(lambda x: conv(x, grid))(x) for jacobian in (torch.func.jacfwd, torch.func.jacrev)
    )
    assert forward.abs().max() > 0.01
    torch.testing.assert_close(forward, reverse, atol=1e-12, rtol=1e-12)

"""The released DGMN code, from vectors that were computed with it: see ``tests/golden``."""

from pathlib import Path
from string import ascii_lowercase

import pytest
import torch

from dyngraph import Grid, Neighborhood
from dyngraph.nn import DGMNBlock
from dyngraph.ops import interpolate, sampled_convolution, use_backend
from dyngraph.samplers import DilatedSampler

GOLDEN = Path(__file__).parents[2] / "golden"
LAYERS = [
    "re33_none_g1_d1-2-3-5",
    "re33_none_g4_d1-2-3-5",
    "re33_deform_g1_d1-2-3-5",
    "re33_deform_g4_d1-2-3-5",
    "re33_deformatt_g1_d1-2-3-5",
    "re33_deformatt_g2_intermediates",
    "re33_deformatt_g4_c16_fwd",
    "re33_deformatt_g4_d1-2-3-5",
    "clean_deformatt_g2_d1-6-12-24-36",
    "clean_deformatt_g4_d1-2",
]
SLIPPED = [name for name in LAYERS if name.startswith("re33_deformatt")]
BACKENDS = ["torch", "pyg"]
# The error of a tensor, relative to the size of what is summed. Measured: 7e-15 and 3e-6.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5}


def load(name):
    return torch.load(GOLDEN / f"{name}.pt", weights_only=True)


def official_name(name):
    """``gamma.i``, ``off.i`` and ``kernel.i`` under the names of the released layer."""
    part, _, q = name.partition(".")
    if not q.isdigit():
        return name
    if part == "gamma":
        return f"gamma{int(q) + 1}"
    return f"{part}_conv{ascii_lowercase[int(q)]}.weight"


def make_block(golden, dtype, **kwargs):
    weights = {official_name(name): w.to(dtype) for name, w in golden["state_dict"].items()}
    config = golden["config"]
    kwargs.setdefault("legacy_affinity", golden["name"].startswith("re33"))
    return DGMNBlock.from_official(weights, config["dilation"], config["group"], **kwargs)


def gradient(block, name):
    """The gradient of a weight, by the name of the released layer."""
    if name.startswith("gamma"):
        return block.conv.beta.grad[int(name.removeprefix("gamma")) - 1].view(1)
    message = block.conv.messages[ascii_lowercase.index(name.removesuffix(".weight")[-1])]
    if name.startswith("off"):
        return message.sampler.walk.weight.grad
    return message.prediction.grad.unflatten(2, (3, 3))


def assert_relative(got, want, tolerance, scale=None):
    assert got.shape == want.shape
    scale = want.abs().max() if scale is None else scale
    error = (got.double() - want).abs().max()
    assert error <= tolerance * scale, f"error {error:.2e} of {scale:.2e}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", LAYERS)
def test_the_released_layer(name, dtype, backend):
    golden = load(name)
    block = make_block(golden, dtype)
    x = golden["x"].to(dtype).requires_grad_()
    cotangent = golden["cotangent"].to(dtype)
    with use_backend(backend):
        out = block(x)
        (out * cotangent).sum().backward()
    assert out.dtype == dtype
    tolerance = TOLERANCE[dtype]
    assert_relative(out, golden["output"], tolerance)
    assert_relative(x.grad, golden["grad_x"], tolerance)
    grid = Grid.of(x)
    nodes, weights = grid.flatten(x).detach(), grid.flatten(cotangent)
    for source, want in golden.get("grad_params", {}).items():
        target = official_name(source)
        scale = None
        if target.startswith("gamma"):
            # The sum of message * cotangent over all nodes: down to 0.001 of the sum of its
            # absolute terms, by cancellation, which is as far as its rounding errors reach.
            message = block.conv.messages[int(target.removeprefix("gamma")) - 1]
            scale = (message(nodes, grid) * weights).abs().sum().item()
        assert_relative(gradient(block, target), want, tolerance, scale)


def test_the_gradients_cover_all_parameters():
    golden = load("re33_deformatt_g4_d1-2-3-5")
    block = make_block(golden, torch.float64)
    sizes = [gradient.numel() for gradient in golden["grad_params"].values()]
    assert sum(sizes) == sum(p.numel() for p in block.parameters())


@pytest.mark.parametrize("name", SLIPPED)
def test_the_fourth_branch_has_the_released_slip(name):
    golden = load(name)
    x, want = golden["x"].double(), golden["output"]
    fixed = make_block(golden, torch.float64, legacy_affinity=False)
    assert (fixed(x) - want).abs().max() > 1e-2 * want.abs().max()
    legacy = make_block(golden, torch.float64)
    grid = Grid.of(x)
    for q, (right, slipped) in enumerate(
        zip(fixed.conv.messages, legacy.conv.messages, strict=True)
    ):
        same = torch.equal(right(grid.flatten(x), grid), slipped(grid.flatten(x), grid))
        assert same == (q != 3)


def test_the_slip_needs_a_fourth_branch_with_affinities():
    for name in ("re33_deform_g4_d1-2-3-5", "re33_none_g4_d1-2-3-5", "clean_deformatt_g4_d1-2"):
        golden = load(name)
        x = golden["x"].double()
        outs = [make_block(golden, torch.float64, legacy_affinity=flag)(x) for flag in (0, 1)]
        assert torch.equal(*outs)
    golden = load("clean_deformatt_g2_d1-6-12-24-36")
    slipped = make_block(golden, torch.float64, legacy_affinity=True)(golden["x"].double())
    assert (slipped - golden["output"]).abs().max() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_intermediates(backend):
    golden = load("re33_deformatt_g2_intermediates")
    block = make_block(golden, torch.float64)
    maps = golden["x"].double()
    grid = Grid.of(maps)
    x = grid.flatten(maps)
    for q, message in enumerate(block.conv.messages):
        letter = ascii_lowercase[q]
        near = message.sampler(x, grid)
        taps = DilatedSampler([golden["config"]["dilation"][q]])(x, grid)
        walks = grid.unflatten((near.pos - taps.pos).flatten(1))
        samples = interpolate(x, near, backend=backend)
        z = sampled_convolution(x, message.prediction, near, backend=backend)
        want = golden["intermediates"]
        # Walks come back from a difference of coordinates of up to 10.
        assert_relative(walks, want[f"off_conv{letter}"], 1e-13)
        assert_relative(unfolded(samples, 2), want[f"unfold{q + 1}"], 1e-13)
        assert_relative(grid.unflatten(z), want[f"kernel_conv{letter}"], 1e-13)


# --- operators ----------------------------------------------------------------------------------


def unfolded(samples, batch_size):
    """Samples ``[N, K, C]`` as :class:`torch.nn.Unfold` has them, ``[B, C * K, L]``."""
    return samples.unflatten(0, (batch_size, -1)).permute(0, 3, 2, 1).flatten(1, 2)


def walking_samples(golden, dilation):
    """The nodes, the walks and the samples, at the node + tap + walk."""
    maps = golden["x"].double()
    grid = Grid.of(maps)
    x = grid.flatten(maps).requires_grad_()
    walks = grid.flatten(golden["offset"].double()).unflatten(1, (9, 2)).requires_grad_()
    near = Neighborhood(grid, DilatedSampler([dilation])(x, grid).pos + walks)
    return x, walks, near


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name", ["op_unfold_d1", "op_unfold_d2", "op_unfold_int_offset_d1", "op_unfold_zero_offset_d2"]
)
def test_walking_samples(name, backend):
    golden = load(name)
    x, walks, near = walking_samples(golden, golden["config"]["dilation"])
    out = unfolded(interpolate(x, near, backend=backend), 2)
    (out * golden["cotangent"].double()).sum().backward()
    assert_relative(out, golden["output"], 1e-13)
    assert_relative(near.grid.unflatten(x.grad), golden["grad_x"], 1e-13)
    grad, want = near.grid.unflatten(walks.grad.flatten(1)), golden["grad_offset"]
    edge = golden.get("edge_mask", torch.zeros_like(want, dtype=torch.bool))
    assert edge.float().mean() < 0.15
    assert_relative(grad[~edge], want[~edge], 1e-13)
    if edge.any():
        # At exactly -1 the derivative jumps; torchvision takes the same side as the library.
        assert_relative(grad, golden["grad_offset_torchvision"], 1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_deformable_convolution(backend):
    golden = load("op_deform_conv_d2")
    x, walks, near = walking_samples(golden, 2)
    filters = golden["weight"].double().flatten(2).requires_grad_()
    out = near.grid.unflatten(sampled_convolution(x, filters, near, backend=backend))
    (out * golden["cotangent"].double()).sum().backward()
    assert_relative(out, golden["output"], 1e-13)
    assert_relative(near.grid.unflatten(x.grad), golden["grad_x"], 1e-13)
    assert_relative(near.grid.unflatten(walks.grad.flatten(1)), golden["grad_offset"], 1e-13)
    assert_relative(filters.grad, golden["grad_weight"].flatten(2), 1e-13)

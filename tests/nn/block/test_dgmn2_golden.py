"""The released DGMN2 code, from vectors that were computed with it: see ``tests/golden``."""

from pathlib import Path

import pytest
import torch

from dyngraph import Grid
from dyngraph.models import DGMN2, DGMN2Classifier
from dyngraph.nn import DGMN2Block, DGMN2Conv
from dyngraph.nn.relative_position import RelativePosition
from dyngraph.ops import use_backend

GOLDEN = Path(__file__).parents[2] / "golden"
BACKENDS = ["torch", "pyg"]
# The error of a tensor, relative to its largest entry. Measured: 4e-15.
TOLERANCE = 1e-13


def load(name):
    return torch.load(GOLDEN / f"dgmn2_{name}.pt", weights_only=True)


def double(tensors):
    return {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}


def assert_relative(got, want):
    assert got.shape == want.shape
    error = (got - want).abs().max() / want.abs().max()
    assert error <= TOLERANCE, f"error {error:.2e}"


def assert_reproduced(golden, module, run):
    """Outputs and all gradients, from weights under the released names."""
    module.double().load_state_dict(double(golden["state_dict"]))
    x = golden["x"].double().requires_grad_()
    out = run(x)
    (out * golden["cotangent"].double()).sum().backward()
    assert_relative(out, golden["output"])
    assert_relative(x.grad, golden["grad_x"])
    grads = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert grads.keys() == golden["grad_params"].keys()
    for name, grad in grads.items():
        assert_relative(grad, golden["grad_params"][name])


@pytest.mark.parametrize("name", ["relpos_cla_fea5x5_in5x5", "relpos_det_fea5x4_in3x6"])
def test_relative_positions(name):
    golden = load(name)
    config = golden["config"]
    module = RelativePosition(config["dim_head"], config["fea_size"], config["num_samples"])
    grid = Grid([[config["H"], config["W"]]] * len(golden["x"]))

    def run(x):
        return module(x.flatten(0, 3).unsqueeze(1), grid).view(golden["output"].shape)

    assert_reproduced(golden, module, run)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name", ["cla_fea7x7_in7x7_bias", "cla_fea7x7_in7x7_nobias", "det_fea7x9_in7x9_bias"]
)
def test_attention(name, backend):
    golden = load(f"attn_{name}")
    config = golden["config"]
    conv = DGMN2Conv(
        config["dim"], config["num_heads"], config["fea_size"], bias=config["qkv_bias"]
    )
    grid = Grid([[config["H"], config["W"]]] * config["B"])

    def run(x):
        with use_backend(backend):
            return conv(x.flatten(0, 1), grid).view_as(x)

    assert_reproduced(golden, conv, run)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_block(backend):
    golden = load("block_det_fea7x9_in7x9_bias")
    config = golden["config"]
    block = DGMN2Block(
        config["dim"], config["num_heads"], config["fea_size"], mlp_ratio=int(config["mlp_ratio"])
    )

    def run(x):
        maps = x.transpose(1, 2).unflatten(2, (config["H"], config["W"]))
        with use_backend(backend):
            return block(maps).flatten(2).transpose(1, 2)

    assert_reproduced(golden, block, run)


def backbone(make, **kwargs):
    config = load("backbone_tiny.state")["config"]
    return make(
        depths=config["depths"],
        channels=config["embed_dims"],
        heads=config["num_heads"],
        mlp_ratios=config["mlp_ratios"],
        **kwargs,
    )


@pytest.mark.parametrize("size", ["64x64", "96x128"])
def test_the_backbone(size):
    golden, weights = load(f"backbone_det_{size}"), load("backbone_tiny.state")["state_dict"]
    model = backbone(DGMN2).double().eval()
    names = {name for name in weights if not name.startswith("head.")}
    model.load_state_dict(double({name: weights[name] for name in names}))
    shape = golden["config"]["x_shape"]
    if "x" in golden:
        x = golden["x"]
    else:
        count = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        x = torch.sin(0.37 * count + 0.1).float().view(shape)
    x = x.double().requires_grad_()
    maps = model(x)
    for got, want, stride in zip(maps, golden["outputs"], model.strides, strict=True):
        assert got.shape[2:] == (shape[2] // stride, shape[3] // stride)
        assert_relative(got, want)
    if "grad_x" in golden:
        pairs = zip(maps, golden["cotangents"], strict=True)
        sum((map_ * cotangent.double()).sum() for map_, cotangent in pairs).backward()
        assert_relative(x.grad, golden["grad_x"])


def test_the_names_of_released_weights():
    weights = load("backbone_tiny.state")["state_dict"]
    model = backbone(DGMN2Classifier, num_classes=10)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert list(shapes.items()) == [(name, tensor.shape) for name, tensor in weights.items()]
    model.load_state_dict(weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())

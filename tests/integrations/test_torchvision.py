import copy
import pickle

import pytest
import torch
from torch import nn
from torchvision.ops import DeformConv2d

from dyngraph.integrations.torchvision import accelerate, restore

LAYERS = {
    "plain": (DeformConv2d(4, 6, 3, padding=1), 18),
    "uneven": (DeformConv2d(4, 6, (2, 3), stride=(1, 2), padding=(2, 1), dilation=(2, 1)), 12),
    "groups": (DeformConv2d(4, 6, 3, groups=2, bias=False), 18),
    "offset groups": (DeformConv2d(4, 6, 3, padding=1), 36),
}


class Net(nn.Module):
    """A layer, with convolutions that say where it samples."""

    def __init__(self, layer, num_offsets, modulated):
        super().__init__()
        geometry = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
        self.offset = nn.Conv2d(4, num_offsets, layer.kernel_size, **geometry)
        self.mask = nn.Conv2d(4, num_offsets // 2, layer.kernel_size, **geometry)
        self.layer = copy.deepcopy(layer)
        self.modulated = modulated

    def forward(self, x):
        mask = self.mask(x).sigmoid() if self.modulated else None
        return self.layer(x, 3 * self.offset(x), mask)


def make(name, modulated=True, dtype=torch.float64):
    torch.manual_seed(0)
    return Net(*LAYERS[name], modulated).to(dtype), torch.randn(2, 4, 6, 7, dtype=dtype)


def with_gradients(net, x):
    out = net(x)
    parts = [net.layer, net.offset, *([net.mask] if net.modulated else [])]
    used = [parameter for part in parts for parameter in part.parameters()]
    return out, torch.autograd.grad(out.square().sum(), used)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_what_they_did(name, modulated, dtype):
    net, x = make(name, modulated, dtype)
    keys, text = list(net.state_dict()), repr(net)
    want = with_gradients(net, x)
    assert accelerate(net) == 1
    assert (list(net.state_dict()), repr(net)) == (keys, text)
    assert isinstance(net.layer, DeformConv2d)
    got = with_gradients(net, x)
    # Sums over all nodes, of size up to 100.
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    size = max(float(grad.abs().max()) for grad in want[1])
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * size)


def test_undoing():
    net, x = make("plain")
    want = net(x)
    assert (accelerate(net), accelerate(net), restore(net), restore(net)) == (1, 0, 1, 0)
    assert type(net.layer) is DeformConv2d
    torch.testing.assert_close(net(x), want, rtol=0, atol=0)


def test_copies_and_pickles_are_accelerated():
    net, x = make("plain")
    accelerate(net)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)
        assert restore(other) == 1
    assert restore(net) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "uneven"])
def test_compiling_and_exporting(name):
    torch.compiler.reset()
    net, x = make(name)
    want = net(x)
    accelerate(net)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), want)
    program = torch.export.export(net, (x,))
    assert any("dyngraph" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), want)


def test_subclasses_are_accelerated_unless_they_compute_something_else():
    class Named(DeformConv2d):
        pass

    class Doubled(DeformConv2d):
        def forward(self, input, offset, mask=None):
            return 2 * super().forward(input, offset, mask)

    model = nn.ModuleList([Named(4, 6, 3), Doubled(4, 6, 3), nn.Conv2d(4, 6, 3)])
    assert accelerate(model) == 1
    assert isinstance(model[0], Named)
    assert type(model[1]) is Doubled

"""What a layer inside a model receives."""

import pytest
import torch
from torch import nn

from dyngraph import Grid
from dyngraph.models import SmallTrunk, segmenter
from dyngraph.nn import NonLocalConv, RepGraphConv
from dyngraph.viz import capture_input


def make_model():
    return segmenter(SmallTrunk(8), "repgraph", num_classes=5, head_channels=8)


@pytest.mark.parametrize("training", [False, True])
def test_captured_input(training):
    model = make_model().train(training)
    model.backbone[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.randn(2, 3, 21, 30)
    layer, x, grid = capture_input(model, RepGraphConv, image)
    assert layer is model.classifier[1].conv
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    model.eval()
    maps = model.classifier[0](model.backbone(image))
    assert grid == Grid.of(maps)
    assert torch.equal(grid.unflatten(x), maps)
    assert not x.requires_grad


def test_the_first_layer_of_the_type_is_taken():
    class TwoLayers(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = NonLocalConv(3, 3)
            self.second = NonLocalConv(3, 3)

        def forward(self, image):
            grid = Grid.of(image)
            return self.second(self.first(grid.flatten(image), grid), grid)

    model = TwoLayers()
    image = torch.randn(1, 3, 2, 2)
    layer, x, grid = capture_input(model, NonLocalConv, image)
    assert layer is model.first
    assert torch.equal(x, grid.flatten(image))


def test_models_without_such_a_layer():
    with pytest.raises(ValueError, match=r"^model: expected one with a NonLocalConv, got Segmen"):
        capture_input(make_model(), NonLocalConv, torch.randn(1, 3, 16, 16))


def test_a_model_that_fails_is_left_as_it_was():
    model = make_model()
    with pytest.raises(RuntimeError):
        capture_input(model, RepGraphConv, torch.randn(1, 4, 16, 16))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())

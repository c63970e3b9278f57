import pytest
import torch

from dyngraph.nn import BottleneckRepGraphBlock, DGMNBlock
from dyngraph.train import parameter_groups


@pytest.mark.parametrize("make", [BottleneckRepGraphBlock, DGMNBlock])
def test_all_but_biases_norms_and_scalars_decay(make):
    model = make(8)
    decayed, kept = parameter_groups(model, weight_decay=0.1)
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter in decayed["params"]:
        name = names.pop(id(parameter))
        assert not name.endswith("bias"), name
        assert "norm" not in name, name
    for parameter in kept["params"]:
        name = names.pop(id(parameter))
        assert name.endswith("bias") or "norm" in name or parameter.dim() == 0, name
    assert not names


def test_offsets_stay_where_they_are_without_a_gradient():
    model = BottleneckRepGraphBlock(8)
    offset, weight = model.conv.sampler.offset.bias.clone(), model.lin_reduce.weight.clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.SGD(parameter_groups(model, weight_decay=0.1), lr=0.1).step()
    assert torch.equal(model.conv.sampler.offset.bias, offset)
    torch.testing.assert_close(model.lin_reduce.weight, 0.99 * weight)


def test_frozen_parameters_are_left_out():
    model = BottleneckRepGraphBlock(8)
    model.lin_reduce.requires_grad_(False)
    groups = parameter_groups(model, weight_decay=0.1)
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    assert trained == {id(p) for p in model.parameters() if p is not model.lin_reduce.weight}

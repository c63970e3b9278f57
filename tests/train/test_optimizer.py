from functools import partial

import pytest
import torch
from torch import nn

from dyngraph.nn import BottleneckRepGraphBlock, DGMNBlock
from dyngraph.train import parameter_groups
from dyngraph.train.optimizer import make_optimizer


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


def test_optimizers_by_name():
    model = nn.Linear(2, 3)
    sgd = make_optimizer("sgd", model, lr=0.1, momentum=0.8, weight_decay=0.01)
    assert isinstance(sgd, torch.optim.SGD)
    assert [group["momentum"] for group in sgd.param_groups] == [0.8, 0.8]
    adamw = make_optimizer("adamw", model, lr=0.1, momentum=0.8, weight_decay=0.01)
    assert isinstance(adamw, torch.optim.AdamW)
    for optimizer in (sgd, adamw):
        assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    with pytest.raises(ValueError, match=r"^optimizer: expected one of .* got 'adam'"):
        make_optimizer("adam", model, lr=0.1, momentum=0.8, weight_decay=0.01)


def test_an_optimizer_of_ones_own_takes_the_settings_of_the_task():
    model = nn.Linear(2, 2)
    made = make_optimizer(
        partial(torch.optim.RAdam, betas=(0.5, 0.6)), model, 0.3, momentum=0.9, weight_decay=0.1
    )
    assert isinstance(made, torch.optim.RAdam)
    groups = [(group["lr"], group["betas"], group["weight_decay"]) for group in made.param_groups]
    assert groups == [(0.3, (0.5, 0.6), 0.1), (0.3, (0.5, 0.6), 0.0)]


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_an_optimizer_has_no_settings_beside_those_of_the_task(name):
    with pytest.raises(
        ValueError, match=f"^optimizer: expected {name} .*, as in the task, or none, got 0.2$"
    ):
        make_optimizer(
            partial(torch.optim.RAdam, **{name: 0.2}),
            nn.Linear(2, 2),
            0.3,
            momentum=0.9,
            weight_decay=0.1,
        )

"""Optimisers, and which parameters decay."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

OptimizerOption: TypeAlias = (
    Literal["sgd", "adamw"] | Callable[[Iterable[Any]], torch.optim.Optimizer]
)
"""``"sgd"``, ``"adamw"``, or a function that makes an optimiser for groups of parameters."""

OPTIMIZERS = ("sgd", "adamw")
"""The optimisers that have a name."""


def make_optimizer(
    optimizer: OptimizerOption, model: nn.Module, lr: float, *, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    r"""An optimiser for the parameters of a model, see :func:`parameter_groups`.

    Args:
        optimizer: ``"sgd"``, ``"adamw"``, or a function that makes an optimiser for groups of
            parameters, which come with learning rate and weight decay.
        model: The model.
        lr: The learning rate.
        momentum: The momentum of ``"sgd"``.
        weight_decay: The decay of parameters with two or more axes.

    Raises:
        ValueError: If ``optimizer`` is unknown, or sets its own learning rate or weight decay.
    """
    groups = [{**group, "lr": lr} for group in parameter_groups(model, weight_decay)]
    if not callable(optimizer):
        if check_optimizer(optimizer) == "sgd":
            return torch.optim.SGD(groups, lr, momentum)
        return torch.optim.AdamW(groups, lr)
    made = optimizer(groups)
    parameters = inspect.signature(type(made)).parameters
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        own = made.defaults.get(name, value)
        if name in parameters and own not in (value, parameters[name].default):
            raise ValueError(
                f"optimizer: expected {name} {value}, as in the task, or none, got {own}"
            )
    return made


def check_optimizer(optimizer: OptimizerOption) -> OptimizerOption:
    r"""Returns ``optimizer``, or raises a :class:`ValueError` if its name is unknown."""
    if not callable(optimizer) and optimizer not in OPTIMIZERS:
        raise ValueError(
            f"optimizer: expected one of {OPTIMIZERS}, or a function, got {optimizer!r}"
        )
    return optimizer


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    r"""Parameters for an optimiser: matrices and kernels decay; biases, norms and scalars don't.

    The biases of offsets and walks are positions: decay would pull all samples towards their node.
    Frozen parameters, which require no gradient, are left out.

    Args:
        model: The model.
        weight_decay: The decay of parameters with two or more axes.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.dim() > 1]
    kept = [p for p in trained if p.dim() <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]

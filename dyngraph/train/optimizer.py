"""Optimisers by name, and which parameters decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

OPTIMIZERS = ("sgd", "adamw")


def make_optimizer(
    name: str, model: nn.Module, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    r"""An optimiser of the parameters of a model, by :func:`parameter_groups`.

    Args:
        name: ``"sgd"`` or ``"adamw"``.
        model: The model.
        lr: The learning rate.
        momentum: That of ``"sgd"``.
        weight_decay: The decay of parameters of two and more axes.

    Raises:
        ValueError: If ``name`` is unknown.
    """
    parameters = parameter_groups(model, weight_decay)
    if check_optimizer(name) == "sgd":
        return torch.optim.SGD(parameters, lr, momentum)
    return torch.optim.AdamW(parameters, lr)


def check_optimizer(name: str) -> str:
    r"""Returns ``name``, or raises a :class:`ValueError` if there is no such optimiser."""
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer: expected one of {OPTIMIZERS}, got {name!r}")
    return name


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    r"""Parameters for an optimiser: matrices and kernels decay; biases, norms and scalars don't.

    The biases of offsets and walks are places. Decay would draw all samples to their node. Frozen
    parameters, which require no gradient, are left out.

    Args:
        model: The model.
        weight_decay: The decay of parameters of two and more axes.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.dim() > 1]
    kept = [p for p in trained if p.dim() <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]

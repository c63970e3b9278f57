"""Which parameters decay."""

from __future__ import annotations

from typing import Any

from torch import nn


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

"""The operators in plain PyTorch, on any device: the backend ``"torch"``."""

import torch

from dyngraph.ops.kernels.interface import Kernels


def reasons_against(device: torch.device, *, named: bool) -> list[str]:
    r"""None: see :meth:`~dyngraph.ops.kernels.interface.KernelSet.reasons_against`."""
    return []


def load() -> Kernels:
    r"""The functions."""
    from dyngraph.ops.kernels.pytorch import functions

    return functions

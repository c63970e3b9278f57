"""The operators in C++, for CPUs: the backend ``"native"``.

Passes over nodes and one table each find the corners of samples on their way and keep nothing of
them. Sums over the senders' rows go along the transposed graph, or, where each group of channels
has samples of its own, are added up by one thread for each group. So there are no atomics, and no
bit depends on the number of threads.

The library is plain C++17 with a plain C interface, called through :mod:`ctypes`: it does not
depend on Python's or PyTorch's version. It holds its kernels several times, for what processors
have, and takes the threads of the OpenMP run-time that PyTorch brought.

This file and ``library.py`` can be imported without it.
"""

import torch

from dyngraph.ops.kernels.interface import Kernels
from dyngraph.ops.kernels.native import library


def reasons_against(device: torch.device, *, named: bool) -> list[str]:
    r"""See :meth:`~dyngraph.ops.kernels.interface.KernelSet.reasons_against`."""
    reasons = [] if library.MISSING is None else [library.MISSING]
    if device.type != "cpu":
        reasons.append(f"expected tensors on a CPU, got them on {device}")
    return reasons


def load() -> Kernels:
    r"""The functions."""
    from dyngraph.ops.kernels.native import functions

    return functions

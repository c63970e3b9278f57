"""The operators as Triton kernels: the backend ``"triton"``.

A program works on a tile of nodes and one group of channels. It reads whole rows, sums in float32
(float64 for float64) and keeps no ``[N, L, C]`` tensor. Only rows of a table are summed over
programs, by ``scatter_sum`` and in the backward pass of attention: by atomics, or under
:func:`torch.use_deterministic_algorithms` along the transposed graph instead. There, too, the size
of tiles depends on the number of channels alone, so that equal shapes give equal sums.

This file and ``reasons.py`` can be imported without Triton.
"""

from dyngraph.ops.kernels.interface import Kernels
from dyngraph.ops.kernels.triton.reasons import reasons_against

__all__ = ["load", "reasons_against"]


def load() -> Kernels:
    r"""The functions."""
    from dyngraph.ops.kernels.triton import functions

    return functions

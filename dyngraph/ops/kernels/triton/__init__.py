"""The operators as Triton kernels: the backend ``"triton"``.

A program works on a tile of nodes and one group of channels. It reads whole rows, sums in float32
(float64 for float64) and keeps no ``[N, L, C]`` tensor. Only rows of a table are summed over
programs, by :func:`scatter_sum` and in the backward pass of attention: by atomics, or under
:func:`torch.use_deterministic_algorithms` along the transposed graph instead. There, too, the size
of tiles depends on the number of channels alone, so that equal shapes give equal sums.
"""

from dyngraph.ops.kernels.triton.attention import attention, attention_backward
from dyngraph.ops.kernels.triton.corners import corners, corners_backward
from dyngraph.ops.kernels.triton.edges import gather_dot, gather_sum, scatter_sum

SUMS_HALF_TYPES = True
RECOMPUTES = True

__all__ = [
    "RECOMPUTES",
    "SUMS_HALF_TYPES",
    "attention",
    "attention_backward",
    "corners",
    "corners_backward",
    "gather_dot",
    "gather_sum",
    "scatter_sum",
]

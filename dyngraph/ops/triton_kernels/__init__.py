"""The operators as Triton kernels: the backend ``"triton"``.

A program works on a tile of nodes and one group of channels. It reads whole rows, sums in float32
(float64 for float64) and keeps no ``[N, L, C]`` tensor. Only rows of a table are summed over
programs, by :func:`scatter` and in the backward pass of attention: by atomics, or under
:func:`torch.use_deterministic_algorithms` along the transposed graph instead. There, too, the size
of tiles depends on the number of channels alone, so that equal shapes give equal sums.
"""

from dyngraph.ops.triton_kernels.attention import attention, attention_backward
from dyngraph.ops.triton_kernels.corners import corners, corners_backward
from dyngraph.ops.triton_kernels.primitives import dot, gather, scatter

__all__ = [
    "attention",
    "attention_backward",
    "corners",
    "corners_backward",
    "dot",
    "gather",
    "scatter",
]

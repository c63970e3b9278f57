"""What a set of kernels has, as Triton kernels."""

from dyngraph.ops.kernels.triton.attention import attention, attention_backward
from dyngraph.ops.kernels.triton.composed import sampled_sum, sampled_sum_backward
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
    "sampled_sum",
    "sampled_sum_backward",
    "scatter_sum",
]

"""What a set of kernels has, in plain PyTorch."""

from dyngraph.ops.kernels.pytorch.attention import attention, attention_backward
from dyngraph.ops.kernels.pytorch.corners import corners, corners_backward
from dyngraph.ops.kernels.pytorch.edges import gather_dot, gather_sum, scatter_sum
from dyngraph.ops.kernels.pytorch.sums import sampled_sum, sampled_sum_backward

SUMS_HALF_TYPES = False
RECOMPUTES = False

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

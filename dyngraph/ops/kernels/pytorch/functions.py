"""What a set of kernels has, in plain PyTorch."""

from functools import partial

from dyngraph.ops.kernels import composed
from dyngraph.ops.kernels.pytorch.attention import attention, attention_backward
from dyngraph.ops.kernels.pytorch.corners import corners, corners_backward
from dyngraph.ops.kernels.pytorch.edges import gather_dot, gather_sum, scatter_sum

SUMS_HALF_TYPES = False
RECOMPUTES = False

_EDGES = composed.EdgeKernels(corners, corners_backward, gather_dot, gather_sum, scatter_sum)

sampled_sum = partial(composed.sampled_sum, _EDGES)
sampled_sum_backward = partial(composed.sampled_sum_backward, _EDGES)

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

"""Sampling and message passing on neighbourhoods, with interchangeable backends."""

from dyngraph.ops.backend import explain_backend, use_backend
from dyngraph.ops.deform_conv2d import deform_conv2d
from dyngraph.ops.multi_scale import multi_scale_deformable_attention
from dyngraph.ops.sampled import (
    find_corners,
    interpolate,
    sampled_attention,
    sampled_convolution,
    sampled_score,
    sampled_sum,
    scatter_interpolate,
)

__all__ = [
    "deform_conv2d",
    "explain_backend",
    "find_corners",
    "interpolate",
    "multi_scale_deformable_attention",
    "sampled_attention",
    "sampled_convolution",
    "sampled_score",
    "sampled_sum",
    "scatter_interpolate",
    "use_backend",
]

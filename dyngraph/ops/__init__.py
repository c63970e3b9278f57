"""Sampling and message passing on neighbourhoods, with interchangeable backends."""

from dyngraph.ops.backend import use_backend
from dyngraph.ops.sampled import (
    interpolate,
    sampled_attention,
    sampled_convolution,
    sampled_score,
    sampled_sum,
    scatter_interpolate,
)

__all__ = [
    "interpolate",
    "sampled_attention",
    "sampled_convolution",
    "sampled_score",
    "sampled_sum",
    "scatter_interpolate",
    "use_backend",
]

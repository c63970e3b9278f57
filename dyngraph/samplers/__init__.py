"""Where the nodes of a grid listen: modules that turn node features into a Neighborhood."""

from dyngraph.samplers.criss_cross_sampler import CrissCrossSampler
from dyngraph.samplers.dilated_sampler import DilatedSampler
from dyngraph.samplers.linear_walk_sampler import LinearWalkSampler
from dyngraph.samplers.offset_sampler import OffsetLinear, OffsetSampler
from dyngraph.samplers.sampler import Sampler
from dyngraph.samplers.walk_sampler import WalkSampler

__all__ = [
    "CrissCrossSampler",
    "DilatedSampler",
    "LinearWalkSampler",
    "OffsetLinear",
    "OffsetSampler",
    "Sampler",
    "WalkSampler",
]

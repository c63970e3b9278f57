"""Layers on graphs and blocks on feature maps."""

from dyngraph.nn.block import BottleneckRepGraphBlock, NonLocalBlock, RepGraphBlock
from dyngraph.nn.conv import NonLocalConv, RepGraphConv

__all__ = [
    "BottleneckRepGraphBlock",
    "NonLocalBlock",
    "NonLocalConv",
    "RepGraphBlock",
    "RepGraphConv",
]

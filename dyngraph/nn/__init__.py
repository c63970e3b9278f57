"""Layers on graphs and blocks on feature maps."""

from dyngraph.nn.block import BottleneckRepGraphBlock, DGMNBlock, NonLocalBlock, RepGraphBlock
from dyngraph.nn.conv import DGMNConv, NonLocalConv, RepGraphConv

__all__ = [
    "BottleneckRepGraphBlock",
    "DGMNBlock",
    "DGMNConv",
    "NonLocalBlock",
    "NonLocalConv",
    "RepGraphBlock",
    "RepGraphConv",
]

"""Layers on graphs and blocks on feature maps."""

from dyngraph.nn.block import (
    BottleneckRepGraphBlock,
    DGMN2Block,
    DGMNBlock,
    NonLocalBlock,
    RepGraphBlock,
)
from dyngraph.nn.conv import DGMN2Conv, DGMNConv, NonLocalConv, RepGraphConv

__all__ = [
    "BottleneckRepGraphBlock",
    "DGMN2Block",
    "DGMN2Conv",
    "DGMNBlock",
    "DGMNConv",
    "NonLocalBlock",
    "NonLocalConv",
    "RepGraphBlock",
    "RepGraphConv",
]

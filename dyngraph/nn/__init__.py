"""Layers on graphs and blocks on feature maps."""

from dyngraph.nn.block import (
    BottleneckRepGraphBlock,
    ChannelAttentionBlock,
    CrissCrossBlock,
    DGMN2Block,
    DGMNBlock,
    GlobalContextBlock,
    NonLocalBlock,
    PositionAttentionBlock,
    RepGraphBlock,
)
from dyngraph.nn.conv import (
    CrissCrossConv,
    DGMN2Conv,
    DGMNConv,
    NonLocalConv,
    PositionAttentionConv,
    RepGraphConv,
)

__all__ = [
    "BottleneckRepGraphBlock",
    "ChannelAttentionBlock",
    "CrissCrossBlock",
    "CrissCrossConv",
    "DGMN2Block",
    "DGMN2Conv",
    "DGMNBlock",
    "DGMNConv",
    "GlobalContextBlock",
    "NonLocalBlock",
    "NonLocalConv",
    "PositionAttentionBlock",
    "PositionAttentionConv",
    "RepGraphBlock",
    "RepGraphConv",
]

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
    DeformableAttentionConv,
    DGMN2Conv,
    DGMNConv,
    NonLocalConv,
    PositionAttentionConv,
    RepGraphConv,
)
from dyngraph.nn.multi_scale_deformable_attention import MultiScaleDeformableAttention
from dyngraph.nn.sample_search import SampleSearch

__all__ = [
    "BottleneckRepGraphBlock",
    "ChannelAttentionBlock",
    "CrissCrossBlock",
    "CrissCrossConv",
    "DGMN2Block",
    "DGMN2Conv",
    "DGMNBlock",
    "DGMNConv",
    "DeformableAttentionConv",
    "GlobalContextBlock",
    "MultiScaleDeformableAttention",
    "NonLocalBlock",
    "NonLocalConv",
    "PositionAttentionBlock",
    "PositionAttentionConv",
    "RepGraphBlock",
    "RepGraphConv",
    "SampleSearch",
]

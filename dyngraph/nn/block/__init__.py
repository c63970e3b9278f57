"""Blocks on feature maps."""

from dyngraph.nn.block.bottleneck_repgraph_block import BottleneckRepGraphBlock
from dyngraph.nn.block.channel_attention_block import ChannelAttentionBlock
from dyngraph.nn.block.criss_cross_block import CrissCrossBlock
from dyngraph.nn.block.dgmn2_block import DGMN2Block
from dyngraph.nn.block.dgmn_block import DGMNBlock
from dyngraph.nn.block.global_context_block import GlobalContextBlock
from dyngraph.nn.block.nonlocal_block import NonLocalBlock
from dyngraph.nn.block.position_attention_block import PositionAttentionBlock
from dyngraph.nn.block.repgraph_block import RepGraphBlock

__all__ = [
    "BottleneckRepGraphBlock",
    "ChannelAttentionBlock",
    "CrissCrossBlock",
    "DGMN2Block",
    "DGMNBlock",
    "GlobalContextBlock",
    "NonLocalBlock",
    "PositionAttentionBlock",
    "RepGraphBlock",
]

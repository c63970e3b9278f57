"""Blocks on feature maps."""

from dyngraph.nn.block.bottleneck_repgraph_block import BottleneckRepGraphBlock
from dyngraph.nn.block.dgmn2_block import DGMN2Block
from dyngraph.nn.block.dgmn_block import DGMNBlock
from dyngraph.nn.block.nonlocal_block import NonLocalBlock
from dyngraph.nn.block.repgraph_block import RepGraphBlock

__all__ = [
    "BottleneckRepGraphBlock",
    "DGMN2Block",
    "DGMNBlock",
    "NonLocalBlock",
    "RepGraphBlock",
]

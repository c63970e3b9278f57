"""Message passing layers on graphs."""

from dyngraph.nn.conv.attention_conv import AttentionConv
from dyngraph.nn.conv.criss_cross_conv import CrissCrossConv
from dyngraph.nn.conv.deformable_attention_conv import DeformableAttentionConv
from dyngraph.nn.conv.dgmn2_conv import DGMN2Conv
from dyngraph.nn.conv.dgmn_conv import DGMNConv
from dyngraph.nn.conv.dynamic_message import DynamicMessage
from dyngraph.nn.conv.nonlocal_conv import NonLocalConv
from dyngraph.nn.conv.position_attention_conv import PositionAttentionConv
from dyngraph.nn.conv.repgraph_conv import RepGraphConv

__all__ = [
    "AttentionConv",
    "CrissCrossConv",
    "DGMN2Conv",
    "DGMNConv",
    "DeformableAttentionConv",
    "DynamicMessage",
    "NonLocalConv",
    "PositionAttentionConv",
    "RepGraphConv",
]

import torch
from torch import nn

from dyngraph.evaluate import count_multiply_adds
from dyngraph.models import DANetHead
from dyngraph.nn import ChannelAttentionBlock, PositionAttentionBlock


def test_the_sum_of_both_attentions():
    head = DANetHead(8).eval()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 8, 5, 4)
    (position, first), (channel, second) = head.position, head.channel
    assert (type(position), type(channel)) == (PositionAttentionBlock, ChannelAttentionBlock)
    assert torch.equal(head(x), first(position(x)) + second(channel(x)))
    assert head(x).shape == x.shape


def test_its_multiply_adds():
    """RepGraph's Table 2 prints 785.01 G for DANet, which none of the paper's readings has."""
    channels, nodes = 256, 256 * 128
    counted = count_multiply_adds(DANetHead(channels), 1, channels, 256, 128)
    position = nodes * (2 * 32 + channels) * channels + nodes**2 * (32 + channels)
    channel = 2 * channels**2 * nodes
    convolutions = 2 * 9 * channels**2 * nodes
    assert counted.total == counted.dense == position + channel + convolutions
    # With a 3x3 convolution from 2048 channels before each of both.
    reduction = 2 * 9 * 2048 * channels * nodes
    assert round((counted.total + reduction) / 1e9, 2) == 664.11

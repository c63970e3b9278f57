"""The baseline of DANet."""

from torch import Tensor, nn

from dyngraph.models.backbone import conv_bn_relu
from dyngraph.nn import ChannelAttentionBlock, PositionAttentionBlock


class DANetHead(nn.Module):
    r"""Position and channel attention side by side, as a context of segmenters.

    From "Dual Attention Network for Scene Segmentation" (CVPR 2019), Sect. 3.4: a 3x3 convolution
    with batch normalisation and ReLU follows each of the two, and the results are summed. In the
    paper, each has its own 3x3 convolution to reduce the backbone's channels; here, as for all
    contexts, they share the segmenter's.

    Args:
        in_channels: C, the channels of the feature maps, and of the result.

    Shapes:
        - **input:** ``[B, C, H, W]``
        - **output:** the same
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.position = nn.Sequential(
            PositionAttentionBlock(in_channels), conv_bn_relu(in_channels, in_channels)
        )
        self.channel = nn.Sequential(
            ChannelAttentionBlock(in_channels), conv_bn_relu(in_channels, in_channels)
        )

    def forward(self, maps: Tensor) -> Tensor:
        return self.position(maps) + self.channel(maps)

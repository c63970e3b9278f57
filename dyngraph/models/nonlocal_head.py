"""The Non-local baseline of DGMN."""

from torch import nn

from dyngraph.models.backbone import conv_bn_relu
from dyngraph.nn import NonLocalBlock


class NonLocalHead(nn.Sequential):
    r"""A 3x3 convolution and the Non-local block, as a context of segmenters.

    Table 1 of "Dynamic Graph Message Passing Networks" (CVPR 2020) counts 2.88 M parameters for "+
    Non-local" without saying of what. A :class:`~dyngraph.nn.NonLocalBlock` with half the channels
    has 0.52 M on 512 channels; together with a 3x3 convolution there are 2,883,584 weights.

    Args:
        in_channels: C, the channels of the feature maps, and of the result.

    Shapes:
        - **input:** ``[B, C, H, W]``
        - **output:** the same
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(
            conv_bn_relu(in_channels, in_channels), NonLocalBlock(in_channels, in_channels // 2)
        )

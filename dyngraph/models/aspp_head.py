"""The baseline of DeepLabv3."""

from collections.abc import Sequence

from torch import nn
from torchvision.models.segmentation.deeplabv3 import ASPP


class ASPPHead(ASPP):
    r"""Atrous spatial pyramid pooling, as a context of segmenters.

    A 1x1 convolution, 3x3 convolutions of several dilations and the average of the whole map, side
    by side, then a 1x1 convolution; each with batch normalisation and ReLU. From "Rethinking Atrous
    Convolution for Semantic Image Segmentation" (2017), Sect. 3.3. It is torchvision's without its
    dropout, which no other context has.

    In training it needs at least two images: it normalises averages of whole maps.

    Args:
        in_channels: The channels of the feature maps.
        rates: The dilations of the 3x3 convolutions. The default is the paper's for output
            stride 8.
        out_channels: The channels of each branch, and of the result.

    Shapes:
        - **input:** ``[B, in_channels, H, W]``
        - **output:** ``[B, out_channels, H, W]``
    """

    project: nn.Sequential

    def __init__(
        self, in_channels: int, *, rates: Sequence[int] = (12, 24, 36), out_channels: int = 256
    ) -> None:
        super().__init__(in_channels, [*rates], out_channels)
        self.project = self.project[:-1]
        self.out_channels = out_channels

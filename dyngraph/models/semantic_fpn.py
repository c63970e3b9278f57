"""The head of Semantic FPN."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from dyngraph.models.backbone import conv_bn_relu

FPN_CHANNELS = 256
# As released DGMN2 segmenters were trained: maps are upsampled with aligned corners.
ALIGN_CORNERS = True


class SemanticFPN(nn.Module):
    r"""Class scores from a pyramid of feature maps, each with half the resolution of the previous
    one.

    From "Panoptic Feature Pyramid Networks" (CVPR 2019), Sect. 3.1, in the form in which DGMN2 was
    trained: a feature pyramid network gives all maps 256 channels; each goes through 3x3
    convolutions with batch normalisation and ReLU, all but the finest upsampled by 2 after each,
    until it has the resolution of the finest; their sum goes to the context block and the
    classifier.

    Args:
        in_channels: The channels of the maps, the finest first.
        num_classes: The number of classes.
        channels: The channels of the upsampled maps, and of the context block.
        context: A block on the sum of the upsampled maps. A block that changes the number of
            channels has ``out_channels``.

    Raises:
        ValueError: If there is no map.

    Shapes:
        - **input:** a list of maps ``[B, C_s, H_s, W_s]``
        - **output:** ``[B, num_classes, H_0, W_0]``
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 128,
        context: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not in_channels:
            raise ValueError("in_channels: expected at least one map, got none")
        self.fpn = FeaturePyramidNetwork(list(in_channels), FPN_CHANNELS)
        self.scale_heads = nn.ModuleList(
            _head(level, channels) for level in range(len(in_channels))
        )
        self.context = nn.Identity() if context is None else context
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(getattr(context, "out_channels", channels), num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        pyramid = self.fpn(OrderedDict((str(level), x) for level, x in enumerate(maps)))
        size = maps[0].shape[-2:]
        parts = [head(x) for head, x in zip(self.scale_heads, pyramid.values(), strict=True)]
        total = parts[0]
        for part in parts[1:]:
            # For odd lengths, doubling doesn't give the finest size.
            total = total + F.interpolate(part, size, mode="bilinear", align_corners=ALIGN_CORNERS)
        return self.conv_seg(self.dropout(self.context(total)))


def _head(level: int, channels: int) -> nn.Sequential:
    """Convolutions that double the resolution ``level`` times."""
    layers: list[nn.Module] = []
    # The finest map has a convolution too.
    for i in range(max(level, 1)):
        layers.append(conv_bn_relu(channels if i else FPN_CHANNELS, channels))
        if level:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=ALIGN_CORNERS))
    return nn.Sequential(*layers)

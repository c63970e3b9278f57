"""Deformable convolution in the place of an ordinary one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DeformableConv2d(nn.Conv2d):
    r"""A convolution whose taps move by learned offsets, the baseline of DGMN's detectors.

    From "Deformable Convolutional Networks" (ICCV 2017). It has the weights of the convolution that
    it takes the place of, by the same names; its offsets start at zero, so that it starts as the
    same function.

    Args:
        conv: The convolution, padded with zeros.

    Shapes:
        - **input:** ``[B, C, H, W]``
        - **output:** that of the convolution
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        names = ("kernel_size", "stride", "padding", "dilation")
        geometry: dict[str, Any] = {name: getattr(conv, name) for name in names}
        channels = (conv.in_channels, conv.out_channels)
        super().__init__(*channels, **geometry, groups=conv.groups, bias=conv.bias is not None)
        self.load_state_dict(conv.state_dict())
        height, width = conv.kernel_size
        self.offset = nn.Conv2d(conv.in_channels, 2 * height * width, **geometry, bias=False)
        nn.init.zeros_(self.offset.weight)

    def forward(self, x: Tensor) -> Tensor:
        places: tuple[Any, ...] = (self.stride, self.padding, self.dilation)
        return deform_conv2d(x, self.offset(x), self.weight, self.bias, *places)


def make_deformable(stage: nn.Module) -> None:
    r"""Replaces all 3x3 convolutions of a ResNet stage, in place."""
    for block in list(stage.modules()):
        for name, conv in block.named_children():
            if type(conv) is nn.Conv2d and conv.kernel_size == (3, 3):
                setattr(block, name, DeformableConv2d(conv))

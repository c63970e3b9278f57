"""Modulated deformable convolution, replacing an ordinary one."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from dyngraph.ops import deform_conv2d


class DeformableConv2d(nn.Conv2d):
    r"""A convolution whose taps move and are weighted, the baseline of DGMN's detectors.

    .. math::
        \mathbf{y}(\mathbf{p}) = \sum_k m_k \, W_k \,
        \mathbf{x}(\mathbf{p} + \mathbf{tap}_k + \Delta_k), \qquad m_k = 2 \, \mathrm{sigmoid}(z_k)

    From "Deformable ConvNets v2" (CVPR 2019), Eq. 1: a convolution predicts the offsets Δ and the
    masks m. Its weights start at zero. In the paper the masks then start at a half; here they are
    doubled, so that the layer starts as the convolution that it replaces. It keeps that
    convolution's weights and their names.

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
        self.num_taps = height * width
        #: Δy and Δx of each tap, then z of each tap.
        self.offset_mask = nn.Conv2d(conv.in_channels, 3 * self.num_taps, **geometry)
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(cast(Tensor, self.offset_mask.bias))

    def offsets_and_masks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Δ ``[B, 2 K, H', W']`` and m ``[B, K, H', W']``."""
        offset, mask = self.offset_mask(x).split([2 * self.num_taps, self.num_taps], dim=1)
        return offset, 2 * mask.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.offsets_and_masks(x)
        names = ("stride", "padding", "dilation")
        geometry: dict[str, Any] = {name: getattr(self, name) for name in names}
        return deform_conv2d(x, offset, self.weight, self.bias, **geometry, mask=mask)


def make_deformable(stage: nn.Module) -> None:
    r"""Replaces all 3x3 convolutions of a ResNet stage, in place."""
    for block in list(stage.modules()):
        for name, conv in block.named_children():
            if type(conv) is nn.Conv2d and conv.kernel_size == (3, 3):
                setattr(block, name, DeformableConv2d(conv))

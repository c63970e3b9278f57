"""Backbones of segmenters: modules from images to feature maps ``{"out", "aux"}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")


class DilatedResNet(nn.Module):
    r"""A torchvision ResNet at output stride 8: the last two stages dilate instead of striding.

    Its ``state_dict`` has torchvision's names, without the classifier ``fc``.

    Args:
        name: ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet101"``.
        weights: What torchvision's function of that name takes as ``weights``, e.g. ``"DEFAULT"``.
        multi_grid: DeepLabv3's Multi-Grid: a factor for the dilation 4 of each block of the last
            stage, e.g. (1, 2, 4) for dilations 4, 8, 16. Without it they are torchvision's: 2 in
            the first block, where the stride was, and 4 in the others.

    Raises:
        ValueError: If there is no such ResNet, it has no such weights, or ``multi_grid`` is not one
            positive factor per block.

    Shapes:
        - **input:** ``[B, 3, H, W]``
        - **output:** ``"aux"`` (fourth stage) and ``"out"`` (fifth stage), stride 8
    """

    def __init__(
        self, name: str, *, weights: str | None = None, multi_grid: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        if name not in RESNETS:
            raise ValueError(f"backbone: expected one of {RESNETS}, got {name!r}")
        resnet = getattr(torchvision.models, name)(weights=check_weights(name, weights))
        self.conv1 = resnet.conv1
        self.bn1 = resnet.bn1
        self.relu = resnet.relu
        self.maxpool = resnet.maxpool
        self.layer1 = resnet.layer1
        self.layer2 = resnet.layer2
        self.layer3 = dilate(resnet.layer3, first=1, rest=2)
        self.layer4 = dilate(resnet.layer4, first=2, rest=4)
        if multi_grid is not None:
            _dilate_blocks(resnet.layer4, 4, multi_grid)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        aux = self.layer3(self.layer2(self.layer1(x)))
        return {"out": self.layer4(aux), "aux": aux}


def dilate(stage: nn.Module, first: int, rest: int) -> nn.Module:
    r"""Removes the stride of a ResNet stage and dilates its 3x3 convolutions, in place.

    Like torchvision's ``replace_stride_with_dilation``, but also for basic blocks (ResNet-18 and
    34), which torchvision refuses.

    Args:
        stage: The stage, a sequence of residual blocks, or one of them.
        first: The dilation of the convolution that had the stride.
        rest: The dilation of those after it.
    """
    for conv in stage.modules():
        if isinstance(conv, nn.Conv2d):
            if conv.kernel_size == (3, 3):
                dilation = rest if conv.stride == (1, 1) else first
                conv.dilation = conv.padding = (dilation, dilation)
            conv.stride = (1, 1)
    return stage


def _dilate_blocks(stage: nn.Sequential, dilation: int, factors: Sequence[int]) -> None:
    """Dilates the 3x3 convolutions of each block by its factor times ``dilation``, in place."""
    if len(factors) != len(stage) or min(factors) < 1:
        raise ValueError(
            f"multi_grid: expected {len(stage)} positive factors, got {tuple(factors)}"
        )
    for block, factor in zip(stage, factors, strict=True):
        dilate(block, factor * dilation, factor * dilation)


def check_weights(name: str, weights: Any) -> WeightsEnum | None:
    r"""The weights of one of torchvision's networks.

    Raises:
        ValueError: If it has no such weights.
    """
    known = get_model_weights(name)
    try:
        return None if weights is None else known.verify(weights)
    except (KeyError, TypeError) as error:
        names = ("DEFAULT", *(one.name for one in known))
        raise ValueError(
            f"weights_backbone: expected None or one of {names}, got {weights!r}"
        ) from error


class SmallTrunk(nn.Sequential):
    r"""A small plain trunk for small images: six 3x3 convolutions, stride 4.

    Its receptive field is 39 pixels wide (47 with the 3x3 convolution of a segmenter's head), so
    small images show what context is for. The receptive field of a dilated ResNet would cover the
    whole image.

    Args:
        channels: The channels of every layer.

    Shapes:
        - **input:** ``[B, 3, H, W]``
        - **output:** ``[B, channels, ceil(H / 4), ceil(W / 4)]``
    """

    def __init__(self, channels: int = 48) -> None:
        strides = (2, 2, 1, 1, 1, 1)
        layers = [
            conv_bn_relu(3 if i == 0 else channels, channels, stride)
            for i, stride in enumerate(strides)
        ]
        super().__init__(*layers)


def conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    r"""A 3x3 convolution, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )

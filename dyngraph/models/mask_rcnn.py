"""Mask R-CNN with context inside its backbone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from dyngraph.checks import check_at_least
from dyngraph.models.backbone import check_weights
from dyngraph.models.deformable_conv2d import make_deformable
from dyngraph.models.dgmn2 import DEPTHS, DGMN2
from dyngraph.models.hub import HubModel
from dyngraph.models.insert import insert
from dyngraph.models.official import load_official
from dyngraph.models.recipe import builder, recipe
from dyngraph.nn import (
    BottleneckRepGraphBlock,
    CrissCrossBlock,
    DGMNBlock,
    GlobalContextBlock,
    NonLocalBlock,
    RepGraphBlock,
)

RESNETS = (
    "resnet10",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext101_32x8d",
)

#: The context blocks by name, each built for a number of channels. They start as the identity.
DETECTOR_CONTEXTS: dict[str, Callable[[int], nn.Module]] = {
    "nonlocal": partial(NonLocalBlock, zero_init=True),
    "repgraph": partial(RepGraphBlock, zero_init=True),
    "bottleneck_repgraph": partial(BottleneckRepGraphBlock, zero_init=True),
    "dgmn": partial(DGMNBlock, rates=(1, 4, 8, 12), fusion="sum"),
    "gcnet": GlobalContextBlock,
    "ccnet": CrissCrossBlock,
}
DEFORMABLE = "deformable"

#: The stages of each place, whose residual blocks all get a context block.
STAGES = {"c5": ("layer4",), "c4_c5": ("layer3", "layer4")}
PLACES = ("res4", *STAGES)


class Detector(MaskRCNN, HubModel):
    r"""torchvision's Mask R-CNN, which can be saved and loaded with its configuration.

    Arguments are those of :class:`torchvision.models.detection.MaskRCNN`.
    """


@builder(MaskRCNN, GeneralizedRCNNTransform)
def mask_rcnn(
    backbone: str | nn.Module = "resnet50",
    *,
    context: str | Callable[[int], nn.Module] | None = None,
    num_classes: int = 80,
    context_at: str = "res4",
    weights_backbone: str | None = None,
    freeze: bool | None = None,
    min_size: int = 800,
    max_size: int = 1333,
    pyramid_channels: int = 256,
    **options: Any,
) -> Detector:
    r"""Builds torchvision's Mask R-CNN with a feature pyramid and context inside the backbone.

    With a context block by name it starts as the same detector without one.

    Args:
        backbone: ``"resnet10"`` (one basic block per stage, for small machines: its receptive
            field is 195 pixels wide), ``"resnet18"``, ``"resnet34"``, ``"resnet50"``,
            ``"resnet101"``, ``"resnext101_32x8d"``, ``"dgmn2_tiny"``, ``"dgmn2_small"``,
            ``"dgmn2_medium"``, ``"dgmn2_large"``, or a module from images to a dict of feature
            maps of ``out_channels`` channels each, as
            :class:`torchvision.models.detection.MaskRCNN` takes it.
        context: ``None`` or ``"none"`` (the baseline), ``"nonlocal"``, ``"repgraph"``,
            ``"bottleneck_repgraph"``, ``"dgmn"`` (rates 1, 4, 8, 12), ``"gcnet"``, ``"ccnet"``, or
            a function from a number of channels to a block; ``"deformable"``: modulated deformable
            3x3 convolutions.
        num_classes: The number of classes, without the background.
        context_at: Where the context is. ``"res4"``: before the last residual block of the fourth
            stage, as in RepGraph. ``"c5"``, ``"c4_c5"``: in all residual blocks of the fifth, or of
            the fourth and fifth stage, after the 3x3 convolution, its normalisation and ReLU, as in
            DGMN.
        weights_backbone: What torchvision's function of the backbone takes as ``weights``, e.g.
            ``"DEFAULT"``. For DGMN2 the path of a released file.
        freeze: Whether the first two stages and the backbone's batch normalisation stay as they
            were pretrained, as in the public benchmark's "1x". Defaults to whether there are
            ``weights_backbone``.
        min_size: The length of the shorter side to which images are resized, in pixels.
        max_size: The longest side of a resized image.
        pyramid_channels: The channels of the feature pyramid.
        **options: Other arguments of :class:`torchvision.models.detection.MaskRCNN`.

    Raises:
        ValueError: If ``backbone``, ``context`` or ``context_at`` is unknown, ``"deformable"`` is
            asked for at ``"res4"``, an argument only for ResNets by name is given with another
            backbone, or a number is out of range.

    Shapes:
        - **input:** a list of images ``[3, H, W]`` in 0..1, of any sizes; in training mode also a
          list of targets: ``boxes [n, 4]`` (x, y, x, y, in pixels), ``labels [n]`` in
          1..num_classes, ``masks [n, H, W]``, uint8
        - **output:** in training mode the losses by name; otherwise a dict for each image:
          ``boxes [n, 4]``, ``labels [n]``, ``scores [n]`` and ``masks [n, 1, H, W]``,
          probabilities
    """
    arguments = {
        "backbone": backbone,
        "context": context,
        "num_classes": num_classes,
        "context_at": context_at,
        "freeze": freeze,
        "min_size": min_size,
        "max_size": max_size,
        "pyramid_channels": pyramid_channels,
        **options,
    }
    check_at_least(1, num_classes=num_classes, min_size=min_size, pyramid_channels=pyramid_channels)
    check_at_least(min_size, max_size=max_size)
    # True is an int as well.
    check_at_least(1, **{name: value for name, value in options.items() if type(value) is int})
    for side in options.get("fixed_size") or ():
        check_at_least(1, fixed_size=side)
    if backbone in RESNETS:
        if freeze is None:
            # The layers of a model that is loaded again depend on it.
            freeze = arguments["freeze"] = weights_backbone is not None
        resnet = _resnet(str(backbone), weights_backbone, freeze)
        _add_context(resnet, context, context_at)
        trunk = _pyramid(resnet, pyramid_channels)
    else:
        given = {"context": context, "freeze": freeze}
        if isinstance(backbone, str):
            trunk = DGMN2Pyramid(_dgmn2(backbone, weights_backbone), pyramid_channels)
        else:
            given["weights_backbone"] = weights_backbone
            trunk = backbone
        for name, value in given.items():
            if value is not None:
                kind = backbone if isinstance(backbone, str) else type(backbone).__name__
                raise ValueError(f"{name}: expected None with {kind!r}, got {value!r}")
    # torchvision counts the background as a class.
    model = Detector(trunk, num_classes + 1, min_size=min_size, max_size=max_size, **options)
    model.recipe = recipe(mask_rcnn, arguments)
    return model


class DGMN2Pyramid(nn.Module):
    r"""A feature pyramid on the four maps of DGMN2.

    Args:
        body: The backbone.
        out_channels: The channels of each map of the pyramid.
    """

    def __init__(self, body: DGMN2, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork([*body.channels], out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = enumerate(self.body(image))
        return self.fpn(OrderedDict((str(level), x) for level, x in maps))


def _dgmn2(name: str, weights: str | None) -> DGMN2:
    if name not in DEPTHS:
        raise ValueError(f"backbone: expected one of {(*RESNETS, *DEPTHS)}, got {name!r}")
    body = DGMN2(DEPTHS[name])
    if weights is not None:
        load_official(body, weights)
    return body


def _pyramid(resnet: ResNet, out_channels: int) -> BackboneWithFPN:
    layers = {f"layer{level + 1}": str(level) for level in range(4)}
    channels = [resnet.inplanes // 8 * 2**level for level in range(4)]
    return BackboneWithFPN(resnet, layers, channels, out_channels, LastLevelMaxPool())


def _resnet(name: str, weights: str | None, freeze: bool) -> ResNet:
    norm = FrozenBatchNorm2d if freeze else nn.BatchNorm2d
    if name == "resnet10":
        if weights is not None:
            raise ValueError(f"weights_backbone: expected None with {name!r}, got {weights!r}")
        resnet = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=norm)
    else:
        resnet = getattr(torchvision.models, name)(
            weights=check_weights(name, weights), norm_layer=norm
        )
    if freeze:
        for stage in (resnet.conv1, resnet.layer1):
            stage.requires_grad_(False)
    return resnet


def _add_context(
    resnet: ResNet, context: str | Callable[[int], nn.Module] | None, place: str
) -> None:
    places = (*STAGES,) if context == DEFORMABLE else PLACES
    if place not in places:
        raise ValueError(f"context_at: expected one of {places} with {context!r}, got {place!r}")
    if context in (None, "none"):
        return
    if context == DEFORMABLE:
        for stage in STAGES[place]:
            make_deformable(resnet.get_submodule(stage))
        return
    if isinstance(context, str):
        if context not in DETECTOR_CONTEXTS:
            names = ("none", *DETECTOR_CONTEXTS, *([DEFORMABLE] if place in STAGES else ()))
            raise ValueError(f"context: expected None or one of {names}, got {context!r}")
        context = DETECTOR_CONTEXTS[context]
    for target in _targets(resnet, place):
        insert(resnet, before=target, make=context)


def _targets(resnet: ResNet, place: str) -> Sequence[str]:
    if place == "res4":
        return [f"layer3.{len(resnet.layer3) - 1}"]
    # The convolution after the 3x3 one that has the stride, in either kind of residual block.
    last = "conv3" if hasattr(resnet.layer4[0], "conv3") else "conv2"
    return [f"{stage}.*.{last}" for stage in STAGES[place]]

"""Segmenters: a backbone, a context block and a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dyngraph.checks import check_at_least
from dyngraph.evaluation_mode import evaluation_mode
from dyngraph.models.aspp_head import ASPPHead
from dyngraph.models.backbone import RESNETS, DilatedResNet, SmallTrunk, conv_bn_relu
from dyngraph.models.danet_head import DANetHead
from dyngraph.models.dgmn2 import DEPTHS, DGMN2
from dyngraph.models.example_image import example_image
from dyngraph.models.hub import HubModel
from dyngraph.models.insert import insert
from dyngraph.models.official import load_official
from dyngraph.models.recipe import builder, recipe
from dyngraph.models.semantic_fpn import ALIGN_CORNERS, SemanticFPN
from dyngraph.models.timm_backbone import PREFIX, timm_backbone
from dyngraph.nn import (
    BottleneckRepGraphBlock,
    CrissCrossBlock,
    DGMNBlock,
    GlobalContextBlock,
    NonLocalBlock,
    RepGraphBlock,
)


def _conv(channels: int) -> nn.Module:
    """A 3x3 convolution, what a context has to beat."""
    return conv_bn_relu(channels, channels)


#: The context blocks by name, each built for a number of channels.
CONTEXTS: dict[str, Callable[[int], nn.Module]] = {
    "nonlocal": NonLocalBlock,
    "repgraph": RepGraphBlock,
    "bottleneck_repgraph": BottleneckRepGraphBlock,
    "dgmn": DGMNBlock,
    "aspp": ASPPHead,
    "gcnet": GlobalContextBlock,
    "ccnet": CrissCrossBlock,
    "danet": DANetHead,
    "conv": _conv,
}


class Segmenter(HubModel):
    r"""A fully convolutional segmenter with a context block before the classifier.

    Args:
        backbone: From images to feature maps: ``{"out": …, "aux": …}``, or a tensor if there is no
            ``aux_classifier``.
        classifier: From the feature maps ``"out"`` to class scores.
        aux_classifier: From the feature maps ``"aux"`` to class scores, or None.

    Shapes:
        - **input:** images ``[B, 3, H, W]``
        - **output:** ``{"out": [B, num_classes, H, W]}``, and ``"aux"`` with an ``aux_classifier``
    """

    def __init__(
        self, backbone: nn.Module, classifier: nn.Module, aux_classifier: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.aux_classifier = aux_classifier

    align_corners = False

    def features(self, image: Tensor) -> dict[str, Any]:
        r"""What ``classifier`` (``"out"``) and ``aux_classifier`` (``"aux"``) get for an image."""
        return _by_name(self.backbone(image))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.features(image)
        scores = {"out": self.classifier(features["out"])}
        if self.aux_classifier is not None:
            scores["aux"] = self.aux_classifier(features["aux"])
        size = image.shape[-2:]
        return {
            name: F.interpolate(score, size=size, mode="bilinear", align_corners=self.align_corners)
            for name, score in scores.items()
        }


class PyramidSegmenter(Segmenter):
    r"""A segmenter whose classifier takes all maps of the backbone.

    Args:
        backbone: From images to a list of feature maps, the finest first.
        classifier: From this list to class scores, such as
            :class:`~dyngraph.models.SemanticFPN`.
        aux_classifier: From the second to last map to class scores, or None.

    Shapes:
        - **input:** images ``[B, 3, H, W]``
        - **output:** ``{"out": [B, num_classes, H, W]}``, and ``"aux"`` with an ``aux_classifier``
    """

    align_corners = ALIGN_CORNERS

    def features(self, image: Tensor) -> dict[str, Any]:
        maps = self.backbone(image)
        return {"out": maps, "aux": maps[-2]}


@builder()
def segmenter(
    backbone: str | nn.Module,
    context: str | Callable[[int], nn.Module] | None = None,
    *,
    num_classes: int = 19,
    aux_loss: bool = False,
    head_channels: int | None = None,
    weights_backbone: str | None = None,
    insert_before: dict[str, Callable[[int], nn.Module]] | None = None,
) -> Segmenter:
    r"""Builds a segmenter: backbone, 3x3 convolution, context block, classifier.

    DGMN2 backbones instead get the head that they were trained with, a
    :class:`~dyngraph.models.SemanticFPN`, with the context block before its classifier.

    Args:
        backbone: ``"resnet18"``, ``"resnet34"``, ``"resnet50"``, ``"resnet101"`` (dilated, output
            stride 8), ``"small_trunk"`` (stride 4), ``"dgmn2_tiny"``, ``"dgmn2_small"``,
            ``"dgmn2_medium"``, ``"dgmn2_large"`` (strides 4 to 32), ``"timm/<name>"`` (any of
            timm's, output stride 8), or any module from images to feature maps: a tensor, a list
            (the last is used, the one before it for the auxiliary head), or a dict
            ``{"out": …, "aux": …}``. Names of timm, such as ``"timm/efficientnet_lite0"``, need
            ``pip install 'dyngraph[timm]'``.
        context: ``None`` or ``"none"`` (the dilated FCN baseline), ``"nonlocal"``, ``"repgraph"``,
            ``"bottleneck_repgraph"``, ``"dgmn"``, ``"aspp"``, ``"gcnet"``, ``"ccnet"``,
            ``"danet"``, ``"conv"`` (3x3), or a function from a number of channels to a block: such
            as :class:`~dyngraph.models.NonLocalHead`. A block that changes the number of channels
            has ``out_channels``.
        num_classes: The number of classes.
        aux_loss: Whether to add an auxiliary head on the last stage but one.
        head_channels: The channels of the 3x3 convolution (of DGMN2's upsampled maps) and of the
            context block. Defaults to 512, for DGMN2 to 128.
        weights_backbone: What torchvision's ResNet takes as ``weights``, e.g. ``"DEFAULT"``; for
            DGMN2 and timm's networks a file: a released one, or one of the classifier's weights,
            ``….safetensors`` or of :func:`torch.save`.
        insert_before: Blocks inside the backbone, by the names of the modules before which they go,
            as for :func:`~dyngraph.models.insert`, e.g. ``{"layer3.5": make}``.

    Raises:
        ValueError: If ``backbone``, ``context`` or a name to insert at is unknown, ``num_classes``
            or ``head_channels`` is not positive, ``weights_backbone`` is given for a backbone that
            has none or holds those of another network, or ``aux_loss`` is asked of a backbone with
            one feature map.
        ImportError: If ``backbone`` is a network of timm, and timm is missing.
        OSError: If the file ``weights_backbone`` is missing or not readable.
    """
    arguments = {
        "backbone": backbone,
        "context": context,
        "num_classes": num_classes,
        "aux_loss": aux_loss,
        "head_channels": head_channels,
        "insert_before": insert_before,
    }
    check_at_least(1, num_classes=num_classes)
    if head_channels is not None:
        check_at_least(1, head_channels=head_channels)
    trunk = _backbone(backbone, weights_backbone)
    for name, make in (insert_before or {}).items():
        insert(trunk, before=name, make=make)
    if isinstance(trunk, DGMN2):
        head_channels = head_channels or 128
        head = SemanticFPN(
            trunk.channels,
            num_classes,
            channels=head_channels,
            context=_context(context, head_channels),
        )
        aux_classifier = _aux_classifier(trunk.channels[-2], num_classes) if aux_loss else None
        model: Segmenter = PyramidSegmenter(trunk, head, aux_classifier)
        model.recipe = recipe(segmenter, arguments)
        return model
    channels = _feature_channels(trunk)
    if aux_loss and "aux" not in channels:
        raise ValueError("aux_loss: expected a backbone with two feature maps, got one")
    head_channels = head_channels or 512
    block = _context(context, head_channels)
    classifier = nn.Sequential(
        conv_bn_relu(channels["out"], head_channels),
        block,
        nn.Conv2d(getattr(block, "out_channels", head_channels), num_classes, 1),
    )
    aux_classifier = _aux_classifier(channels["aux"], num_classes) if aux_loss else None
    model = Segmenter(trunk, classifier, aux_classifier)
    model.recipe = recipe(segmenter, arguments)
    return model


def _backbone(backbone: str | nn.Module, weights: str | None) -> nn.Module:
    if backbone in DEPTHS:
        trunk = DGMN2(DEPTHS[str(backbone)])
        if weights is not None:
            load_official(trunk, weights)
        return trunk
    if isinstance(backbone, str) and backbone.startswith(PREFIX):
        return timm_backbone(backbone.removeprefix(PREFIX), weights)
    if isinstance(backbone, str) and backbone != "small_trunk":
        if backbone not in RESNETS:
            names = (*RESNETS, *DEPTHS, "small_trunk", f"{PREFIX}…")
            raise ValueError(f"backbone: expected one of {names}, got {backbone!r}")
        return DilatedResNet(backbone, weights=weights)
    if weights is not None:
        raise ValueError(
            "weights_backbone: only ResNets, DGMN2 and networks of timm have weights, "
            f"got {weights!r}"
        )
    return SmallTrunk() if isinstance(backbone, str) else backbone


def _context(context: str | Callable[[int], nn.Module] | None, channels: int) -> nn.Module:
    if context in (None, "none"):
        return nn.Identity()
    if isinstance(context, str):
        if context not in CONTEXTS:
            names = ("none", *CONTEXTS)
            raise ValueError(f"context: expected None or one of {names}, got {context!r}")
        context = CONTEXTS[context]
    return context(channels)


def _aux_classifier(in_channels: int, num_classes: int) -> nn.Sequential:
    hidden_channels = max(in_channels // 4, 1)
    return nn.Sequential(
        conv_bn_relu(in_channels, hidden_channels),
        nn.Dropout(0.1),
        nn.Conv2d(hidden_channels, num_classes, 1),
    )


def _by_name(features: Tensor | list[Tensor] | tuple[Tensor, ...] | dict) -> dict[str, Tensor]:
    if isinstance(features, Tensor):
        return {"out": features}
    if isinstance(features, (list, tuple)):
        return dict(zip(("out", "aux"), reversed(features), strict=False))
    return features


def _feature_channels(backbone: nn.Module) -> dict[str, int]:
    """The channels of each feature map, from a run on a small image."""
    with evaluation_mode(backbone):
        features = _by_name(backbone(example_image(backbone)))
    return {name: feature.shape[1] for name, feature in features.items()}

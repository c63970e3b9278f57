"""DGMN2: a hierarchical backbone of transformer blocks on sampled nodes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from dyngraph.models.backbone import conv_bn_relu
from dyngraph.models.hub import HubModel
from dyngraph.models.recipe import builder, recipe
from dyngraph.nn.block import DGMN2Block
from dyngraph.nn.node_linear import TransformerLinear

#: The number of blocks of each stage.
DEPTHS = {
    "dgmn2_tiny": (2, 2, 2, 2),
    "dgmn2_small": (3, 4, 6, 3),
    "dgmn2_medium": (3, 4, 18, 3),
    "dgmn2_large": (3, 8, 27, 3),
}


@builder()
class DGMN2(HubModel):
    r"""The backbone of DGMN2: four stages of blocks, for images of any size.

    From "Dynamic Graph Message Passing Networks for Visual Recognition" (TPAMI 2022). Its
    ``state_dict`` has the names of the released weights.

    Args:
        depths: The number of blocks of each stage.
        channels: The channels of each stage.
        heads: The heads of each stage.
        mlp_ratios: The hidden channels per channel of the MLPs of each stage.
        in_channels: The channels of images.
        drop_path: The probability that an image loses a branch in training, in the last block; it
            falls to 0 for the first.
        checkpointing: Whether blocks keep only their inputs for the backward pass, which then
            recomputes the rest: less memory, more time.

    Attributes:
        channels: The channels of the maps that it returns.
        strides: Their strides, 4, 8, 16 and 32.

    Raises:
        ValueError: If there are not four stages, or a number does not fit.

    Shapes:
        - **input:** ``[B, in_channels, H, W]``
        - **output:** a list of four maps ``[B, C_s, ceil(H / stride_s), ceil(W / stride_s)]``
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        depths: Sequence[int] = DEPTHS["dgmn2_small"],
        channels: Sequence[int] = (64, 128, 320, 512),
        *,
        heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        in_channels: int = 3,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        stages = {"depths": depths, "channels": channels, "heads": heads, "mlp_ratios": mlp_ratios}
        for name, numbers in stages.items():
            if len(numbers) != 4:
                raise ValueError(f"{name}: expected a number for each of 4 stages, got {numbers}")
        options = {
            "in_channels": in_channels,
            "drop_path": drop_path,
            "checkpointing": checkpointing,
        }
        self.recipe = recipe(DGMN2, stages | options)
        self.channels = tuple(channels)
        # Names and order of modules are those of the released code.
        stem = (in_channels, channels[0] // 2, channels[0] // 2, channels[0])
        self.patch_embed1 = patch_embedding(stem, strides=(2, 1, 2))
        self.patch_embed2 = patch_embedding(channels[0:2], strides=(2,))
        self.patch_embed3 = patch_embedding(channels[1:3], strides=(2,))
        self.patch_embed4 = patch_embedding(channels[2:4], strides=(2,))
        last = max(sum(depths) - 1, 1)
        probabilities = iter(drop_path * number / last for number in range(sum(depths)))
        for stage, stride in enumerate(self.strides):
            # The tables of relative positions are made for images of 224x224 pixels.
            make = partial(
                DGMN2Block,
                channels[stage],
                heads[stage],
                (224 // stride, 224 // stride),
                mlp_ratio=mlp_ratios[stage],
                checkpointing=checkpointing,
            )
            blocks = [make(drop_path=next(probabilities)) for _ in range(depths[stage])]
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.stages(image, len(self.channels))

    def stages(self, image: Tensor, count: int) -> list[Tensor]:
        r"""The maps of the first stages."""
        maps = []
        x = image
        for stage in range(1, count + 1):
            x = self.get_submodule(f"patch_embed{stage}")(x)
            # The order of nodes, which the blocks keep.
            x = x.contiguous(memory_format=torch.channels_last)
            for block in cast(nn.ModuleList, self.get_submodule(f"block{stage}")):
                x = block(x)
            maps.append(x)
        return maps


@builder(DGMN2)
class DGMN2Classifier(DGMN2):
    r"""The image classifier that DGMN2 was trained as: a linear map of the mean of all nodes.

    Args:
        num_classes: The number of classes.
        **kwargs: Arguments of :class:`DGMN2`.

    Raises:
        ValueError: If ``num_classes`` is not positive, or as :class:`DGMN2` does.

    Shapes:
        - **input:** ``[B, 3, H, W]``
        - **output:** ``[B, num_classes]``
    """

    def __init__(self, num_classes: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
        arguments = {"num_classes": num_classes, **kwargs}
        self.recipe = recipe(DGMN2Classifier, arguments)
        self.head = TransformerLinear(self.channels[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        return self.head(super().forward(image)[-1].mean(dim=(2, 3)))


def patch_embedding(channels: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    r"""3x3 convolutions, each with batch normalisation and ReLU, by their released names."""
    layers: dict[str, nn.Module] = {}
    for i, stride in enumerate(strides):
        number = i + 1 if len(strides) > 1 else ""
        parts = conv_bn_relu(channels[i], channels[i + 1], stride)
        for name, part in zip(("conv", "norm", "relu"), parts, strict=True):
            layers[f"{name}{number}"] = part
    return nn.Sequential(OrderedDict(layers))


def dgmn2_tiny(num_classes: int = 1000, *, features_only: bool = False, **kwargs: Any) -> DGMN2:
    r"""DGMN2-Tiny: 12.1 M parameters, with 1000 classes.

    Args:
        num_classes: The number of classes of the classifier.
        features_only: Whether to make the backbone without the classifier, which returns the maps
            of the four stages.
        **kwargs: Arguments of :class:`DGMN2`.
    """
    return _dgmn2("dgmn2_tiny", num_classes, features_only, kwargs)


def dgmn2_small(num_classes: int = 1000, *, features_only: bool = False, **kwargs: Any) -> DGMN2:
    r"""DGMN2-Small: 21.0 M parameters. Arguments are those of :func:`dgmn2_tiny`."""
    return _dgmn2("dgmn2_small", num_classes, features_only, kwargs)


def dgmn2_medium(num_classes: int = 1000, *, features_only: bool = False, **kwargs: Any) -> DGMN2:
    r"""DGMN2-Medium: 35.8 M parameters. Arguments are those of :func:`dgmn2_tiny`."""
    return _dgmn2("dgmn2_medium", num_classes, features_only, kwargs)


def dgmn2_large(num_classes: int = 1000, *, features_only: bool = False, **kwargs: Any) -> DGMN2:
    r"""DGMN2-Large: 48.3 M parameters. Arguments are those of :func:`dgmn2_tiny`."""
    return _dgmn2("dgmn2_large", num_classes, features_only, kwargs)


def _dgmn2(name: str, num_classes: int, features_only: bool, options: dict[str, Any]) -> DGMN2:
    if features_only:
        return DGMN2(DEPTHS[name], **options)
    return DGMN2Classifier(num_classes, depths=DEPTHS[name], **options)

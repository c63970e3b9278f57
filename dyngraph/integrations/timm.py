"""DGMN2 in timm, and in all that take timm's networks. Importing this module registers it.

Needs timm: ``pip install 'dyngraph[train,timm]'``.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

try:
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
    from timm.models._features import feature_take_indices
except ImportError as error:
    raise ImportError(
        "dyngraph.integrations.timm needs timm: pip install 'dyngraph[train,timm]'"
    ) from error

from dyngraph.models import DGMN2
from dyngraph.models.dgmn2 import DEPTHS
from dyngraph.nn.block import DGMN2Block
from dyngraph.nn.node_linear import TransformerLinear

_POOLS = ("avg", "")


class TimmDGMN2(DGMN2):
    r"""DGMN2's classifier with the methods that timm asks of its networks.

    Its weights have the names of :class:`~dyngraph.models.DGMN2Classifier`.

    Args:
        num_classes: The number of classes; 0 for pooled features instead of scores.
        in_chans: The channels of images.
        global_pool: ``"avg"``, or ``""`` for maps.
        drop_rate: The dropout before the classifier.
        drop_path_rate: See :class:`~dyngraph.models.DGMN2`, as for other arguments.
        output_stride: Of the last map: 32, the only one that the network has.
        **kwargs: Arguments of :class:`~dyngraph.models.DGMN2`.

    Raises:
        ValueError: If ``global_pool`` or ``output_stride`` is another.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        *,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: int = 32,
        **kwargs: Any,
    ) -> None:
        if output_stride != self.strides[-1]:
            raise ValueError(f"output_stride: expected {self.strides[-1]}, got {output_stride}")
        super().__init__(in_channels=in_chans, drop_path=drop_path_rate, **kwargs)
        # That of a network without this head.
        self.recipe = None
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.num_features = self.head_hidden_size = self.channels[-1]
        self.feature_info = [
            {"num_chs": channels, "reduction": stride, "module": f"block{stage}"}
            for stage, (channels, stride) in enumerate(
                zip(self.channels, self.strides, strict=True), start=1
            )
        ]
        self.num_stages = len(self.channels)
        self.reset_classifier(num_classes, global_pool)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        r"""Replaces the classifier by a new one, or by none for 0 classes."""
        if global_pool is not None:
            if global_pool not in _POOLS:
                raise ValueError(f"global_pool: expected one of {_POOLS}, got {global_pool!r}")
            self.global_pool = global_pool
        self.num_classes = num_classes
        weight = next(self.parameters())
        head: nn.Module = nn.Identity()
        if num_classes > 0:
            head = TransformerLinear(self.num_features, num_classes)
        self.head = head.to(weight.device, weight.dtype).train(self.training)

    def get_classifier(self) -> nn.Module:
        r"""The classifier."""
        return self.head

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        r"""The maps of some stages, after the last one or alone.

        Args:
            x: Images.
            indices: The stages, from 0; a number for the last ones; None for all.
            norm: Without effect: there is no normalisation after the last stage.
            stop_early: Whether to leave out the stages after the last one that is asked for.
            output_fmt: ``"NCHW"``.
            intermediates_only: Whether to return the list of maps alone.

        Raises:
            ValueError: If ``output_fmt`` is another.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt: expected 'NCHW', got {output_fmt!r}")
        taken, last = feature_take_indices(self.num_stages, indices)
        maps = self.stages(x, last + 1 if stop_early else self.num_stages)
        some = [maps[index] for index in taken]
        return some if intermediates_only else (maps[-1], some)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        r"""Removes what stages up to the last one of ``indices`` don't need."""
        taken, last = feature_take_indices(self.num_stages, indices)
        for stage in range(last + 1, self.num_stages):
            delattr(self, f"patch_embed{stage + 1}")
            delattr(self, f"block{stage + 1}")
        is_shorter = last + 1 < self.num_stages
        self.num_stages = last + 1
        self.num_features = self.head_hidden_size = self.channels[last]
        if prune_head or is_shorter:
            self.reset_classifier(0, "")
        return taken

    def forward_features(self, x: Tensor) -> Tensor:
        r"""The last map."""
        return self.stages(x, self.num_stages)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        r"""From the last map to the scores of the classes, or to what the classifier gets."""
        if self.global_pool:
            x = x.mean(dim=(2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.forward_head(self.forward_features(x))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        r"""Sets whether blocks keep only their inputs for the backward pass."""
        for module in self.modules():
            if isinstance(module, DGMN2Block):
                module.checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        r"""The layers in order, for learning rates that fall from layer to layer."""
        if coarse:
            return {"stem": r"^patch_embed1", "blocks": r"^(?:patch_embed|block)(\d+)"}
        layers = [(r"^patch_embed(\d+)", (-1,)), (r"^block(\d+)\.(\d+)", None)]
        return {"stem": r"^patch_embed1", "blocks": layers}


default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "patch_embed1.conv1",
            "classifier": "head",
        }
        for name in DEPTHS
    }
)


@register_model
def dgmn2_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    r"""DGMN2-Tiny as :func:`timm.create_model` builds it.

    Args:
        pretrained: Must be False: :func:`~dyngraph.models.load_official` loads released files.
        **kwargs: Arguments of :class:`TimmDGMN2` and of timm.

    Raises:
        ValueError: If ``pretrained`` is asked for.
    """
    return _create("dgmn2_tiny", pretrained, kwargs)


@register_model
def dgmn2_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    r"""DGMN2-Small, likewise."""
    return _create("dgmn2_small", pretrained, kwargs)


@register_model
def dgmn2_medium(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    r"""DGMN2-Medium, likewise."""
    return _create("dgmn2_medium", pretrained, kwargs)


@register_model
def dgmn2_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    r"""DGMN2-Large, likewise."""
    return _create("dgmn2_large", pretrained, kwargs)


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    if pretrained:
        raise ValueError(
            f"pretrained: expected False, because timm has no weights of {name}: "
            "dyngraph.models.load_official loads a released file into it"
        )
    indices = options.pop("out_indices", (0, 1, 2, 3))
    return build_model_with_cfg(
        TimmDGMN2,
        name,
        False,
        feature_cfg={"out_indices": indices, "feature_cls": "getter"},
        depths=DEPTHS[name],
        **options,
    )

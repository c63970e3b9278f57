"""The dynamic graph message passing block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor

from dyngraph.grid import Grid
from dyngraph.nn.block.feature_map_block import FeatureMapBlock
from dyngraph.nn.conv.dgmn_conv import DGMNConv


class DGMNBlock(FeatureMapBlock):
    r"""Dynamic graph message passing on feature maps.

    From "Dynamic Graph Message Passing Networks" (CVPR 2020,
    `arXiv:1908.06955 <https://arxiv.org/abs/1908.06955>`__). See :class:`~dyngraph.nn.DGMNConv`
    for the formula.

    Args:
        in_channels: C, the channels of the feature maps, and of the result.
        rates: The sampling rates: 1, 6, 12, 24, 36 on Cityscapes and 1, 4, 8, 12 on COCO.
        groups: G, the number of channel groups, each with its own filter. 0: affinities alone.
        affinity: Whether affinities are predicted (DA).
        filters: Whether filters are predicted (DW).
        walk: Whether the samples walk away from the dilated taps (DS).
        fusion: ``"sum"``, which starts as the identity, or ``"concat"``.
        num_steps: T, how many times the nodes are updated, with the same weights.
        kernel_size: The length of the kernels along each axis, odd.
        num_axes: The number of spatial axes of the feature maps.
        activation: σ, a function on node features. Defaults to the identity.
        legacy_affinity: Whether the fourth rate takes its affinities from the last filter group,
            as the released code does by mistake.
        bias: Whether walks and predictions have biases.
        backend: The backend of the operators.

    Raises:
        ValueError: As :class:`~dyngraph.nn.DGMNConv` does.

    Shapes:
        - **input:** ``[B, C, *spatial]`` or a list of maps ``[C, *spatial]``
        - **output:** the same

    Example:
        >>> import torch
        >>> from dyngraph.nn import DGMNBlock
        >>> block = DGMNBlock(8, rates=(1, 2))
        >>> block(torch.randn(2, 8, 4, 5)).shape
        torch.Size([2, 8, 4, 5])
        >>> first, second = block([torch.randn(8, 4, 5), torch.randn(8, 3, 3)])
        >>> second.shape
        torch.Size([8, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        rates: Sequence[int] = (1, 6, 12, 24, 36),
        groups: int = 4,
        *,
        affinity: bool = True,
        filters: bool = True,
        walk: bool = True,
        fusion: str = "concat",
        num_steps: int = 1,
        kernel_size: int = 3,
        num_axes: int = 2,
        # jsonargparse would mistake a function that returns a class for a factory of instances.
        activation: Callable[[Tensor], Any] | None = None,
        legacy_affinity: bool = False,
        bias: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(in_channels, in_channels)
        self.conv = DGMNConv(
            in_channels,
            rates,
            groups,
            affinity=affinity,
            filters=filters,
            walk=walk,
            fusion=fusion,
            num_steps=num_steps,
            kernel_size=kernel_size,
            num_axes=num_axes,
            activation=activation,
            legacy_affinity=legacy_affinity,
            bias=bias,
            backend=backend,
        )

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the block."""
        self.conv.reset_parameters()

    def forward_nodes(self, x: Tensor, grid: Grid) -> Tensor:
        out: Tensor = self.conv(x, grid)
        return out

    @classmethod
    def from_official(
        cls,
        state_dict: Mapping[str, Tensor],
        rates: Sequence[int] = (1, 4, 8, 12),
        groups: int = 4,
        *,
        legacy_affinity: bool = True,
    ) -> DGMNBlock:
        r"""A block with the weights of the released COCO layer, ``ReDynamicWeightsCat33``.

        Args:
            state_dict: Its weights: ``gamma1``, ``gamma2``, … and, lettered by rate,
                ``off_conva.weight`` and ``kernel_conva.weight`` (with walks) or ``cata.weight``
                (without).
            rates: Its dilations.
            groups: Its groups; the weights don't distinguish one group from affinities alone.
            legacy_affinity: Whether to reproduce its mistake in the fourth rate, as weights trained
                with it need.

        Raises:
            ValueError: If there is no rate, or a weight is missing, left over or of an unexpected
                shape.
        """
        if not rates:
            raise ValueError("rates: expected at least one sampling rate, got none")
        walk = "off_conva.weight" in state_dict
        prediction = "kernel_conv" if walk else "cat"
        names = {
            target: source
            for q, letter in zip(range(len(rates)), ascii_lowercase, strict=False)
            for target, source in (
                (f"beta.{q}", f"gamma{q + 1}"),
                (f"messages.{q}.prediction", f"{prediction}{letter}.weight"),
                *([(f"messages.{q}.sampler.walk.weight", f"off_conv{letter}.weight")] * walk),
            )
        }
        if set(names.values()) != set(state_dict):
            missing = sorted(set(names.values()) - set(state_dict))
            unexpected = sorted(set(state_dict) - set(names.values()))
            raise ValueError(f"state_dict: missing {missing}, unexpected {unexpected}")

        shape = state_dict[f"{prediction}a.weight"].shape
        if len(shape) != 4 or shape[2] != shape[3]:
            raise ValueError(
                f"state_dict: expected {prediction}a.weight [O, C, K, K], got {list(shape)}"
            )
        for name in names.values():
            if name.startswith(prediction) and state_dict[name].shape != shape:
                raise ValueError(
                    f"state_dict: expected {name} {list(shape)}, got {list(state_dict[name].shape)}"
                )
        num_outputs, channels, kernel_size, _ = shape
        num_samples = kernel_size**2
        affinity = num_outputs == (groups + 1) * num_samples
        block = cls(
            channels,
            rates,
            groups,
            affinity=affinity,
            filters=groups > 0,
            walk=walk,
            fusion="sum",
            kernel_size=kernel_size,
            legacy_affinity=legacy_affinity and affinity and groups > 0 and len(rates) > 3,
        ).to(state_dict["gamma1"].dtype)
        weights = {target: state_dict[source] for target, source in names.items()}
        weights = {
            name: weight.flatten(2) if name.endswith("prediction") else weight
            for name, weight in weights.items()
        }
        betas = [weights.pop(f"beta.{q}").flatten() for q in range(len(rates))]
        try:
            block.conv.load_state_dict({**weights, "beta": torch.cat(betas)})
        except RuntimeError as error:
            raise ValueError(f"state_dict: {error}") from error
        return block

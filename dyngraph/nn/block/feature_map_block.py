"""The base class of blocks: feature maps through layers on their nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from dyngraph.grid import FeatureMaps, Grid


class FeatureMapBlock(nn.Module, ABC):
    r"""A block on feature maps whose layers work on their nodes, ``[N, C]``.

    The result has the memory layout of the batch. A ``channels_last`` one is taken and returned
    without a copy.

    Args:
        in_channels: The channels of the feature maps.
        out_channels: The channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels

    @abstractmethod
    def forward_nodes(self, x: Tensor, grid: Grid) -> Tensor:
        r"""The block on node features: ``[N, in_channels] -> [N, out_channels]``."""

    def forward(self, maps: FeatureMaps) -> Tensor | list[Tensor]:
        r"""Runs the block on a batch ``[B, C, *spatial]`` or a list of maps ``[C, *spatial]``.

        Raises:
            ValueError: If the maps do not have ``in_channels`` channels, or have too few or too
                many axes.
        """
        grid = self.grid_of(maps)
        # Maps of one channel have both layouts.
        if isinstance(maps, Tensor) and maps.is_contiguous() and self.in_channels > 1:
            return self.forward_contiguous(maps, grid)
        return grid.unflatten(self.forward_nodes(grid.flatten(maps), grid))

    def forward_contiguous(self, maps: Tensor, grid: Grid) -> Tensor:
        r"""The block on a contiguous batch ``[B, in_channels, *spatial]``.

        Here all channels are brought into the order of nodes and back. A subclass whose layer works
        on fewer can do better.
        """
        # The gradient of these views is contiguous too.
        x = self.forward_nodes(grid.flatten(maps.flatten(1).view_as(maps)), grid)
        return grid.unflatten_runs(x)[0].contiguous()

    def grid_of(self, maps: FeatureMaps) -> Grid:
        r"""The layout of maps, if they have ``in_channels`` channels.

        Raises:
            ValueError: If they have not.
        """
        grid = Grid.of(maps)
        channel_axis = 1 if isinstance(maps, Tensor) else 0
        for part in [maps] if isinstance(maps, Tensor) else maps:
            if part.shape[channel_axis] != self.in_channels:
                raise ValueError(
                    f"maps: expected {self.in_channels} channels, got shape {list(part.shape)}"
                )
        return grid

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}"

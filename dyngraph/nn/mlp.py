"""The feed-forward part of a transformer's block."""

import torch.nn.functional as F
from torch import Tensor, nn

from dyngraph.nn.node_linear import TransformerLinear


class MLP(nn.Module):
    r"""Two linear layers with a GELU between them, ``[N, C] -> [N, C]``.

    Args:
        channels: C.
        hidden_channels: The channels between the layers.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = TransformerLinear(channels, hidden_channels)
        self.fc2 = TransformerLinear(hidden_channels, channels)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters."""
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out

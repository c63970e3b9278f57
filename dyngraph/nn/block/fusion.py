"""How a block joins its input with what it computed."""

import torch
from torch import Tensor, nn

from dyngraph.derivatives import transforms_active
from dyngraph.ops.large_pages import new_output

FUSIONS = ("sum", "concat")


class Fusion(nn.Module):
    r"""Joins node features ``x [N, C]`` and ``y [N, C]``. The memory of ``y`` may be reused.

    Args:
        mode: ``"sum"``: :math:`\mathbf{y} + \mathbf{x}`, C channels. ``"concat"``:
            :math:`[\mathbf{x}, \mathbf{y}]`, 2 C channels.

    Raises:
        ValueError: If ``mode`` is unknown.
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        if mode not in FUSIONS:
            raise ValueError(f"fusion: expected one of {FUSIONS}, got {mode!r}")
        self.mode = mode

    def out_channels(self, channels: int) -> int:
        r"""The channels of the result for features of ``channels`` channels."""
        return channels if self.mode == "sum" else 2 * channels

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.mode == "concat":
            return torch.cat([x, y.to(x.dtype)], dim=1)
        return y.add_(x) if y.dtype == x.dtype and may_overwrite(y) else y + x

    def start(self, x: Tensor, bias: Tensor, relu: bool) -> tuple[Tensor, Tensor]:
        r"""The result for maps ``x [B, C, nodes]`` without y, and the part that y is added to.

        This part has the bias of y already. The rest, if there is any, has been through ReLU where
        ``relu`` says so.
        """
        if self.mode == "sum":
            out = torch.add(x, bias.unsqueeze(1), out=new_output(x, x.shape))
            return out, out
        out = new_output(x, (len(x), 2 * x.shape[1], x.shape[2]))
        of_x, of_y = out.chunk(2, dim=1)
        if relu:
            torch.clamp(x, min=0, out=of_x)
        else:
            of_x.copy_(x)
        return out, of_y.copy_(bias.unsqueeze(1))

    def extra_repr(self) -> str:
        return self.mode


def may_overwrite(x: Tensor) -> bool:
    r"""Whether to work in place on an intermediate result.

    Not on a view, as its gradient would be copied, nor when compiling: a compiler reuses memory by
    itself.
    """
    if torch.compiler.is_compiling():
        return False
    return not (x.requires_grad and x._is_view())


def may_write_outputs(device: torch.device) -> bool:
    r"""Whether parts of a result may be written where they belong.

    Not where autograd, autocast, a transform or a compiler has to see how the result is made.
    """
    return not (
        torch.is_grad_enabled()
        # The meta device has no autocast.
        or (device.type != "meta" and torch.is_autocast_enabled(device.type))
        or transforms_active()
        or torch.compiler.is_compiling()
    )

"""The linear map of nodes."""

import torch
import torch.nn.functional as F
from torch import Tensor


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r""":func:`torch.nn.functional.linear` on node features ``[N, C]``, the fastest way.

    On a CPU, a 1x1 convolution of a ``channels_last`` map is faster than a matrix product.
    """
    empty = x.shape[0] == 0 or weight.shape[0] == 0
    if x.device.type != "cpu" or x.dtype != torch.float32 or empty:
        return F.linear(x, weight, bias)
    maps = x.contiguous()[None, None].permute(0, 3, 1, 2)
    return F.conv2d(maps, weight[:, :, None, None], bias).permute(0, 2, 3, 1).flatten(0, 2)

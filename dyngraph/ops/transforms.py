"""Whether PyTorch transforms the program that runs: forward-mode derivatives, ``torch.func``."""

import torch
from torch.autograd import forward_ad


def transforms_active() -> bool:
    r"""Whether a transform of :mod:`torch.func` or a level of dual numbers is entered.

    An operator of :mod:`torch.library` is opaque to both: it would drop tangents without a word. So
    the operators of :mod:`dyngraph.ops` then are the same formulas in standard operators.
    """
    # No public function tells; these are what `torch.autograd.Function` and `make_dual` ask.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0

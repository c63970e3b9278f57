"""Groups of channels as maps of their own, where each has samples of its own."""

from torch import Tensor


def split_groups(x: Tensor, groups: int) -> Tensor:
    r"""One slice of channels after the other, ``[N, G c] -> [G N, c]``."""
    return x.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 1)


def join_groups(x: Tensor, groups: int) -> Tensor:
    r"""The inverse of :func:`split_groups`, ``[G N, c] -> [N, G c]``."""
    return x.unflatten(0, (groups, -1)).transpose(0, 1).flatten(1)

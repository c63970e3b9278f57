"""The softmax over samples."""

from torch import Tensor


def softmax_over_samples(score: Tensor) -> Tensor:
    r"""The softmax over the last axis, ``[..., K]``, of few entries.

    Along the first axis PyTorch computes many rows at a time, which is ten times faster.
    """
    return score.movedim(-1, 0).softmax(dim=0).movedim(0, -1)

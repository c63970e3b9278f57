"""What a set of kernels computes: the same for all, so that one takes another's place."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from dyngraph.multilinear import Maps


class Kernels(Protocol):
    r"""The functions that carry the operators out, without gradients of their own.

    N nodes listen to M senders, whose C channels are G contiguous groups. The samples are all
    groups' (H = 1) or each group's own (H = G), level after level. Positions ``[N, H, K, P]`` are
    float32 or float64, indices ``[N, H, L]`` or ``[N, H, 2^P, K]`` int32 or int64 and in range,
    weights ``[N, G, L]``, attention and its bias ``[N, G, K]`` at least float32, features of one
    dtype.
    Tensors may be strided. What is read of a table without rows is 0, whatever the indices.
    """

    SUMS_HALF_TYPES: bool
    r"""Whether features of half types are read as they are, and summed in float32."""
    RECOMPUTES: bool
    r"""Whether the backward pass of attention computes scores again, whatever it is given."""

    def corners(
        self, pos: Tensor, maps: Sequence[Maps], border: bool, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        r"""Index, of ``dtype``, and weight of each corner, ``[N, H, 2^P, K]``."""

    def corners_backward(
        self, grad_weight: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool
    ) -> Tensor:
        r"""The gradient of positions, ``[N, H, K, P]``."""

    def gather_dot(self, x: Tensor, table: Tensor, index: Tensor, groups: int) -> Tensor:
        r"""``[N, C], [M, C], [N, H, L] -> [N, G, L]``."""

    def gather_sum(self, weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
        r"""``[N, G, L], [M, C], [N, H, L] -> [N, C]``."""

    def scatter_sum(self, weight: Tensor, x: Tensor, index: Tensor, num_rows: int) -> Tensor:
        r"""``[N, G, L], [N, C], [N, H, L] -> [M, C]``, M = ``num_rows``."""

    def sampled_sum(
        self, weight: Tensor, table: Tensor, pos: Tensor, maps: Sequence[Maps], border: bool
    ) -> Tensor:
        r"""``[N, G, K], [M, C], [N, H, K, P] -> [N, C]``."""

    def sampled_sum_backward(
        self,
        grad_out: Tensor,
        weight: Tensor,
        table: Tensor,
        pos: Tensor,
        maps: Sequence[Maps],
        border: bool,
        needs: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""The gradients of weight, table and pos that ``needs`` asks for, else empty."""

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None,
        pos: Tensor,
        bias: Tensor | None,
        maps: Sequence[Maps],
        border: bool,
        groups: int,
        scale: float,
        keep_scores: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Output ``[N, C']``, attention ``[N, G, K]``, and what the backward pass gets of it.

        ``value`` is None where keys are the values. The last is ``[N, G, 2^P, K]``, the scores of
        corners, or empty without ``keep_scores``.
        """

    def attention_backward(
        self,
        grad_out: Tensor | None,
        grad_alpha: Tensor | None,
        query: Tensor,
        key: Tensor,
        value: Tensor | None,
        pos: Tensor,
        alpha: Tensor,
        scores: Tensor,
        maps: Sequence[Maps],
        border: bool,
        groups: int,
        scale: float,
        needs: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        r"""The gradients of query, key, value, pos and bias that ``needs`` asks for, else empty."""


class KernelSet(Protocol):
    r"""A package with a set of kernels: what speaks against them, and the kernels themselves.

    It can be imported everywhere, so that it can say what is missing.
    """

    def reasons_against(self, device: torch.device, *, named: bool) -> list[str]:
        r"""Why the kernels can't serve tensors of a device, such as a package that is missing.

        Args:
            device: The device.
            named: Whether a call asks for them by name. If not, the reasons include those why
                ``"auto"`` should not take them, though they could serve.

        Returns:
            All reasons, each a phrase for an error message; none if nothing speaks against them.
        """

    def load(self) -> Kernels:
        r"""The kernels. Only called where nothing speaks against them."""

"""Sets of kernels, by the name of their backend."""

from typing import cast

from dyngraph.ops.kernels.interface import Kernels


def load_kernels(backend: str) -> Kernels:
    r"""The kernels of the backend ``"torch"`` or ``"triton"``, imported when they are asked for."""
    if backend == "torch":
        from dyngraph.ops.kernels import pytorch

        return cast(Kernels, pytorch)
    from dyngraph.ops.kernels import triton

    return cast(Kernels, triton)

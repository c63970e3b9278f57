"""Sets of kernels, by the name of their backend."""

from dyngraph.ops.kernels import native, pytorch, triton
from dyngraph.ops.kernels.interface import Kernels, KernelSet

KERNELS: dict[str, KernelSet] = {
    "triton": triton,
    "native": native,
    "torch": pytorch,
}
"""All sets, in the order in which ``"auto"`` asks what speaks against them."""


def load_kernels(backend: str) -> Kernels:
    r"""The kernels of a backend of :data:`KERNELS`, imported when they are asked for."""
    return KERNELS[backend].load()

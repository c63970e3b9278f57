"""The choice of a backend, per call or for a whole block of code."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

import torch

from dyngraph.ops import torch_kernels

BACKENDS = ("auto", "pyg", "torch", "triton")

_HAS_TRITON = find_spec("triton") is not None
_default = "auto"


def check_backend(name: str) -> str:
    r"""Returns ``name``, or raises a :class:`ValueError` if there is no such backend."""
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {BACKENDS}, got {name!r}")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    r"""Makes ``name`` the backend of every call inside that asks for ``"auto"``.

    Args:
        name: ``"auto"``, ``"pyg"`` (materialised edges and ``propagate``, the reference),
            ``"torch"`` (weighted gathers on node-major tables) or ``"triton"`` (the same, fused,
            on CUDA).

    Raises:
        ValueError: If there is no such backend.
    """
    global _default
    before, _default = _default, check_backend(name)
    try:
        yield
    finally:
        _default = before


def resolve_backend(name: str, device: torch.device) -> str:
    r"""The backend that a call asking for ``name`` gets for tensors of a device.

    ``"auto"`` is ``"triton"`` on CUDA where Triton is installed, else ``"torch"``; but ``"pyg"``
    for an export to ONNX: it consists of standard operators.
    """
    if check_backend(name) == "auto":
        name = _default
    if name != "auto":
        return name
    if torch.onnx.is_in_onnx_export():
        return "pyg"
    return "triton" if device.type == "cuda" and _HAS_TRITON else "torch"


def kernels(backend: str) -> ModuleType:
    r"""What carries out the operators of the backends ``"torch"`` and ``"triton"``.

    Raises:
        ImportError: If Triton is asked for and missing.
    """
    if backend == "torch":
        return torch_kernels
    if not _HAS_TRITON:
        raise ImportError("backend 'triton' needs Triton: pip install triton")
    from dyngraph.ops import triton_kernels

    return triton_kernels


def accumulator(dtype: torch.dtype) -> torch.dtype:
    r"""The dtype of sums over features of a dtype: at least float32."""
    return torch.promote_types(dtype, torch.float32)

"""The choice of a backend, per call or for a whole block of code, and the reasons for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor

from dyngraph.ops.self_check import KINDS, fault

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
        name: ``"auto"``, ``"pyg"`` (materialised edges, the reference), ``"torch"`` (weighted
            gathers on node-major tables) or ``"triton"`` (the same, fused, on CUDA).

    Raises:
        ValueError: If there is no such backend.
    """
    global _default
    before, _default = _default, check_backend(name)
    try:
        yield
    finally:
        _default = before


def resolve_backend(name: str, device: torch.device, kinds: Sequence[str] = ()) -> str:
    r"""The backend that a call asking for ``name`` gets for tensors of a device.

    ``"auto"`` is the one that :func:`use_backend` names, else the first of ``"triton"``,
    ``"torch"`` and ``"pyg"`` that nothing speaks against.

    Args:
        name: The backend that is asked for.
        device: The device of the tensors.
        kinds: The kinds of operators that the call needs, of
            :data:`~dyngraph.ops.self_check.KINDS`.

    Raises:
        ValueError: If there is no such backend, or the one that is asked for can't serve the call,
            with all the reasons.
    """
    asked = check_backend(name)
    if asked == "auto":
        asked = _default
    if asked != "auto":
        if reasons := _impossible(asked, device):
            raise ValueError(f"backend {asked!r}: {'; '.join(reasons)}")
        return asked
    for candidate in ("triton", "torch"):
        if not (_impossible(candidate, device) or _unwise(candidate, device, kinds)):
            return candidate
    return "pyg"


def explain_backend(*features: Tensor) -> str:
    r"""What ``"auto"`` is for these features, and why it is no other backend.

    Args:
        *features: The tensors that a call gets.

    Returns:
        A line for each backend.

    Raises:
        ValueError: If there is no tensor.

    Example:
        >>> print(explain_backend(torch.randn(4, 8)))
        triton: expected tensors on CUDA, got them on cpu
        torch: chosen
        pyg: possible
    """
    if not features:
        raise ValueError("features: expected at least one tensor, got none")
    device = features[0].device
    chosen = resolve_backend("auto", device, KINDS)
    lines = []
    for name in ("triton", "torch", "pyg"):
        reasons = _impossible(name, device) or _unwise(name, device, KINDS)
        verdict = "chosen" if name == chosen else "; ".join(reasons) or "possible"
        lines.append(f"{name}: {verdict}")
    return "\n".join(lines)


def _impossible(name: str, device: torch.device) -> list[str]:
    """Why a backend can't serve tensors of a device."""
    if name != "triton":
        return []
    reasons = []
    if not _HAS_TRITON:
        reasons.append("Triton is missing: pip install triton")
    elif device.type != "cuda" and not _is_interpreted():
        reasons.append(f"expected tensors on CUDA, got them on {device}")
    return reasons


def _unwise(name: str, device: torch.device, kinds: Sequence[str]) -> list[str]:
    """Why ``"auto"`` does not take a backend that could serve."""
    if name == "pyg":
        return []
    if torch.onnx.is_in_onnx_export():
        return ["an export to ONNX takes standard operators alone"]
    if name == "triton":
        if device.type != "cuda":
            return ["Triton's interpreter is for tests"]
        return [found for kind in kinds if (found := fault(kind, device)) is not None]
    return []


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"

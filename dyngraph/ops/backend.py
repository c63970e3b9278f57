"""The choice of a backend, per call or for a whole block of code, and the reasons for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dyngraph.ops.kernels import KERNELS
from dyngraph.ops.self_check import KINDS, fault

_default = "auto"


def backend_names() -> tuple[str, ...]:
    r"""All backends, in the order in which ``"auto"`` asks what speaks against them."""
    return (*KERNELS, "pyg")


def check_backend(name: str) -> str:
    r"""Returns ``name``, or raises a :class:`ValueError` if there is no such backend."""
    names = ("auto", *backend_names())
    if name not in names:
        raise ValueError(f"backend: expected one of {names}, got {name!r}")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    r"""Makes ``name`` the backend of every call inside that asks for ``"auto"``.

    Args:
        name: ``"auto"``, ``"pyg"`` (materialised edges, the reference), ``"torch"`` (weighted
            gathers on node-major tables), ``"native"`` (C++, on CPUs) or ``"triton"`` (on CUDA).

    Raises:
        ValueError: If there is no such backend.

    Example:
        >>> import torch
        >>> from dyngraph import Grid
        >>> from dyngraph.nn import RepGraphConv
        >>> from dyngraph.ops import use_backend
        >>> conv, x, grid = RepGraphConv(8, 16), torch.randn(20, 8), Grid([[4, 5]])
        >>> with use_backend("pyg"):
        ...     reference = conv(x, grid)
        >>> torch.allclose(conv(x, grid), reference, atol=1e-5)
        True
    """
    global _default
    before, _default = _default, check_backend(name)
    try:
        yield
    finally:
        _default = before


def resolve_backend(name: str, device: torch.device, kinds: Sequence[str] = ()) -> str:
    r"""The backend that a call asking for ``name`` gets for tensors of a device.

    ``"auto"`` is the one that :func:`use_backend` names, else the first of
    :func:`backend_names` that nothing speaks against.

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
        reasons = [] if asked == "pyg" else KERNELS[asked].reasons_against(device, named=True)
        if reasons:
            raise ValueError(f"backend {asked!r}: {'; '.join(reasons)}")
        return asked
    for candidate in KERNELS:
        if not _reasons_against(candidate, device, kinds):
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
        >>> import torch
        >>> from dyngraph.ops import explain_backend
        >>> print(explain_backend(torch.randn(4, 8)))  # doctest: +ELLIPSIS
        triton: ...
        native: ...
        torch: ...
        pyg: possible
    """
    if not features:
        raise ValueError("features: expected at least one tensor, got none")
    device = features[0].device
    chosen = resolve_backend("auto", device, KINDS)
    lines = []
    for name in backend_names():
        reasons = _reasons_against(name, device, KINDS)
        verdict = "chosen" if name == chosen else "; ".join(reasons) or "possible"
        lines.append(f"{name}: {verdict}")
    return "\n".join(lines)


def _reasons_against(name: str, device: torch.device, kinds: Sequence[str]) -> list[str]:
    """Why ``"auto"`` does not take a backend."""
    if name == "pyg":
        return []
    if torch.onnx.is_in_onnx_export():
        return ["an export to ONNX takes standard operators alone"]
    if reasons := KERNELS[name].reasons_against(device, named=False):
        # Kernels that can't serve can't be checked either.
        return reasons
    # Not in one comprehension with `:=`, which can't be compiled.
    faults = [fault(name, kind, device) for kind in kinds]
    return [found for found in faults if found is not None]

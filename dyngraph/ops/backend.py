"""The choice of a backend, per call or for a whole block of code."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

BACKENDS = ("auto", "pyg", "torch")

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
        name: ``"auto"``, ``"pyg"`` (materialised edges and ``propagate``, the reference) or
            ``"torch"`` (weighted gathers on node-major tables).

    Raises:
        ValueError: If there is no such backend.
    """
    global _default
    before, _default = _default, check_backend(name)
    try:
        yield
    finally:
        _default = before


def resolve_backend(name: str) -> str:
    r"""The backend that a call asking for ``name`` gets.

    ``"auto"`` is ``"torch"``, but for an export to ONNX ``"pyg"``: it consists of standard
    operators.
    """
    if check_backend(name) == "auto":
        name = _default
    if name == "auto":
        return "pyg" if torch.onnx.is_in_onnx_export() else "torch"
    return name

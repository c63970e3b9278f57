r"""Whether kernels do on a device what those in plain PyTorch do.

Each kind of kernel is compared once a process and device on a tiny case, values and gradients, when
``"auto"`` first wants it. A kind that fails is not chosen. ``DYNGRAPH_SELF_CHECK=0`` turns this
off.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from dyngraph.derivatives import transforms_active
from dyngraph.multilinear import Level, Maps
from dyngraph.ops.kernels import load_kernels
from dyngraph.ops.kernels.interface import Kernels

_REFERENCE = "torch"
# Sums of some thirty terms of size 1 in float32.
_TOLERANCE = 1e-4
_MAPS = [Maps(1, 12, (Level(3, (3, 4)),)), Maps(2, 4, (Level(3, (2, 5)),))]
_NODES, _SENDERS, _GROUPS, _SAMPLES, _WIDTH = 20, 32, 2, 3, 4

Results = Iterator[tuple[str, Tensor]]


def fault(backend: str, kind: str, device: torch.device) -> str | None:
    r"""What is wrong with a backend's kernels of a kind on a device, or None.

    Args:
        backend: Whose kernels.
        kind: One of :data:`KINDS`.
        device: The device.
    """
    if os.environ.get("DYNGRAPH_SELF_CHECK") == "0":
        return None
    # A compiler would trace the check; what it makes is run where the check has been. A transform
    # takes standard operators instead of kernels.
    if torch.compiler.is_compiling() or transforms_active():
        return None
    return None if backend == _REFERENCE else _fault(backend, kind, device)


@cache
def _fault(backend: str, kind: str, device: torch.device) -> str | None:
    found = compare(backend, kind, device)
    if found is not None:
        warnings.warn(f"backend {backend!r} is not used on {device}: {found}", stacklevel=2)
    return found


def compare(backend: str, kind: str, device: torch.device) -> str | None:
    r"""The first difference between the kernels of a backend and of plain PyTorch, or None."""
    try:
        # Nor are its operators for a mode of the caller's that counts, fakes or records them.
        with torch.no_grad(), _disable_current_modes():
            results = zip(
                _CASES[kind](load_kernels(backend), device),
                _CASES[kind](load_kernels(_REFERENCE), device),
                strict=True,
            )
            for (name, got), (_, want) in results:
                if not torch.allclose(got.double(), want.double(), 0, _TOLERANCE):
                    error = float((got.double() - want.double()).abs().max())
                    return f"{name} of its kernels differs from PyTorch's by {error:.2g}"
    # Whatever a compiler or a driver may raise.
    except Exception as error:
        return f"its kernels for {kind} fail with {error!r}"
    return None


def _corners(kernels: Kernels, device: torch.device) -> Results:
    draw = _draw(device)
    pos = 4 * draw(_NODES, _GROUPS, _SAMPLES, 2)
    index, weight = kernels.corners(pos, _MAPS, False, torch.int32)
    yield "index", index
    yield "weight", weight
    yield "gradient of pos", kernels.corners_backward(weight.cos(), pos, _MAPS, False)


def _edges(kernels: Kernels, device: torch.device) -> Results:
    draw = _draw(device)
    x, table = draw(_NODES, _GROUPS * _WIDTH), draw(_SENDERS, _GROUPS * _WIDTH)
    weight = draw(_NODES, _GROUPS, _SAMPLES)
    index = (_SENDERS * draw(_NODES, 1, _SAMPLES)).abs().int() % _SENDERS
    yield "gather_dot", kernels.gather_dot(x, table, index, _GROUPS)
    yield "gather_sum", kernels.gather_sum(weight, table, index)
    yield "scatter_sum", kernels.scatter_sum(weight, x, index, _SENDERS)


def _sum(kernels: Kernels, device: torch.device) -> Results:
    draw = _draw(device)
    weight, table = draw(_NODES, _GROUPS, _SAMPLES), draw(_SENDERS, _GROUPS * _WIDTH)
    pos, grad_out = 4 * draw(_NODES, 1, _SAMPLES, 2), draw(_NODES, _GROUPS * _WIDTH)
    yield "sampled_sum", kernels.sampled_sum(weight, table, pos, _MAPS, False)
    grads = kernels.sampled_sum_backward(grad_out, weight, table, pos, _MAPS, False, [True] * 3)
    for name, grad in zip(("weight", "table", "pos"), grads, strict=True):
        yield f"gradient of {name}", grad


def _attention(kernels: Kernels, device: torch.device) -> Results:
    draw = _draw(device)
    query, grad_out = draw(_NODES, _GROUPS * _WIDTH), draw(_NODES, _GROUPS * _WIDTH)
    key, value = draw(_SENDERS, _GROUPS * _WIDTH), draw(_SENDERS, _GROUPS * _WIDTH)
    pos, bias = 4 * draw(_NODES, 1, _SAMPLES, 2), draw(_NODES, _GROUPS, _SAMPLES)
    samples = (_MAPS, False, _GROUPS, 0.5)
    out, alpha, scores = kernels.attention(query, key, value, pos, bias, *samples, False)
    yield "attention", out
    yield "alpha", alpha
    grads = kernels.attention_backward(
        grad_out, None, query, key, value, pos, alpha, scores, *samples, [True] * 5
    )
    for name, grad in zip(("query", "key", "value", "pos", "bias"), grads, strict=True):
        yield f"gradient of {name}", grad


def _draw(device: torch.device) -> Callable[..., Tensor]:
    """Numbers that are the same for both, and leave the random state as it was."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator).to(device)


_CASES = {"corners": _corners, "edges": _edges, "sum": _sum, "attention": _attention}

KINDS = tuple(_CASES)
"""The kinds of kernels."""

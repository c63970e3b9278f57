"""The library of C++ kernels, as ctypes sees ``cpp/library.h``."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

VARIANTS = ("avx512", "avx2", "baseline")
"""For which processors the library has kernels, the fastest first."""

_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int32,
    torch.int64,
)


_PATH = next(iter(sorted(Path(__file__).parent.glob("_kernels*.so"))), None)


def _missing() -> str | None:
    if os.environ.get("DYNGRAPH_NATIVE") == "0":
        return "DYNGRAPH_NATIVE=0 turns the C++ kernels off"
    if _PATH is None:
        return "the C++ kernels are not built: pip install dyngraph again, with a C++ compiler"
    return None


# When this is imported: a compiled program can't look for files.
MISSING = _missing()
"""Why there is no library, or None if there is."""


class Features(Structure):
    """Features ``[rows, channels]``."""

    _fields_ = (("data", c_void_p), ("stride", c_int64))


class Samples(Structure):
    """Positions ``[N, H, K, P]`` on maps, or with P = 0 rows ``[N, H, K]``."""

    _fields_ = (
        ("pos", c_void_p),
        *((name, c_int64) for name in ("dtype", "own", "samples", "axes", "border")),
        ("maps", POINTER(c_int64)),
        ("numbers", c_int64),
    )


class Call(Structure):
    """What all kernels take."""

    _fields_ = (
        ("samples", Samples),
        *((name, c_int64) for name in ("groups", "channels", "dtype", "threads")),
    )


class Library(Structure):
    """The kernels of one variant."""

    _fields_ = (
        (
            "score",
            CFUNCTYPE(
                None,
                POINTER(Call),
                *(Features, Features, c_double, c_void_p, c_int64, c_void_p, c_void_p),
            ),
        ),
        ("sum", CFUNCTYPE(None, POINTER(Call), c_void_p, Features, c_void_p)),
        (
            "gradients",
            CFUNCTYPE(None, POINTER(Call), Features, c_void_p, c_double, Features, *[c_void_p] * 4),
        ),
        (
            "scatter",
            CFUNCTYPE(
                None,
                POINTER(Call),
                *(c_void_p, c_double, Features, c_void_p),
                *(c_void_p, Features, c_void_p),
            ),
        ),
    )


@cache
def library(variant: str | None = None) -> Library:
    r"""The kernels of a variant, by default of the best one for this processor.

    Raises:
        ValueError: If the processor can't run the variant.
    """
    loaded = ctypes.CDLL(str(_PATH))
    loaded.dyngraph_kernels.restype = POINTER(Library)
    loaded.dyngraph_kernels.argtypes = [c_char_p]
    loaded.dyngraph_set_parallel.argtypes = [c_void_p]
    loaded.dyngraph_set_parallel(_parallel())
    for name in VARIANTS if variant is None else (variant,):
        if found := loaded.dyngraph_kernels(name.encode()):
            kernels: Library = found.contents
            return kernels
    raise ValueError(f"variant: expected one that this processor can run, got {variant!r}")


def samples_of(tensor: Tensor, numbers: Sequence[int], border: bool) -> Samples:
    r"""Positions ``[N, H, K, P]``, contiguous, on maps that these numbers describe."""
    maps = (c_int64 * len(numbers))(*numbers)
    _, own, samples, axes = tensor.shape
    dtype = _DTYPES.index(tensor.dtype)
    return Samples(tensor.data_ptr(), dtype, own, samples, axes, border, maps, len(numbers))


def rows_of(index: Tensor, num_rows: int) -> Samples:
    r"""Rows ``[N, H, K]``, contiguous, of a table."""
    # One level with all of them, and one image.
    numbers = [1, index.shape[2], 1, index.shape[0], num_rows]
    samples = samples_of(index.unsqueeze(3), numbers, border=False)
    samples.axes = 0
    return samples


def call_of(samples: Samples, groups: int, channels: int, features: Tensor) -> Call:
    r"""A call for features of all groups' channels together."""
    dtype = _DTYPES.index(features.dtype)
    return Call(samples, groups, channels // groups, dtype, torch.get_num_threads())


def features_of(tensor: Tensor) -> Features:
    r"""Features ``[rows, channels]`` whose channels are side by side.

    Raises:
        ValueError: If there are more rows than the kernels can number.
    """
    if len(tensor) >= 2**31:
        raise ValueError(f"backend 'native': expected fewer than 2^31 rows, got {len(tensor)}")
    return Features(tensor.data_ptr(), tensor.stride(0))


@cache
def _parallel() -> int | None:
    """OpenMP's function for threads, of the run-time that PyTorch is linked to."""
    name = "libtorch_cpu.so"
    try:
        function = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name)).GOMP_parallel
    except (OSError, AttributeError):
        # Without OpenMP, or under another name: on one thread.
        return None
    return ctypes.cast(function, c_void_p).value

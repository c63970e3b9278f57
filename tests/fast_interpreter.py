"""Triton's interpreter, without most of what it spends its time on."""

from typing import Any

import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

_call = InterpretedFunction.__call__


def install() -> None:
    """Has a function of a kernel patch Triton's language only where a launch has not yet.

    The interpreter searches the language for what to patch at every call, and finds nothing.
    """
    InterpretedFunction.__call__ = _call_patched


def _call_patched(function: InterpretedFunction, *args: Any, **kwargs: Any) -> Any:
    if tl.core.is_builtin(tl.load) or tl.core.is_builtin(tl.core.load):
        return _call(function, *args, **kwargs)
    return function.rewrite()(*args, **kwargs)

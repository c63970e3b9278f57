"""Modules that change their class for a faster subclass of it, and back.

Weights, hooks and all other attributes stay where they are: state dicts, optimisers and
``isinstance`` see no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Accelerated(nn.Module):
    r"""What the subclasses have in common."""

    own_class: type[nn.Module]
    """The class before."""
    made_by: Callable[..., type[Accelerated]]
    """A public function that makes the subclass, always the same one."""
    arguments: tuple[Any, ...]
    """Those of this function."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Pickles and copies can't find the subclass by its name.
        made_by = type(self).made_by
        return _empty, (made_by, self.arguments), self.__getstate__()


def subclass(
    base: type[nn.Module],
    name: str,
    value: Any,
    made_by: Callable[..., type[Accelerated]],
    arguments: tuple[Any, ...],
) -> type[Accelerated]:
    r"""A subclass of ``base`` in which ``name`` is ``value``."""
    own = {
        name: value,
        "own_class": base,
        "made_by": staticmethod(made_by),
        "arguments": arguments,
        "__module__": base.__module__,
    }
    return type(base.__name__, (Accelerated, base), own)


def accelerate_modules(
    model: nn.Module, find: Callable[[nn.Module], type[Accelerated] | None]
) -> int:
    r"""Gives modules the subclass that ``find`` has for them, and counts them."""
    count = 0
    for module in model.modules():
        if not isinstance(module, Accelerated) and (faster := find(module)) is not None:
            module.__class__ = faster
            count += 1
    return count


def restore_modules(model: nn.Module, made_by: Callable[..., type[Accelerated]]) -> int:
    r"""Gives modules back the class that ``made_by`` made a subclass of, and counts them."""
    count = 0
    for module in model.modules():
        faster = type(module)
        if issubclass(faster, Accelerated) and faster.made_by is made_by:
            module.__class__ = faster.own_class
            count += 1
    return count


def _empty(made_by: Callable[..., type[Accelerated]], arguments: tuple[Any, ...]) -> Accelerated:
    """A module without attributes, which a pickle fills."""
    faster = made_by(*arguments)
    return faster.__new__(faster)

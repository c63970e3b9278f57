"""How a model was built, in values that a JSON file holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from torch import nn

import dyngraph.nn
from dyngraph.models.aspp_head import ASPPHead
from dyngraph.models.danet_head import DANetHead
from dyngraph.models.nonlocal_head import NonLocalHead

Build = TypeVar("Build", bound=Callable[..., nn.Module])


class Builder(NamedTuple):
    r"""A function or class that builds models, and the names of its arguments."""

    build: Callable[..., nn.Module]
    arguments: frozenset[str]


BUILDERS: dict[str, Builder] = {}
"""What builds the models that can be saved, by name."""

BLOCKS: dict[str, type[nn.Module]] = {
    **{name: getattr(dyngraph.nn, name) for name in dyngraph.nn.__all__ if name.endswith("Block")},
    **{head.__name__: head for head in (ASPPHead, DANetHead, NonLocalHead)},
}
"""The blocks that a recipe can name, beside the contexts that have names of their own."""

# Weights come from the saved file.
_NEVER = {"weights_backbone"}
_BLOCK = {"block", "arguments"}


def builder(*rest: Callable[..., Any]) -> Callable[[Build], Build]:
    r"""Lets recipes name a function or class that builds models.

    Args:
        rest: What gets its ``**kwargs``.
    """

    def register(build: Build) -> Build:
        names = _arguments(build).union(*map(_arguments, rest))
        BUILDERS[build.__name__] = Builder(build, names - _NEVER)
        return build

    return register


@dataclass(frozen=True)
class Recipe:
    r"""What builds a model once more, with other weights."""

    builder: str
    """A key of :data:`BUILDERS`."""
    arguments: Mapping[str, Any]
    """Its arguments: numbers, names, lists of them, and blocks as
    ``{"block": name, "arguments": {…}}``."""
    left_out: Mapping[str, str]
    """The arguments that have no such form, as text."""

    def build(self) -> nn.Module:
        r"""Builds the model.

        Raises:
            ValueError: If an argument is unknown, is not of these forms, or does not fit.
        """
        builder = BUILDERS[self.builder]
        if unknown := [name for name in self.arguments if name not in builder.arguments]:
            raise ValueError(f"arguments: expected those of {self.builder}, got {unknown}")
        arguments = {name: _decode(name, value) for name, value in self.arguments.items()}
        return builder.build(**arguments)


def recipe(build: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> Recipe:
    r"""The recipe of a call of a builder."""
    encoded: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, value in arguments.items():
        try:
            encoded[name] = _encode(value)
        except TypeError:
            left_out[name] = type(value).__name__
    return Recipe(build.__name__, encoded, left_out)


def _encode(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (list, tuple)):
        return [_encode(part) for part in value]
    if isinstance(value, Mapping):
        return {name: _encode(part) for name, part in value.items()}
    arguments: Mapping[str, Any] = {}
    if isinstance(value, partial):
        arguments = value.keywords
        # The command line has functions of its own around the class.
        value = value.args[-1] if value.args else value.func
    for name, block in BLOCKS.items():
        if value is block:
            return {"block": name, "arguments": _encode(arguments)}
    raise TypeError(value)


def _decode(name: str, value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list) and all(type(part) in (int, float) for part in value):
        return value
    if isinstance(value, dict) and value.keys() == _BLOCK:
        return _block(name, value)
    if isinstance(value, dict):
        return {key: _block(f"{name}: {key}", part) for key, part in value.items()}
    raise ValueError(f"{name}: expected a number, a name, numbers, or blocks, got {value!r}")


def _block(name: str, value: Any) -> Callable[..., nn.Module]:
    if not isinstance(value, dict) or value.keys() != _BLOCK:
        raise ValueError(f"{name}: expected a block and its arguments, got {value!r}")
    block, arguments = value["block"], value["arguments"]
    if not isinstance(block, str) or block not in BLOCKS:
        raise ValueError(f"{name}: expected a block of {(*BLOCKS,)}, got {block!r}")
    if not isinstance(arguments, dict) or not arguments.keys() <= _arguments(BLOCKS[block]):
        raise ValueError(f"{name}: expected arguments of {block}, got {arguments!r}")
    if any(isinstance(part, dict) for part in arguments.values()):
        raise ValueError(f"{name}: expected numbers and names, got {arguments!r}")
    return partial(BLOCKS[block], **{key: _decode(key, part) for key, part in arguments.items()})


def _arguments(build: Callable[..., Any]) -> frozenset[str]:
    parameters = inspect.signature(build).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return frozenset(one.name for one in parameters if one.kind not in kinds)

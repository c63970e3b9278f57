"""Multi-scale deformable attention in models of Hugging Face's transformers.

Models are not listed. In all of them the samples are taken by a function, or a module's forward,
with the arguments of one of the three functions below. It is found where the models keep it:

- a module is nothing but this function (Deformable DETR, Grounding DINO, RT-DETR, LW-DETR, …);
- a module holds it as an attribute (D-FINE, DEIMv2);
- a module's forward calls it by its name (Mask2Former, OneFormer, RT-DETRv2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from inspect import signature
from types import FunctionType
from typing import Any, NamedTuple

from torch import Tensor, nn

from dyngraph.integrations.subclass import (
    Accelerated,
    accelerate_modules,
    restore_modules,
    subclass,
)
from dyngraph.ops import multi_scale_deformable_attention
from dyngraph.ops.multi_scale import sum_over_levels


def accelerate(model: nn.Module) -> int:
    r"""Lets a model of transformers take its samples by our operator, in place.

    Any model with multi-scale deformable attention, the core of Deformable DETR, keeps its weights
    and computes what it did, by
    :func:`~dyngraph.ops.multi_scale_deformable_attention` instead of one ``grid_sample`` a level.
    Layers that read the nearest pixel instead (``decoder_method="discrete"``) stay as they are.
    Models can be trained, copied, pickled, compiled and exported as before.

    Args:
        model: The model, or any module of it.

    Returns:
        The number of layers that take their samples by our operator now and didn't before.

    Example:
        >>> from transformers import RTDetrV2Config
        >>> from transformers.models.rt_detr_v2.modeling_rt_detr_v2 import RTDetrV2Decoder
        >>> from dyngraph.integrations.transformers import accelerate, restore
        >>> decoder = RTDetrV2Decoder(RTDetrV2Config(decoder_layers=2))
        >>> accelerate(decoder), accelerate(decoder), restore(decoder)
        (2, 0, 2)
    """
    return accelerate_modules(model, _find)


def restore(model: nn.Module) -> int:
    r"""Undoes :func:`accelerate`.

    Returns:
        The number of layers that it changed.
    """
    return restore_modules(model, accelerated)


class Place(NamedTuple):
    r"""Where a module keeps the function that takes the samples."""

    base: Any
    """The module's class, as its library has it."""
    name: str
    """``"forward"``, an attribute of the module, or a global name in its forward."""
    ours: Callable[..., Tensor]
    """The function below with the same arguments."""


@contextmanager
def watched(
    model: nn.Module, on_call: Callable[[nn.Module, dict[str, Any]], None]
) -> Iterator[None]:
    r"""Tells what the modules sample that :func:`accelerate` finds, accelerated or not.

    Meanwhile they sample by our operator.

    Args:
        model: The model.
        on_call: Gets the module and the arguments of its function by name: ``value``,
            ``value_spatial_shapes``, ``sampling_locations``, ``attention_weights``, …
    """
    own: dict[nn.Module, type[nn.Module]] = {}
    try:
        for module in model.modules():
            if (place := _place(module)) is not None:
                own[module] = type(module)
                told = _told(module, place.ours, on_call)
                attribute, value = _replacement(place.base, place.name, told)
                module.__class__ = type(place.base.__name__, (place.base,), {attribute: value})
        yield
    finally:
        for module, before in own.items():
            module.__class__ = before


def _told(
    module: nn.Module,
    ours: Callable[..., Tensor],
    on_call: Callable[[nn.Module, dict[str, Any]], None],
) -> Callable[..., Tensor]:
    def function(*args: Any, **kwargs: Any) -> Tensor:
        on_call(module, signature(ours).bind(*args, **kwargs).arguments)
        return ours(*args, **kwargs)

    return function


def _layer(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_spatial_shapes_list: Sequence[Sequence[int]],
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    return multi_scale_deformable_attention(
        value, value_spatial_shapes_list, sampling_locations, attention_weights
    )


def _function(
    value: Tensor,
    value_spatial_shapes: Tensor | Sequence[Sequence[int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    return multi_scale_deformable_attention(
        value, value_spatial_shapes, sampling_locations, attention_weights
    )


def _function_of_points(
    value: Tensor,
    value_spatial_shapes: Sequence[Sequence[int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    num_points_list: Sequence[int],
    method: str = "default",
) -> Tensor:
    """Levels may differ in their numbers of points."""
    if method != "default":
        raise ValueError(
            f"method: expected 'default', got {method!r}; dyngraph's restore(model) brings back "
            f"the model's own function"
        )
    return sum_over_levels(
        value, value_spatial_shapes, sampling_locations, attention_weights, num_points_list
    )


def _arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(signature(function).parameters)


_OURS = {_arguments(ours): ours for ours in (_layer, _function, _function_of_points)}


def _find(module: nn.Module) -> type[Accelerated] | None:
    """The faster subclass of a module's class, if there is one."""
    place = _place(module)
    return None if place is None else accelerated(*place)


def _place(module: nn.Module) -> Place | None:
    """Where the module keeps its function, if it has one."""
    base: Any = type(module)  # mypy finds no hash in types of modules
    if issubclass(base, Accelerated) and base.made_by is accelerated:
        return Place(*base.arguments)
    if not isinstance(base.forward, FunctionType):
        return None
    if ours := _OURS.get(_arguments(base.forward)[1:]):  # without self
        return Place(base, "forward", ours)
    # How D-FINE and RT-DETRv2 call the nearest pixel, each in an attribute of its own.
    if "discrete" in [value for value in vars(module).values() if isinstance(value, str)]:
        return None
    called = {name: base.forward.__globals__.get(name) for name in base.forward.__code__.co_names}
    for name, function in [*vars(module).items(), *called.items()]:
        if isinstance(function, FunctionType) and (ours := _OURS.get(_arguments(function))):
            return Place(base, name, ours)
    return None


@cache
def accelerated(base: Any, name: str, ours: Callable[..., Tensor]) -> type[Accelerated]:
    r"""The subclass of a module's class that has our function in the place of the named one."""
    return subclass(base, *_replacement(base, name, ours), accelerated, (base, name, ours))


def _replacement(base: Any, name: str, function: Callable[..., Tensor]) -> tuple[str, Any]:
    """The attribute of a subclass, and its value, that put a function in the place of another."""
    if name == "forward":
        return name, _method(function)
    if name in base.forward.__globals__:
        return "forward", _with_global(base.forward, name, function)
    # A property goes before an attribute of the module itself.
    return name, property(lambda self: function)


def _method(function: Callable[..., Tensor]) -> Any:
    return lambda self, *args, **kwargs: function(*args, **kwargs)


def _with_global(function: Any, name: str, value: object) -> Any:
    """The same code, in which a global name means something else."""
    names = {**function.__globals__, name: value}
    del names["__name__"]  # of the module, where compilers would look the others up
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy

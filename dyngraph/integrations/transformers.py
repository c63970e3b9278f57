"""Multi-scale deformable attention in models of Hugging Face's transformers.

Models are not listed. In all of them the samples are taken by a function, or a module's forward,
with the arguments of one of the three functions below. It is found where the models keep it:

- a module is nothing but this function (Deformable DETR, Grounding DINO, RT-DETR, LW-DETR, …);
- a module holds it as an attribute (D-FINE, DEIMv2);
- a module's forward calls it by its name (Mask2Former, OneFormer, RT-DETRv2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from inspect import signature
from types import FunctionType
from typing import Any

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
    base: Any = type(module)  # mypy finds no hash in types of modules
    if not isinstance(base.forward, FunctionType):
        return None
    if ours := _OURS.get(_arguments(base.forward)[1:]):  # without self
        return accelerated(base, "forward", ours)
    # How D-FINE and RT-DETRv2 call the nearest pixel, each in an attribute of its own.
    if "discrete" in [value for value in vars(module).values() if isinstance(value, str)]:
        return None
    called = {name: base.forward.__globals__.get(name) for name in base.forward.__code__.co_names}
    for name, function in [*vars(module).items(), *called.items()]:
        if isinstance(function, FunctionType) and (ours := _OURS.get(_arguments(function))):
            return accelerated(base, name, ours)
    return None


@cache
def accelerated(base: Any, name: str, ours: Callable[..., Tensor]) -> type[Accelerated]:
    r"""The subclass of a module's class that has our function in the place of the named one."""
    if name == "forward":
        replaced, value = name, _method(ours)
    elif name in base.forward.__globals__:
        replaced, value = "forward", _with_global(base.forward, name, ours)
    else:
        # A property goes before an attribute of the module itself.
        replaced, value = name, property(lambda self: ours)
    return subclass(base, replaced, value, accelerated, (base, name, ours))


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

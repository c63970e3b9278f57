r"""Blocks inside any model.

A block runs in hooks, which leave everything else in the model as it is: classes, attributes and
the names of weights. Wrapping the target would rename its weights, and replacing its class would
need its own pickling. A hook holds only the name of the block, and looks it up in the module that
it is called with: copies, unpickled models and replicas run their own blocks.

The block is a child of the target, so that a part of the model that is used alone has its blocks.
``nn.Sequential`` and other containers would run another child as one of their layers: for them, it
is a child of their first module that is not a container.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from dyngraph.evaluation_mode import evaluation_mode
from dyngraph.models.example_image import example_image

Model = TypeVar("Model", bound=nn.Module)

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# Not a number, as PyTorch would choose: numbers start at 0 again when a pickled model is loaded,
# and the next hook would replace ours.
HOOK = "dyngraph"


def insert(
    model: Model,
    *,
    make: Callable[[int], nn.Module],
    before: str | None = None,
    after: str | None = None,
    example: Tensor | tuple[Any, ...] | None = None,
    channels: int | None = None,
) -> Model:
    r"""Inserts blocks into a model, in place, before or after the modules of a given name.

    .. code-block:: python

        # RepGraph: before the last block of res4.
        insert(resnet50, before="layer3.5", make=partial(BottleneckRepGraphBlock, zero_init=True))
        # DGMN: after every 3x3 convolution of res5, with its normalisation and ReLU.
        insert(resnet50, before="layer4.*.conv3", make=DGMNBlock)

    The names of weights stay the same: a checkpoint of the model without blocks loads with
    ``strict=False``, and lacks only the blocks' weights. With blocks that start as the identity
    (``zero_init=True``), the model starts as the same function as before. Insert before the model
    is wrapped for several devices and before its optimiser is made. Anything compiled already, this
    model or another, is compiled again.

    Args:
        model: Any model whose modules pass on feature maps ``[B, C, *spatial]``.
        make: From a number of channels C to a block. The blocks are moved to the device and dtype
            of the model's weights, and get their target's mode.
        before: The name of the module before which to insert, as in ``named_modules``. ``*`` stands
            for any part of a name between dots; a block is made for each match.
        after: The same, but inserts after the module.
        example: The model's input, or a tuple of its inputs, for finding the channels in evaluation
            mode. Defaults to a random image ``[1, 3, 64, 64]``.
        channels: The number of channels, if known: the model is then not run.

    Returns:
        The model.

    Raises:
        TypeError: If the model is wrapped in ``DataParallel`` or ``DistributedDataParallel``, or
            ``make`` does not return a module.
        ValueError: If not exactly one of ``before`` and ``after`` is given, no module matches, or
            one already has a block there, has no layers to carry a block, or does not get
            (``before``) or return (``after``) a single feature map.
    """
    if isinstance(model, WRAPPERS):
        raise TypeError(f"model: expected one that is not wrapped yet, got {type(model).__name__}")
    if before is not None and after is None:
        side, pattern = "before", before
    elif after is not None and before is None:
        side, pattern = "after", after
    else:
        raise ValueError(f"before, after: expected one of them, got {before!r} and {after!r}")

    targets = _matches(model, side, pattern)
    if channels is None:
        if example is None:
            example = example_image(model)
        inputs = example if isinstance(example, tuple) else (example,)
        numbers = _channels(model, side, targets, inputs)
    else:
        numbers = [channels] * len(targets)
    # All of them before the model is touched: making one may fail.
    blocks = [make(number) for number in numbers]
    for block in blocks:
        if not isinstance(block, nn.Module):
            raise TypeError(f"make: expected a function that returns a module, got {block!r}")

    weight = next(model.parameters(), torch.empty(0))
    for target, block in zip(targets.values(), blocks, strict=True):
        block.to(weight.device, weight.dtype).train(target.training)
        host = _host(target, side)
        owner, _, name = host.rpartition(".")
        target.get_submodule(owner).add_module(name, block)
        _hooks(target, side)[HOOK] = partial(_RUN[side], host)
    # What is compiled already does not look whether hooks have changed.
    torch.compiler.reset()
    return model


def insertions(model: nn.Module) -> dict[str, nn.Module]:
    r"""The inserted blocks of a model by name, the prefix of the names of their weights."""
    return {place.name: place.block for place in _places(model)}


def inserted_parameters(model: nn.Module) -> list[nn.Parameter]:
    r"""The parameters of a model's inserted blocks, e.g. for their own learning rate."""
    return list(nn.ModuleList(insertions(model).values()).parameters())


def remove_insertions(model: Model) -> Model:
    r"""Removes all inserted blocks, in place. Returns the model, which is as it was before."""
    for place in list(_places(model)):
        owner, _, name = place.host.rpartition(".")
        delattr(place.target.get_submodule(owner), name)
        del _hooks(place.target, place.side)[HOOK]
    torch.compiler.reset()
    return model


def _run_before(host: str, target: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
    return _run(host, target, *args)


def _run_after(host: str, target: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return _run(host, target, output)


def _run(host: str, target: nn.Module, maps: Tensor) -> Tensor:
    return target.get_submodule(host)(maps)


_RUN: dict[str, Callable] = {"before": _run_before, "after": _run_after}


class _Place(NamedTuple):
    """An inserted block: its name in the model, its target, and its name in the target."""

    name: str
    target: nn.Module
    side: str
    host: str

    @property
    def block(self) -> nn.Module:
        return self.target.get_submodule(self.host)


def _places(model: nn.Module) -> Iterator[_Place]:
    for name, target in model.named_modules():
        for side in _RUN:
            hook = _hooks(target, side).get(HOOK)
            if hook is not None:
                (host,) = hook.args
                yield _Place(f"{name}.{host}".lstrip("."), target, side, host)


def _hooks(target: nn.Module, side: str) -> dict[Any, Any]:
    return target._forward_pre_hooks if side == "before" else target._forward_hooks


def _matches(model: nn.Module, side: str, pattern: str) -> dict[str, nn.Module]:
    """The modules that match a name, each once, in the order of the model."""
    expression = re.compile(re.escape(pattern).replace(r"\*", "[^.]*"))
    inserted = {module for block in insertions(model).values() for module in block.modules()}
    names: dict[nn.Module, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if expression.fullmatch(name) and module not in inserted and module is not model:
            names.setdefault(module, name)
    if not names:
        raise ValueError(f"{side}: expected the name of a module, got {pattern!r}, which none has")
    for module, name in names.items():
        if HOOK in _hooks(module, side):
            raise ValueError(f"{side}: {name!r} already has a block {side} it")
        if all(isinstance(part, CONTAINERS) for part in module.modules()):
            raise ValueError(f"{side}: expected a module with layers, got {name!r}, which has none")
    return {name: module for module, name in names.items()}


def _host(target: nn.Module, side: str) -> str:
    """The name, in the target, of the block to be inserted."""
    for path, module in target.named_modules():
        depth = len(path.split(".")) if path else 0
        child = f"dyngraph_{side}" + "_parent" * depth
        # Containers may share a module, which then has the block of another.
        if not isinstance(module, CONTAINERS) and child not in module._modules:
            return f"{path}.{child}".lstrip(".")
    raise RuntimeError("no module of the target can carry another block")


def _channels(
    model: nn.Module, side: str, targets: dict[str, nn.Module], inputs: tuple[Any, ...]
) -> list[int]:
    """The channels of the feature maps that the targets get or return."""
    seen: dict[nn.Module, list[Any]] = {target: [] for target in targets.values()}

    def got(target: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[target].append(args[0] if len(args) == 1 and not kwargs else (args, kwargs))

    def returned(target: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen[target].append(output)

    with ExitStack() as hooks, evaluation_mode(model):
        for target in targets.values():
            hooks.enter_context(
                target.register_forward_pre_hook(got, with_kwargs=True)
                if side == "before"
                else target.register_forward_hook(returned)
            )
        model(*inputs)
    return [_only_number(side, name, seen[target]) for name, target in targets.items()]


def _only_number(side: str, name: str, values: list[Any]) -> int:
    """The channels of everything that a target got or returned."""
    verb = "get" if side == "before" else "return"
    expected = f"{side}: expected {name!r} to {verb} one feature map [B, C, *spatial]"
    for value in values:
        if not isinstance(value, Tensor) or value.dim() < 3:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{expected}, got {got}")
    numbers = {value.shape[1] for value in values}
    if len(numbers) != 1:
        got = f"{sorted(numbers)} channels" if numbers else "none: it does not run on this example"
        raise ValueError(f"{expected}, got {got}")
    return numbers.pop()

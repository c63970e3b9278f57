"""What all layers of a model listen to, found by walking its modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import DeformConv2d

from dyngraph.evaluation_mode import evaluation_mode
from dyngraph.grid import Grid
from dyngraph.integrations.transformers import watched
from dyngraph.models.deformable_conv2d import DeformableConv2d
from dyngraph.neighborhood import Neighborhood
from dyngraph.nn import DGMNConv, MultiScaleDeformableAttention, NonLocalConv
from dyngraph.ops.deform_conv2d import tap_positions
from dyngraph.viz.recorded_layer import (
    RecordedLayer,
    SampleSet,
    Shape,
    keep_strongest,
    map_places,
    num_kept,
    num_nodes,
    weight_histogram,
)

# The numbers of a matrix of attention that are held at once.
_CHUNK = 2**24

Call = dict[str, Any]
"""The arguments of a module's forward, by name."""


@dataclass(frozen=True)
class Recording:
    r"""What a model has computed, and what its layers have listened to meanwhile."""

    output: Any
    layers: tuple[RecordedLayer, ...]
    left_out: dict[str, str]
    """Layers that could not be recorded, by name, and why."""
    cover: tuple[float, float]
    """The height and width that the feature maps cover, in those of the image: more than 1 where
    the model pads it."""


def record(model: nn.Module, run: Callable[[], Any]) -> Recording:
    r"""Runs a model in evaluation mode and records all layers that listen to samples.

    These are dyngraph's layers on grids and any other :obj:`MessagePassing` layer whose
    ``sample(x, grid)`` returns its output, a :class:`~dyngraph.Neighborhood` and, if it has them,
    weights ``[N, G, K]``; :class:`~dyngraph.nn.MultiScaleDeformableAttention` and the modules of
    transformers that compute the same; and deformable convolutions. The model is left as it was.

    Args:
        model: Any model.
        run: Runs it on one image and returns its output.
    """
    recorder = _Recorder()
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        names = {module: name for name, module in model.named_modules()}
        stack.enter_context(watched(model, lambda m, call: recorder.levels(names[m], m, call)))
        for module, name in names.items():
            if isinstance(module, GeneralizedRCNNTransform):
                stack.enter_context(module.register_forward_hook(recorder.cover_of))
            elif (reader := _reader(module)) is not None:
                hook = recorder.hook(name, reader)
                stack.enter_context(module.register_forward_pre_hook(hook, with_kwargs=True))
        output = run()
    return Recording(output, tuple(recorder.layers), recorder.left_out, recorder.cover)


class _Recorder:
    def __init__(self) -> None:
        self.layers: list[RecordedLayer] = []
        self.left_out: dict[str, str] = {}
        self.cover = (1.0, 1.0)

    def hook(self, name: str, reader: Reader) -> Callable[..., None]:
        def pre_hook(module: nn.Module, args: tuple[Any, ...], kwargs: Call) -> None:
            call = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            self.add(name, module, reader, call)

        return pre_hook

    def levels(self, name: str, module: nn.Module, call: Call) -> None:
        self.add(name, module, _levels, call)

    def add(self, name: str, module: nn.Module, reader: Reader, call: Call) -> None:
        try:
            layers = list(reader(name, module, call))
        except _LeftOutError as reason:
            self.left_out[name] = str(reason)
            return
        calls = sum(layer.name.partition(",")[0] == name for layer in self.layers) // len(layers)
        if calls:
            layers = [replace(x, name=f"{x.name}, call {calls + 1}") for x in layers]
        self.layers += layers

    def cover_of(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        images: ImageList = output[0]
        (height, width), padded = images.image_sizes[0], images.tensors.shape[-2:]
        self.cover = (padded[0] / height, padded[1] / width)


class _LeftOutError(Exception):
    """Why a layer is left out."""


Reader = Callable[[str, Any, Call], Iterator[RecordedLayer]]


def _reader(module: nn.Module) -> Reader | None:
    """What reads the calls of a module, if it listens to samples."""
    readers: tuple[tuple[type[nn.Module], Reader], ...] = (
        (DGMNConv, _dgmn),
        (NonLocalConv, _nonlocal),
        (MultiScaleDeformableAttention, _own_levels),
        (DeformableConv2d, _own_deformable),
        (DeformConv2d, _deformable),
    )
    for kind, reader in readers:
        if isinstance(module, kind):
            return reader
    is_layer = isinstance(module, MessagePassing) and callable(getattr(module, "sample", None))
    return _sampled if is_layer else None


def _grid(call: Call) -> Grid:
    grid = next((value for value in call.values() if isinstance(value, Grid)), None)
    if grid is None:
        raise _LeftOutError("it was given a graph")
    if grid.num_axes != 2:
        raise _LeftOutError(f"its maps have {grid.num_axes} axes")
    return grid


def _sampled(name: str, module: Any, call: Call) -> Iterator[RecordedLayer]:
    grid = _grid(call)
    own = inspect.signature(module.sample).parameters
    options = {key: call[key] for key in ("receiver", "reference") if key in call and key in own}
    _, near, *weights = module.sample(call["x"], grid, **options)
    yield _from_neighborhood(
        name, module, near, {"attention": weights[0]} if weights else _equal(near), call
    )


def _from_neighborhood(
    name: str,
    module: nn.Module,
    near: Neighborhood,
    weights: dict[str, Tensor],
    call: Call,
    sets: tuple[SampleSet, ...] | None = None,
) -> RecordedLayer:
    senders = _of_one_image(near.grid, len(near.levels))
    receivers: tuple[Shape, ...] = _of_one_image(near.receiver, 1)
    places = call.get("reference")
    if places is not None:
        receivers = ()
    elif len(receivers[0]) == 1:
        # All nodes of a pyramid in one row.
        receivers = senders
    if places is None:
        places = map_places(receivers, near.pos.device)
    if sets is None and len(near.levels) == 1:
        sets = (SampleSet("samples", near.num_samples),)
    elif sets is None:
        sets = _sets_of_levels(near.levels, senders)
    pos = near.pos_of_groups
    if near.padding_mode == "border":
        last = [[n - 1 for n in senders[s.level]] for s in sets for _ in range(s.num_samples)]
        pos = pos.clamp(min=0).minimum(pos.new_tensor(last))
    return _layer(name, module, receivers, places, senders, sets, pos, weights)


def _layer(
    name: str,
    module: nn.Module,
    receivers: tuple[Shape, ...],
    places: Tensor,
    senders: tuple[Shape, ...],
    sets: tuple[SampleSet, ...],
    pos: Tensor,
    weights: dict[str, Tensor],
) -> RecordedLayer:
    """Keeps the strongest samples, if there are too many."""
    histograms = {kind: weight_histogram(weight) for kind, weight in weights.items()}
    num_samples, share = pos.shape[2], 1.0
    count = num_kept(len(pos), num_samples)
    if count < num_samples and len(sets) == len(weights) == 1:
        ((kind, weight),) = weights.items()
        pos, weight, share = keep_strongest(pos, weight, count)
        weights, sets = {kind: weight}, (sets[0]._replace(num_samples=count),)
    return RecordedLayer(
        name=name,
        kind=type(module).__name__,
        receivers=receivers,
        places=places.float().cpu(),
        senders=senders,
        sets=sets,
        pos=pos.float().cpu(),
        weights={kind: weight.float().cpu() for kind, weight in weights.items()},
        num_samples=num_samples,
        share=share,
        histograms=histograms,
    )


def _of_one_image(grid: Grid, maps: int) -> tuple[Shape, ...]:
    if grid.batch_size != maps:
        raise _LeftOutError(f"it sees {grid.batch_size // maps} images or parts of images")
    return tuple(grid.shapes)


def _sets_of_levels(counts: Any, senders: tuple[Shape, ...]) -> tuple[SampleSet, ...]:
    return tuple(
        SampleSet(f"{height} × {width}", count, level)  # noqa: RUF001
        for level, (count, (height, width)) in enumerate(zip(counts, senders, strict=True))
    )


def _equal(near: Neighborhood) -> dict[str, Tensor]:
    pos = near.pos_of_groups
    return {"equal weights": pos.new_full(pos.shape[:3], 1 / near.num_samples)}


def _dgmn(name: str, conv: DGMNConv, call: Call) -> Iterator[RecordedLayer]:
    grid, x = _grid(call), call["x"]
    x = (x, x) if isinstance(x, Tensor) else x
    h = x
    for step in range(conv.num_steps):
        sent, nears, _ = zip(*(m.send(h[0], grid, h[1]) for m in conv.messages), strict=True)
        pairs = [
            message.predict(h[0], near) for message, near in zip(conv.messages, nears, strict=True)
        ]
        weights = {}
        if affinities := [affinity for _, affinity in pairs if affinity is not None]:
            weights["affinities"] = torch.cat(affinities, dim=2)
        if not affinities or conv.messages[0].filters:
            # Affinities alone have filters of 1.
            weights["filters"] = torch.cat([w for w, _ in pairs], dim=2)
        sets = tuple(
            SampleSet(f"rate {rate}", near.num_samples)
            for rate, near in zip(conv.rates, nears, strict=True)
        )
        of_step = f"{name}, step {step + 1}" if conv.num_steps > 1 else name
        yield _from_neighborhood(of_step, conv, Neighborhood.cat(nears), weights, call, sets)
        out = conv.update_nodes(x[1], sent)
        h = (out, out)


def _nonlocal(name: str, conv: NonLocalConv, call: Call) -> Iterator[RecordedLayer]:
    grid, x = _grid(call), call["x"]
    shapes = _of_one_image(grid, 1)
    x = (x, x) if isinstance(x, Tensor) else x
    query, key, _ = (
        part.float().unflatten(1, (conv.groups, -1)).transpose(0, 1)
        for part in conv.queries_keys_values(x)
    )
    num_senders = num_nodes(shapes)
    count, nodes = num_kept(num_senders, num_senders), grid.pos
    parts, histogram, total = [], torch.zeros((), dtype=torch.long), 0.0
    for rows in query.split(max(1, _CHUNK // (num_senders * conv.groups)), dim=1):
        alpha = (rows @ key.transpose(1, 2)).softmax(dim=2).transpose(0, 1)
        histogram = histogram + weight_histogram(alpha)
        pos = nodes.expand(len(alpha), 1, -1, -1)
        if count < num_senders:
            pos, alpha, share = keep_strongest(pos, alpha, count)
            total += share * len(alpha)
        parts.append((pos.cpu(), alpha.cpu()))
    pos, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    yield RecordedLayer(
        name=name,
        kind=type(conv).__name__,
        receivers=shapes,
        places=map_places(shapes, torch.device("cpu")),
        senders=shapes,
        sets=(SampleSet("nodes", count),),
        pos=pos,
        weights={"attention": weight},
        num_samples=num_senders,
        share=total / len(weight) if count < num_senders else 1.0,
        histograms={"attention": histogram},
    )


def _own_levels(
    name: str, module: MultiScaleDeformableAttention, call: Call
) -> Iterator[RecordedLayer]:
    shapes = call["value_spatial_shapes"]
    shapes = shapes.tolist() if isinstance(shapes, Tensor) else shapes
    locations, weights = module.sample(call["query"], call["reference_points"], shapes)
    yield from _levels(
        name,
        module,
        {
            "value_spatial_shapes": shapes,
            "sampling_locations": locations,
            "attention_weights": weights,
        },
    )


def _levels(name: str, module: nn.Module, call: Call) -> Iterator[RecordedLayer]:
    """What the function of transformers gets, in one of its three forms."""
    shapes: Any = call.get("value_spatial_shapes_list", call["value_spatial_shapes"])
    if isinstance(shapes, Tensor):
        shapes = shapes.tolist()
    senders: tuple[Shape, ...] = tuple((int(h), int(w)) for h, w in shapes)
    locations, weight = call["sampling_locations"], call["attention_weights"]
    if len(locations) != 1:
        raise _LeftOutError(f"it sees {len(locations)} images or parts of images")
    counts = call.get("num_points_list")
    if counts is None:
        counts = [locations.shape[4]] * len(senders)
        locations, weight = locations.flatten(3, 4), weight.flatten(3)
    sets = _sets_of_levels(counts, senders)
    place, weight = locations[0].flip(-1).float(), weight[0]
    sizes = place.new_tensor([senders[s.level] for s in sets for _ in range(s.num_samples)])
    receivers = senders if len(place) == num_nodes(senders) else ()
    if receivers:
        places = map_places(receivers, place.device)
    else:
        # A query is where it looks.
        share = weight / weight.sum(dim=(1, 2), keepdim=True)
        places = torch.einsum("nhk,nhkp->np", share, place)
    yield _layer(
        name, module, receivers, places, senders, sets, place * sizes - 0.5, {"attention": weight}
    )


def _own_deformable(name: str, conv: DeformableConv2d, call: Call) -> Iterator[RecordedLayer]:
    offset, mask = conv.offsets_and_masks(call["x"])
    yield from _deformable(name, conv, {"input": call["x"], "offset": offset, "mask": mask})


def _deformable(
    name: str, conv: DeformConv2d | DeformableConv2d, call: Call
) -> Iterator[RecordedLayer]:
    kernel: Any = conv.kernel_size
    geometry: Any = (conv.stride, conv.padding, conv.dilation)
    pos = tap_positions(call["input"], call["offset"], kernel, *geometry)
    own = pos.shape[1]
    receiver = Grid.of(call["offset"])
    near = Neighborhood(
        Grid.of(call["input"]), pos.squeeze(1) if own == 1 else pos, receiver=receiver
    )
    weights = _equal(near)
    if (mask := call.get("mask")) is not None:
        weights = {"mask": receiver.flatten(mask).unflatten(1, (own, -1))}
    yield _from_neighborhood(name, conv, near, weights, {})

"""Recorded layers in few bytes, as the viewer's page reads them.

Numbers are integers: positions in fractions of a node, weights by the square root of their share of
the largest, which is the radius of their dots. Each is written as the difference to its neighbour,
which deflates well, and as text in base64.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyngraph.viz.findings import Objects, Segmentation
from dyngraph.viz.recorded_layer import RecordedLayer, Shape, num_nodes

FINEST_STEP = 1 / 64
"""The distance of positions that are told apart, in nodes, where no sample is 512 nodes away."""

_FARTHEST = 2**15 - 1
NOT_FINITE = -(2**15)
"""Instead of a coordinate that is not finite."""


def pack_integers(values: np.ndarray) -> dict[str, Any]:
    r"""Integers of 8 or 16 bits, neighbours of the last axis as differences."""
    unsigned = np.ascontiguousarray(values).view(f"u{values.itemsize}")
    differences = np.diff(unsigned, axis=-1, prepend=unsigned.dtype.type(0))
    # All low bytes, then all high ones, most of which are alike.
    shuffled = differences.reshape(-1).astype(f"<u{values.itemsize}").view(np.uint8)
    planes = np.ascontiguousarray(shuffled.reshape(-1, values.itemsize).T)
    return {
        "type": values.dtype.name,
        "shape": list(values.shape),
        "data": base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode("ascii"),
    }


def pack_weights(weight: Tensor) -> dict[str, Any]:
    r"""Weights ``[N, G, K]`` as planes ``[G, K, N]`` of radii, in 8 bits with their sign.

    A weight w is stored as ``round(n * sqrt(|w| / scale))``, where scale is the largest and n is
    255, or 127 with signs. What is read is off by at most ``scale / n``, and by less the smaller w
    is. Weights that are not finite become 0.
    """
    weight = weight.nan_to_num(0, 0, 0).permute(1, 2, 0)
    scale = float(weight.abs().max()) if weight.numel() else 0.0
    signed = bool((weight < 0).any())
    radius = (weight.abs() / (scale or 1.0)).sqrt() * (127 if signed else 255)
    levels = (radius.round() * weight.sign()).numpy().astype(np.int8 if signed else np.uint8)
    return pack_integers(levels) | {"scale": scale}


def pack_positions(layer: RecordedLayer) -> dict[str, Any]:
    r"""The samples as planes ``[H, K, 2, N]`` of offsets from the place of their node, 16 bits."""
    sizes = torch.tensor([layer.senders[s.level] for s in layer.sets for _ in range(s.num_samples)])
    # The place of every node, in nodes of the map that each sample is on.
    place = layer.places.unsqueeze(1) * sizes - 0.5
    offset = (layer.pos - place.unsqueeze(1)).permute(1, 2, 3, 0)
    finite = offset.isfinite()
    farthest = float(offset[finite].abs().max()) if finite.any() else 0.0
    step = FINEST_STEP
    while step < 1 and farthest > step * _FARTHEST:
        step *= 2
    levels = (offset / step).round().clamp(-_FARTHEST, _FARTHEST)
    levels = levels.masked_fill(~finite, NOT_FINITE)
    return pack_integers(levels.numpy().astype(np.int16)) | {"step": step}


def pack_layer(layer: RecordedLayer, every: int) -> dict[str, Any]:
    r"""A layer, as the page reads it.

    Args:
        layer: The layer.
        every: 1: all of its nodes. n: each n-th along both axes, in the middle of the others.
    """
    kept, receivers = _thin(layer.receivers, every)
    if layer.receivers:
        layer = _of_nodes(layer, kept)
    queries = {} if layer.receivers else {"places": layer.places.flatten().tolist()}
    return {
        "name": layer.name,
        "kind": layer.kind,
        "maps": [list(shape) for shape in layer.receivers],
        "stored": [list(shape) for shape in receivers],
        "every": every,
        "senders": [list(shape) for shape in layer.senders],
        "sets": [s._asdict() for s in layer.sets],
        "samples": layer.num_samples,
        "share": layer.share,
        "pos": pack_positions(layer),
        "weights": {kind: pack_weights(weight) for kind, weight in layer.weights.items()},
        "histograms": {kind: bins.tolist() for kind, bins in layer.histograms.items()},
    } | queries


def choose_every(layers: Sequence[RecordedLayer], most_bytes: int) -> list[int]:
    r"""Of which nodes each layer keeps the samples, so that all fit.

    The layer that takes the most gives every second node of each axis away, and so on. Queries are
    kept.

    Args:
        layers: The layers.
        most_bytes: The most bytes that positions and weights may take, before they are compressed.
    """
    every = [1] * len(layers)
    sizes = [_num_bytes(layer, 1) for layer in layers]
    while sum(sizes) > most_bytes:
        can = [i for i, layer in enumerate(layers) if _num_stored(layer, every[i]) > 64]
        can = [i for i in can if layers[i].receivers]
        if not can:
            break
        largest = max(can, key=lambda i: (sizes[i], -every[i]))
        every[largest] *= 2
        sizes[largest] = _num_bytes(layers[largest], every[largest])
    return every


def pack_classes(classes: Tensor) -> dict[str, Any]:
    r"""Numbers of classes, from 0, of any shape."""
    numbers = classes.cpu().numpy()
    return pack_integers(numbers.astype(np.uint8 if numbers.max(initial=0) < 256 else np.uint16))


def pack_segmentation(found: Segmentation | None) -> dict[str, Any] | None:
    r"""The class of every pixel, and the highest scores of some, in steps of 1/255."""
    if found is None:
        return None
    scores = (found.scores * 255).round().numpy().astype(np.uint8)
    return {
        "classes": pack_classes(found.classes),
        "every": found.every,
        "scores": pack_integers(scores),
        "best": pack_classes(found.best),
    }


def pack_objects(found: Objects | None) -> dict[str, Any] | None:
    r"""Boxes, classes, scores and masks."""
    if found is None:
        return None
    return {
        "boxes": [[round(x, 2) for x in box] for box in found.boxes.tolist()],
        "labels": found.labels.tolist(),
        "scores": None if found.scores is None else [round(x, 4) for x in found.scores.tolist()],
        "queries": None if found.queries is None else found.queries.tolist(),
        "masks": None if found.masks is None else pack_classes(found.masks),
    }


def _num_stored(layer: RecordedLayer, every: int) -> int:
    if not layer.receivers:
        return len(layer.places)
    return num_nodes(_thin(layer.receivers, every)[1])


def _num_bytes(layer: RecordedLayer, every: int) -> int:
    of_node = 4 * layer.pos[:1].numel() // 2
    of_node += sum(weight[:1].numel() for weight in layer.weights.values())
    return _num_stored(layer, every) * of_node


def _thin(shapes: tuple[Shape, ...], every: int) -> tuple[Tensor, tuple[Shape, ...]]:
    """The numbers of the nodes that are kept, and the maps that they make."""
    parts, kept, first = [], [], 0
    for height, width in shapes:
        axes = [torch.arange(min(every // 2, n - 1), n, every) for n in (height, width)]
        parts.append((first + axes[0].unsqueeze(1) * width + axes[1]).flatten())
        kept.append((len(axes[0]), len(axes[1])))
        first += height * width
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long), tuple(kept)


def _of_nodes(layer: RecordedLayer, nodes: Tensor) -> RecordedLayer:
    return replace(
        layer,
        places=layer.places[nodes],
        pos=layer.pos[nodes],
        weights={kind: weight[nodes] for kind, weight in layer.weights.items()},
    )

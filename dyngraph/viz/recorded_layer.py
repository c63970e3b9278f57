"""What a layer has listened to on one image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]

MOST_SAMPLES = 2**18
"""Of how many samples of all nodes a layer keeps all. If it has more, it keeps the strongest of
each node, so that there are not more, but at least :data:`LEAST_SAMPLES` of each."""

LEAST_SAMPLES = 32

BINS_OF_DECADE = 5
FIRST_DECADE, LAST_DECADE = -6, 1


class SampleSet(NamedTuple):
    r"""Samples that belong together: those of a rate, or on one map of a pyramid."""

    name: str
    num_samples: int
    """They follow those of the sets before."""
    level: int = 0
    """The map that they are on."""


@dataclass(frozen=True)
class RecordedLayer:
    r"""The samples of all nodes of a layer, and their weights."""

    name: str
    """The way to the module, such as ``"classifier.1.conv"``."""
    kind: str
    """The module's class."""
    receivers: tuple[Shape, ...]
    """The sizes of the maps whose nodes listen, one after the other; none: queries listen."""
    places: Tensor
    """Where these N nodes or queries are on the image, ``[N, 2]``, (y, x) from 0 to 1."""
    senders: tuple[Shape, ...]
    """The sizes of the maps that are sampled."""
    sets: tuple[SampleSet, ...]
    pos: Tensor
    """The samples, ``[N, H, K, 2]``, (y, x) in nodes of their map, H being 1 or G."""
    weights: dict[str, Tensor]
    """By what they are, ``[N, G, K]`` each. G may be 1 where others have more groups."""
    num_samples: int
    """The samples of a node before the strongest were kept, K or more."""
    share: float = 1.0
    """What the kept samples have of all weights."""
    histograms: dict[str, Tensor] = field(default_factory=dict)
    """Those of all weights, the strongest or not, see :func:`weight_histogram`."""


def map_places(shapes: tuple[Shape, ...], device: torch.device) -> Tensor:
    r"""Where the nodes of maps are on the image, ``[N, 2]``, (y, x) from 0 to 1."""
    parts = []
    for shape in shapes:
        axes = [(torch.arange(n, device=device) + 0.5) / n for n in shape]
        parts.append(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2))
    return torch.cat(parts)


def num_kept(num_nodes: int, num_samples: int) -> int:
    r"""How many samples of each node are kept."""
    return min(num_samples, max(LEAST_SAMPLES, MOST_SAMPLES // max(num_nodes, 1)))


def keep_strongest(pos: Tensor, weight: Tensor, count: int) -> tuple[Tensor, Tensor, float]:
    r"""The ``count`` samples of each node, and group with its own, that weigh the most.

    Args:
        pos: ``[N, H, K, 2]``.
        weight: ``[N, G, K]``.
        count: How many.

    Returns:
        The two, with ``count`` instead of K, and the share of all weights that is left.
    """
    by = weight if pos.shape[1] == weight.shape[1] else weight.mean(dim=1, keepdim=True)
    index = by.topk(count, dim=2).indices
    kept = weight.gather(2, index.expand(-1, weight.shape[1], -1))
    return (
        pos.gather(2, index.unsqueeze(3).expand(-1, -1, -1, 2)),
        kept,
        float(kept.sum(dtype=torch.float64) / weight.sum(dtype=torch.float64)),
    )


def weight_histogram(weight: Tensor) -> Tensor:
    r"""How many weights have which size, ``[bins]``, int64.

    The bins are fifths of decades from 1e-6 to 10. The first has the smaller ones too, the last the
    larger ones; weights that are not finite are left out.
    """
    first, last = FIRST_DECADE * BINS_OF_DECADE, LAST_DECADE * BINS_OF_DECADE
    size = weight[weight.isfinite()].abs().float()
    bins = (size.log10() * BINS_OF_DECADE).floor().clamp(first, last - 1).long() - first
    return torch.bincount(bins.cpu(), minlength=last - first)


def num_nodes(shapes: tuple[Shape, ...]) -> int:
    r"""The nodes of all maps."""
    return sum(math.prod(shape) for shape in shapes)

"""How uneven attention over all nodes is (RepGraph, Figure 1a)."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from dyngraph.nn import NonLocalConv
from dyngraph.viz.capture import capture_input

_BINS = 50


@torch.no_grad()
def nonlocal_affinities(model: nn.Module, image: Any) -> Tensor:
    r"""The affinity matrix of the first Non-local layer of a model.

    Args:
        model: Any model with a :class:`~dyngraph.nn.NonLocalConv` inside.
        image: A batch of one image, as the model takes it.

    Returns:
        ``[N, N]``, one row per listening node, averaged over the groups. The whole matrix is held
        in memory, where that of a large image does not fit.

    Raises:
        ValueError: If the model has no such layer or there are several images.
    """
    conv, x, grid = capture_input(model, NonLocalConv, image)
    if grid.batch_size != 1:
        raise ValueError(f"image: expected one, got {grid.batch_size}")
    _, (_, alpha) = conv(x, grid, return_attention_weights=True)
    # Edges are ordered by the node that listens.
    return alpha.mean(dim=1).view(grid.num_nodes, grid.num_nodes)


def draw_affinities(affinity: Tensor, node: int) -> Figure:
    r"""Draws histograms of the weights of all nodes, and of those of one node.

    As in "Representative Graph Neural Network" (ECCV 2020), Figure 1a, the paper's reason for
    representative nodes: in a Non-local layer most nodes get next to no weight. Counts are on a
    logarithmic axis, to show the few large weights; a dashed line marks uniform attention.

    Args:
        affinity: ``[N, M]``, the attention of N nodes over M nodes each; rows sum to 1.
        node: The node whose weights are on the right, in 0..N - 1.

    Raises:
        ValueError: If ``affinity`` is not a matrix or not finite, or has no such row.
    """
    if affinity.dim() != 2 or affinity.numel() == 0:
        raise ValueError(f"affinity: expected a matrix [N, M], got shape {list(affinity.shape)}")
    num_rows, num_nodes = affinity.shape
    if not 0 <= node < num_rows:
        raise ValueError(f"node: expected 0..{num_rows - 1}, got {node}")
    affinity = affinity.detach().float().cpu()
    if not affinity.isfinite().all():
        raise ValueError("affinity: expected finite weights, got NaN or infinity")
    panels = {f"all {num_rows:,} positions": affinity, "one position": affinity[node]}
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (title, weights) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        below = (weights < 1 / num_nodes).float().mean()
        largest = float(weights.max())
        axes.hist(weights.flatten().numpy(), _BINS, range=(0, largest), log=True, color="C0")
        axes.axvline(
            1 / num_nodes,
            color="black",
            linewidth=1,
            linestyle="--",
            label=f"uniform weight, 1 / {num_nodes:,}\n{below:.0%} are below",
        )
        axes.set(
            title=f"{title}: {weights.numel():,} weights",
            xlabel="weight",
            ylabel="number of weights",
            ylim=(0.7, None),
        )
        axes.legend(frameon=False)
    return figure

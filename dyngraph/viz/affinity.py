"""How attention is spread over the nodes (RepGraph, Figure 1a)."""

from __future__ import annotations

from matplotlib.figure import Figure
from torch import Tensor


def draw_affinities(affinity: Tensor) -> Figure:
    r"""Draws the histogram of affinities, and how much of the attention the strongest nodes hold.

    The paper's reason for representative nodes: of all the nodes that a Non-local layer attends to,
    most get next to nothing.

    Args:
        affinity: ``[R, M]``, the attention of R nodes over M nodes each; rows sum to 1.

    Raises:
        ValueError: If ``affinity`` is not a matrix.
    """
    if affinity.dim() != 2 or affinity.numel() == 0:
        raise ValueError(f"affinity: expected a matrix [R, M], got shape {list(affinity.shape)}")
    affinity = affinity.detach().float().cpu()
    num_nodes = affinity.shape[1]
    relative = affinity.flatten().clamp(min=1e-8 / num_nodes) * num_nodes
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    histogram, cumulative = figure.subplots(1, 2)
    histogram.hist(relative.log10().numpy(), bins=60, range=(-8, 3), color="C0")
    histogram.axvline(0, color="black", linewidth=1, linestyle="--")
    histogram.set(
        xlabel="affinity / uniform affinity, power of ten", ylabel="pairs of nodes", yscale="log"
    )
    held = affinity.sort(dim=1, descending=True).values.cumsum(dim=1).mean(dim=0)
    share = (held.new_ones(num_nodes).cumsum(0) / num_nodes * 100).numpy()
    cumulative.plot(share, held.numpy() * 100, color="C0", label="learned")
    cumulative.plot(share, share, color="black", linewidth=1, linestyle="--", label="uniform")
    cumulative.set(xlabel="strongest nodes, %", ylabel="attention that they hold, %", xscale="log")
    cumulative.legend()
    return figure

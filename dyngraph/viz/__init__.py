"""Pictures of what a network attends to. Needs Matplotlib: ``pip install 'dyngraph[train]'``."""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("dyngraph.viz needs matplotlib: pip install 'dyngraph[train]'") from error

from dyngraph.viz.affinity import draw_affinities
from dyngraph.viz.capture import capture_input
from dyngraph.viz.nodes import draw_nodes, representative_nodes
from dyngraph.viz.rates import draw_rates, dynamic_nodes
from dyngraph.viz.segmentation import draw_segmentation

__all__ = [
    "capture_input",
    "draw_affinities",
    "draw_nodes",
    "draw_rates",
    "draw_segmentation",
    "dynamic_nodes",
    "representative_nodes",
]

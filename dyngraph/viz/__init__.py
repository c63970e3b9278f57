"""Pictures of what a network attends to, and a page on which to explore it.

Needs Matplotlib: ``pip install 'dyngraph[train]'``.
"""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("dyngraph.viz needs matplotlib: pip install 'dyngraph[train]'") from error

from dyngraph.viz.affinity import draw_affinities, nonlocal_affinities
from dyngraph.viz.capture import capture_input
from dyngraph.viz.curves import draw_curves
from dyngraph.viz.detection import draw_detections
from dyngraph.viz.explore import Viewer, explore
from dyngraph.viz.listening import draw_detector_listening, draw_listening
from dyngraph.viz.nodes import draw_nodes, representative_nodes
from dyngraph.viz.panels import draw_panels
from dyngraph.viz.rates import draw_rates, dynamic_nodes
from dyngraph.viz.segmentation import draw_segmentation

__all__ = [
    "Viewer",
    "capture_input",
    "draw_affinities",
    "draw_curves",
    "draw_detections",
    "draw_detector_listening",
    "draw_listening",
    "draw_nodes",
    "draw_panels",
    "draw_rates",
    "draw_segmentation",
    "dynamic_nodes",
    "explore",
    "nonlocal_affinities",
    "representative_nodes",
]

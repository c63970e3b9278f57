"""dyngraph: graphs that a network builds for itself, in the terms of PyTorch Geometric."""

from dyngraph.grid import Grid, to_feature_map, to_graph
from dyngraph.neighborhood import Edges, Neighborhood

__all__ = ["Edges", "Grid", "Neighborhood", "to_feature_map", "to_graph"]
__version__ = "0.1.0"

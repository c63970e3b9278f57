"""dyngraph: graphs that a network builds for itself, in the terms of PyTorch Geometric."""

import warnings

with warnings.catch_warnings():
    # PyG wraps itself in the deprecated TorchScript at import.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    import torch_geometric.nn  # noqa: F401

from dyngraph.grid import Grid, to_feature_map, to_graph
from dyngraph.neighborhood import Corners, Edges, Neighborhood

__all__ = ["Corners", "Edges", "Grid", "Neighborhood", "to_feature_map", "to_graph"]
__version__ = "0.1.0"

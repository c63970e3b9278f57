"""The operators of :mod:`torch.library`, each with all that PyTorch has to know of it."""

from dyngraph.ops.operators.attention import attention
from dyngraph.ops.operators.corners import corners
from dyngraph.ops.operators.edges import gather_dot, gather_sum, scatter_sum
from dyngraph.ops.operators.sum import sampled_sum

__all__ = ["attention", "corners", "gather_dot", "gather_sum", "sampled_sum", "scatter_sum"]

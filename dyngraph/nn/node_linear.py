"""The linear layer of nodes."""

from torch import Tensor
from torch_geometric.nn.dense.linear import Linear

from dyngraph.ops.project import project


class NodeLinear(Linear):
    r"""PyG's linear layer by :func:`~dyngraph.ops.project.project`."""

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight, self.bias)

"""The linear layer of nodes."""

from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear

from dyngraph.ops.project import project


class NodeLinear(Linear):
    r"""PyG's linear layer, computed by :func:`~dyngraph.ops.project.project`."""

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight, self.bias)


class TransformerLinear(NodeLinear):
    r"""The linear layer of nodes that starts with the small weights of vision transformers."""

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

"""Dense equivalents of the library, slow and obviously correct, and small inputs for both."""

import itertools

import torch
from torch import Tensor, nn

from dyngraph import Grid, Neighborhood

#: Batches of maps of different sizes, by the number of spatial axes; each holds a 1x1 map.
MIXED_SIZES = {
    1: [[5], [3], [3], [1]],
    2: [[3, 4], [2, 2], [1, 1]],
    3: [[2, 3, 2], [1, 1, 1], [2, 2, 3]],
}
#: The sender grids of the grids above, with as many maps but other sizes.
SENDER_SIZES = {1: [[2], [4], [1], [3]], 2: [[2, 3], [3, 1], [2, 2]], 3: [[1, 2, 2]] * 3}


def node_positions(grid: Grid) -> Tensor:
    """The position of each node, written as a loop."""
    rows = []
    for shape in grid.shapes:
        rows += itertools.product(*map(range, shape))
    return torch.tensor(rows, dtype=torch.float32).view(-1, grid.num_axes)


def image_of_node(grid: Grid) -> Tensor:
    rows = [b for b, shape in enumerate(grid.shapes) for _ in range(torch.ones(shape).numel())]
    return torch.tensor(rows, dtype=torch.long)


def random_positions(
    grid: Grid,
    num_samples: int,
    receiver: Grid | None = None,
    dtype: torch.dtype = torch.float32,
    reach: float = 1.5,
) -> Tensor:
    """Positions in and around the maps, 0.1 or more away from integers, ``[N, K, P]``."""
    receiver = grid if receiver is None else receiver
    sizes = grid.sizes[image_of_node(receiver)].unsqueeze(1).to(dtype)
    shape = (receiver.num_nodes, num_samples, grid.num_axes)
    near = torch.rand(shape, dtype=dtype) * (sizes - 1 + 2 * reach) - reach
    return near.floor() + 0.1 + 0.8 * torch.rand(shape, dtype=dtype)


def interpolation_matrix(near: Neighborhood) -> Tensor:
    r"""``[N, K, M]``: :math:`\prod_a \max(0, 1 - |p_a - c_a|)` inside an image, else 0."""
    pos = near.pos
    image, sender_image = image_of_node(near.receiver), image_of_node(near.grid)
    if near.padding_mode == "border":
        last = (near.grid.sizes[image] - 1).unsqueeze(1).to(pos.dtype)
        free = (pos > 0) & (pos < last)
        pos = torch.where(free, pos, pos.detach().clamp(min=0).minimum(last))
    # From a position to a corner. Both slopes belong to the cell on the right, also at integers.
    step = node_positions(near.grid).to(pos.dtype) - pos.unsqueeze(2)
    lower, upper = (step > -1) & (step <= 0), (step > 0) & (step <= 1)
    weight = torch.where(lower, 1 + step, torch.where(upper, 1 - step, 0)).prod(dim=-1)
    same_image = image.unsqueeze(1) == sender_image
    return weight * same_image.unsqueeze(1)


def corners(near: Neighborhood) -> tuple[Tensor, Tensor]:
    """Index and weight of each corner, ``[N, K, 2^P]``, of samples that all groups share."""
    index, weight = (part.squeeze(1).transpose(1, 2) for part in near.corners())
    return index.long(), weight


def interpolate(x: Tensor, near: Neighborhood) -> Tensor:
    return torch.einsum("nkm,mc->nkc", interpolation_matrix(near).to(x.dtype), x)


def scatter_interpolate(values: Tensor, near: Neighborhood) -> Tensor:
    return torch.einsum("nkm,nkc->mc", interpolation_matrix(near).to(values.dtype), values)


def sampled_score(query: Tensor, key: Tensor, near: Neighborhood, groups: int = 1) -> Tensor:
    products = query.unsqueeze(1) * interpolate(key, near)
    return products.unflatten(2, (groups, -1)).sum(dim=-1).transpose(1, 2)


def sampled_sum(weight: Tensor, value: Tensor, near: Neighborhood) -> Tensor:
    samples = interpolate(value, near).unflatten(2, (weight.shape[1], -1))
    return (weight.transpose(1, 2).unsqueeze(-1) * samples).sum(dim=1).flatten(1)


def sampled_convolution(x: Tensor, filters: Tensor, near: Neighborhood) -> Tensor:
    return torch.einsum("nkc,ock->no", interpolate(x, near), filters)


def sampled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    near: Neighborhood,
    groups: int = 1,
    scale: float = 1.0,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    score = scale * sampled_score(query, key, near, groups)
    alpha = (score if bias is None else score + bias).softmax(dim=-1)
    return sampled_sum(alpha, value, near), alpha


def attention_on_adjacency(
    query: Tensor, key: Tensor, value: Tensor, adjacency: Tensor, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Attention of node i over the nodes j with ``adjacency[i, j]``, and alpha ``[G, N, M]``."""
    q, k, v = (part.unflatten(1, (groups, -1)).transpose(0, 1) for part in (query, key, value))
    score = (q @ k.transpose(1, 2)).masked_fill(~adjacency, -torch.inf)
    # A node that listens to nobody receives zeros.
    alpha = score.softmax(dim=-1).masked_fill(~adjacency, 0)
    return (alpha @ v).transpose(0, 1).flatten(1), alpha


def same_image(grid: Grid) -> Tensor:
    """The complete graph of each map as a boolean matrix ``[N, N]``."""
    image = image_of_node(grid)
    return image.unsqueeze(1) == image


class AllNodes(nn.Module):
    """A sampler whose samples are all nodes of the map; maps must have equally many nodes."""

    def forward(self, x: Tensor, grid: Grid) -> Neighborhood:
        pos = node_positions(grid).to(torch.promote_types(x.dtype, torch.float32))
        image = image_of_node(grid)
        return Neighborhood(grid, torch.stack([pos[image == b] for b in image.tolist()]))

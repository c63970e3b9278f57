"""The block of DGMN2 against the same block on unfolded samples, on a CPU.

    python benchmarks/dgmn2.py

Each case runs its contenders in turns in this process, forward and forward + backward with the
gradients of the maps and all weights. Prints median times, ratios to dyngraph's, and the most
memory held beyond the inputs. *Unfolded* copies the keys and values of all samples before they are
weighed: by a deformable convolution, as the released code does, or by `grid_sample`. All contenders
of a case have the same weights, and are first checked to compute the same. *Without sampling*, each
node takes its own value: what is left is the time and memory that all contenders share. With
*checkpointing*, the block recomputes everything in its backward pass, map by map.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from ops import OURS, Contender, run
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from dyngraph import Grid
from dyngraph.nn import DGMN2Block, DGMN2Conv

WITHOUT = "without sampling"
CHECKPOINTING = "dyngraph, checkpointing"
BATCH, CHANNELS, HEADS, SIZE = 8, 128, 2, (56, 56)


def by_deform_conv2d(x: Tensor, walk: Tensor) -> Tensor:
    """As in the released code, by a deformable convolution that copies, ``[B, C, 9, N]``."""
    channels = x.shape[1]
    copies = torch.eye(9, dtype=x.dtype).view(9, 1, 3, 3).repeat(channels, 1, 1, 1)
    return deform_conv2d(x, walk, copies, padding=1).view(len(x), channels, 9, -1)


def by_grid_sample(x: Tensor, walk: Tensor) -> Tensor:
    """By PyTorch's own interpolation, ``[B, C, 9, N]``."""
    height, width = x.shape[2:]
    taps = torch.cartesian_prod(*[torch.arange(-1.0, 2)] * 2).unsqueeze(1)
    nodes = Grid([[height, width]]).pos
    pos = nodes + taps + walk.unflatten(1, (9, 2)).flatten(3).transpose(2, 3)
    places = (pos * pos.new_tensor([2 / (height - 1), 2 / (width - 1)]) - 1).flip(-1)
    return F.grid_sample(x, places, align_corners=True)


class UnfoldedDGMN2Conv(DGMN2Conv):
    """The layer on a batch of equal maps, with all samples copied before they are weighed.

    Args:
        channels: The channels of the maps.
        heads: The number of heads.
        unfold: From maps ``[B, C, H, W]`` and walks ``[B, 18, H, W]`` to the samples.
    """

    def __init__(self, channels: int, heads: int, unfold: Callable[[Tensor, Tensor], Tensor]):
        super().__init__(channels, heads)
        self.unfold = unfold

    def attend(self, x, grid, return_edges):
        ((batch, (height, width)),) = grid.runs
        nodes, heads, channels = height * width, self.heads, self.out_channels // self.heads
        qkv = self.qkv(x[0]).view(batch, nodes, 3, heads, channels).permute(2, 0, 3, 1, 4)
        query, key, value = (part.flatten(0, 1) for part in qkv)
        slices = x[1].view(batch, nodes, heads, channels)
        walk = F.linear(slices, self.conv_offset.weight, self.conv_offset.bias)
        walk = walk.permute(0, 2, 3, 1).reshape(batch * heads, 18, height, width)
        keys, values = (
            self.unfold(part.transpose(1, 2).reshape(-1, channels, height, width), walk)
            for part in (key, value)
        )
        score = self.scale * torch.einsum("bnc,bcsn->bns", query, keys)
        by_node = query.unflatten(0, (batch, heads)).transpose(1, 2).flatten(0, 1)
        position = self.pos_emb(by_node, grid).view(batch, nodes, heads, -1)
        position = position.transpose(1, 2).reshape(score.shape)
        alpha = (score + position).softmax(dim=-1)
        out = torch.einsum("bns,bcsn->bnc", alpha, values).unflatten(0, (batch, heads))
        return out.transpose(1, 2).reshape(batch * nodes, -1), None


class WithoutSampling(DGMN2Conv):
    """Only the layer's linear maps, including those to queries, keys and values."""

    def attend(self, x, grid, return_edges):
        query, key, value = self.qkv(x[0]).chunk(3, dim=1)
        return query + key + value, None


def layer_case() -> dict[str, Contender]:
    grid = Grid([SIZE] * BATCH)
    x = torch.randn(grid.num_nodes, CHANNELS)
    layers = {
        OURS: DGMN2Conv(CHANNELS, HEADS),
        "unfolded by deform_conv2d": UnfoldedDGMN2Conv(CHANNELS, HEADS, by_deform_conv2d),
        "unfolded by grid_sample": UnfoldedDGMN2Conv(CHANNELS, HEADS, by_grid_sample),
        WITHOUT: WithoutSampling(CHANNELS, HEADS),
    }
    return contenders(layers, x, grid)


def block_case(mlp_ratio: int) -> dict[str, Contender]:
    maps = torch.randn(BATCH, CHANNELS, *SIZE).contiguous(memory_format=torch.channels_last)
    blocks = {}
    for name, contender in layer_case().items():
        blocks[name] = DGMN2Block(CHANNELS, HEADS, mlp_ratio=mlp_ratio)
        blocks[name].attn = contender.run.args[0]
    blocks[CHECKPOINTING] = DGMN2Block(CHANNELS, HEADS, mlp_ratio=mlp_ratio, checkpointing=True)
    return contenders(blocks, maps)


def contenders(modules: dict[str, nn.Module], x: Tensor, *others: object) -> dict[str, Contender]:
    """Functions of x and all weights, taken from the first module."""
    weights = dict(modules[OURS].named_parameters())
    for name, weight in weights.items():
        if name.endswith("conv_offset.weight"):
            # Samples about a node away from their taps.
            nn.init.normal_(weight, std=0.1)
    inputs = [x, *(weight.detach() for weight in weights.values())]
    return {
        name: Contender(partial(call, module, list(weights), others), inputs, name != WITHOUT)
        for name, module in modules.items()
    }


def call(module: nn.Module, names: list[str], others: tuple, x: Tensor, *weights: Tensor) -> Tensor:
    given = dict(zip(names, weights, strict=True))
    return torch.func.functional_call(module, given, (x, *others))


CASES = {
    "DGMN2's attention": layer_case,
    "DGMN2's block, MLP of 4 C": lambda: block_case(4),
    "DGMN2's block, MLP of 8 C": lambda: block_case(8),
}


if __name__ == "__main__":
    run(__doc__, "dgmn2", CASES)

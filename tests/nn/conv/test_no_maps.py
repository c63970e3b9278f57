import pytest
import torch

from dyngraph import Grid
from dyngraph.nn.conv import (
    CrissCrossConv,
    DeformableAttentionConv,
    DGMN2Conv,
    DGMNConv,
    NonLocalConv,
    PositionAttentionConv,
    RepGraphConv,
)

GRIDS = {
    "an empty batch": Grid.of(torch.empty(0, 4, 3, 3)),
    "no sizes": Grid(torch.empty(0, 2, dtype=torch.long)),
}
LAYERS = {
    "RepGraph": lambda backend: RepGraphConv(4, 4, 3, backend=backend),
    "Grid RepGraph": lambda backend: RepGraphConv(4, None, 3, cell_size=2, backend=backend),
    "criss-cross": lambda backend: CrissCrossConv(4, backend=backend),
    "DGMN": lambda backend: DGMNConv(4, (1, 2), 2, backend=backend),
    "DGMN2": lambda backend: DGMN2Conv(4, 2, (3, 3), backend=backend),
    "deformable attention": lambda backend: DeformableAttentionConv(4, 2, backend=backend),
    "Non-local": lambda _: NonLocalConv(4, 4),
    "position attention": lambda _: PositionAttentionConv(4),
}


@pytest.mark.parametrize("backend", ["torch", "pyg", "triton"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_grid_of_no_maps(layer, grid, backend):
    conv = LAYERS[layer](backend)
    x = torch.empty(0, 4, requires_grad=True)
    out = conv(x, GRIDS[grid])
    assert out.shape == (0, 4)
    out.sum().backward()
    assert x.grad.shape == (0, 4)
    out, (edge_index, alpha) = conv(x, GRIDS[grid], return_attention_weights=True)
    assert out.shape == (0, 4)
    assert edge_index.shape == (2, 0)
    assert len(alpha) == 0


@pytest.mark.parametrize("layer", [DGMNConv, DGMN2Conv, DeformableAttentionConv])
@pytest.mark.parametrize("channels", [-1, 0])
def test_layers_that_need_to_know_their_channels_say_so(layer, channels):
    with pytest.raises(
        ValueError, match=rf"in_channels: expected a positive number, got {channels}"
    ):
        layer(channels)

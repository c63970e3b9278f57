"""Drawn grids, positions, neighborhoods and layers, hard ones among them."""

import torch
from hypothesis import strategies as st
from torch import nn

from dyngraph import Grid, Neighborhood
from dyngraph.nn.conv import DGMN2Conv, DGMNConv, NonLocalConv, RepGraphConv
from dyngraph.samplers import Sampler

#: Positions that are rarely drawn at random: on nodes and borders, far away, and not finite.
HARD = [-1.0, -0.5, 0.0, 1.0, 2.5, 1e4, -1e9, 1e30, float("inf"), float("-inf"), float("nan")]
#: Features that are not finite.
NOT_FINITE = [float("inf"), float("-inf"), float("nan")]
CHANNELS = 4


@st.composite
def grids(draw, num_axes=None, empty_maps=True):
    """Maps of drawn sizes, several of one size in a row among them."""
    num_axes = draw(st.integers(1, 3)) if num_axes is None else num_axes
    length = st.integers(0 if empty_maps else 1, 4)
    size = st.lists(length, min_size=num_axes, max_size=num_axes)
    runs = draw(st.lists(st.tuples(st.integers(1, 2), size), min_size=1, max_size=3))
    return Grid([size for count, size in runs for _ in range(count)])


@st.composite
def positions(draw, num_nodes, num_samples, num_axes):
    """``[N, K, P]``, float64, of which some are hard."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (num_nodes, num_samples, num_axes)
    pos = 6 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1.5
    share = draw(st.sampled_from([0.0, 0.1, 0.5]))
    hard = torch.tensor(draw(st.lists(st.sampled_from(HARD), min_size=1, max_size=3)))
    which = torch.randint(len(hard), shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < share
    return torch.where(mask, hard[which].double(), pos)


@st.composite
def neighborhoods(draw, finite=False, shared=False, small=False):
    """Samples in float64, of one grid or between two, of all channels or of each group.

    ``finite``: all positions are. ``shared``: all channels share theirs. ``small``: of one map.
    """
    num_axes = draw(st.integers(1, 3))
    size = st.lists(st.integers(1, 4), min_size=num_axes, max_size=num_axes)
    runs = draw(
        st.lists(st.tuples(st.integers(1, 2), size, size), min_size=1, max_size=1 if small else 3)
    )
    if small:
        runs = [(1, *sizes) for _, *sizes in runs]
    grid = Grid([size for count, size, _ in runs for _ in range(count)])
    receiver = Grid([size for count, _, size in runs for _ in range(count)])
    if draw(st.booleans()):
        receiver = grid
    groups = None if shared else draw(st.sampled_from([None, 1, 2, 4]))
    num_samples = draw(st.integers(0, 3))
    pos = draw(positions(receiver.num_nodes, (groups or 1) * num_samples, num_axes))
    if finite:
        pos = pos.where(pos.isfinite(), 0.25)
    if groups is not None:
        pos = pos.unflatten(1, (groups, num_samples))
    return Neighborhood(
        grid, pos, padding_mode=draw(st.sampled_from(["zeros", "border"])), receiver=receiver
    )


@st.composite
def broken(draw, features, names):
    """The same features, a few numbers of one of those with these names no longer finite."""
    name = draw(st.sampled_from(names))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = features[name].shape
    which = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.02, 0.1, 0.4]))
    bad = torch.tensor(draw(st.lists(st.sampled_from(NOT_FINITE), min_size=1, max_size=3)))
    bad = bad[torch.randint(len(bad), shape, generator=generator)].to(features[name].dtype)
    return {**features, name: torch.where(which, bad, features[name].detach())}


class Given(Sampler):
    """A sampler of given positions, whatever the nodes."""

    def __init__(self, pos, padding_mode):
        super().__init__(pos.shape[1], pos.shape[2])
        self.pos = nn.Parameter(pos)
        self.padding_mode = padding_mode

    def forward(self, x, grid):
        return Neighborhood(grid, self.pos, padding_mode=self.padding_mode)


@st.composite
def layers(draw):
    """A layer with drawn options in float64, and the grid and node features that it gets."""
    name = draw(st.sampled_from(["repgraph", "dgmn", "dgmn2", "nonlocal"]))
    grid = draw(grids(num_axes=2 if name == "dgmn2" else None))
    seed = draw(st.integers(0, 2**31))
    torch.manual_seed(seed)
    groups = draw(st.sampled_from([1, 2, 4]))

    def sampler():
        size = (grid.num_nodes, draw(st.integers(1, 4)), grid.num_axes)
        return Given(draw(positions(*size)), draw(st.sampled_from(["zeros", "border"])))

    if name == "repgraph":
        hidden = draw(st.sampled_from([None, 4, 8]))
        conv = RepGraphConv(
            CHANNELS, hidden, groups=groups, num_axes=grid.num_axes, sampler=sampler()
        )
    elif name == "nonlocal":
        conv = NonLocalConv(CHANNELS, draw(st.sampled_from([None, 4, 8])), groups=groups)
    elif name == "dgmn2":
        conv = DGMN2Conv(CHANNELS, heads=groups, map_size=(3, 4))
        nn.init.normal_(conv.conv_offset.weight, std=draw(st.sampled_from([0.1, 1.0, 1e6])))
    else:
        rates = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
        kind = draw(st.sampled_from([{}, {"affinity": False}, {"filters": False}]))
        conv = DGMNConv(
            CHANNELS,
            rates,
            groups=groups,
            num_axes=grid.num_axes,
            fusion=draw(st.sampled_from(["sum", "concat"])),
            num_steps=draw(st.integers(1, 2)),
            bias=draw(st.booleans()),
            **kind,
        )
        for parameter in conv.parameters():
            nn.init.normal_(parameter, std=0.4)
    x = torch.randn(grid.num_nodes, CHANNELS, dtype=torch.float64, requires_grad=True)
    return conv.double(), grid, x

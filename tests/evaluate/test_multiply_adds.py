import pytest
import torch
from torch import nn
from torchvision.ops import DeformConv2d

from dyngraph.evaluate import MultiplyAdds, count_multiply_adds
from dyngraph.models.deformable_conv2d import DeformableConv2d
from dyngraph.nn import BottleneckRepGraphBlock, NonLocalBlock, RepGraphBlock
from dyngraph.ops import use_backend

# The setting of the paper's Table 2.
C, HIDDEN, SAMPLES = 2048, 256, 9
SHAPE = (1, C, 256, 128)
N = 256 * 128


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_bottleneck_repgraph(fusion):
    counted = count_multiply_adds(BottleneckRepGraphBlock(C, HIDDEN, fusion=fusion), *SHAPE)
    reduce_and_expand = 2 * C * HIDDEN * N
    offsets = 2 * SAMPLES * HIDDEN * N
    # One interpolation from four corners, for keys that are the values; then scores, then sums.
    assert counted.sampling == SAMPLES * HIDDEN * N * (4 + 1 + 1)
    assert counted.dense == reduce_and_expand + offsets
    assert round(counted.total / 1e9, 2) == 34.96


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_simple_repgraph(fusion):
    counted = count_multiply_adds(RepGraphBlock(C, HIDDEN, fusion=fusion), *SHAPE)
    # Keys and values are interpolated each.
    assert counted.sampling == SAMPLES * HIDDEN * N * (2 * 4 + 1 + 1)
    assert counted.dense == (3 + 1) * C * HIDDEN * N + 2 * SAMPLES * C * N


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_nonlocal(fusion):
    counted = count_multiply_adds(NonLocalBlock(C, HIDDEN, fusion=fusion), *SHAPE)
    last = C * HIDDEN * N
    assert counted == MultiplyAdds(dense=3 * C * HIDDEN * N + 2 * N**2 * HIDDEN + last, sampling=0)
    assert round((counted.total - last) / 1e9, 1) == 601.3


def test_groups_batches_and_volumes():
    # 3 samples of 8 channels, whatever the groups; 8 corners in a volume.
    block = RepGraphBlock(16, 8, num_samples=3, groups=4, num_axes=3)
    nodes = 2 * 3 * 4 * 5
    counted = count_multiply_adds(block, 2, 16, 3, 4, 5)
    assert counted.sampling == 3 * 8 * nodes * (2 * 8 + 1 + 1)
    assert counted.dense == 4 * 16 * 8 * nodes + 3 * 3 * 16 * nodes


def test_cells_share_their_offsets():
    counted = count_multiply_adds(BottleneckRepGraphBlock(16, 8, cell_size=2), 1, 16, 4, 5)
    nodes, cells = 4 * 5, 2 * 3
    assert counted.sampling == 9 * 8 * nodes * 6
    assert counted.dense == 2 * 16 * 8 * nodes + 18 * 8 * cells


def test_convolutions_and_linear_layers():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, dilation=2, padding=2, groups=2, bias=False),
        nn.Flatten(),
        nn.Linear(6 * 5 * 7, 10),
    )
    first = 8 * 3 * 9 * 5 * 7
    second = 6 * 4 * 9 * 5 * 7
    expected = MultiplyAdds(dense=2 * (first + second + 6 * 5 * 7 * 10), sampling=0)
    assert count_multiply_adds(module, 2, 3, 10, 14) == expected
    assert expected.total == expected.dense


@pytest.mark.parametrize("backend", ["pyg", "torch"])
def test_the_backend_outside_does_not_matter(backend):
    block = RepGraphBlock(16, 8)
    expected = count_multiply_adds(block, 1, 16, 5, 6)
    with use_backend(backend):
        assert count_multiply_adds(block, 1, 16, 5, 6) == expected
    assert expected.sampling == 9 * 8 * 30 * 10


def test_the_module_stays_as_it_was():
    block = BottleneckRepGraphBlock(16)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    count_multiply_adds(block, 2, 16, 3, 3)
    assert block.training
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name]), name


class Unmoved(DeformConv2d):
    def forward(self, x):
        return super().forward(x, x.new_zeros(len(x), 18, 5, 6))


def test_torchvisions_deformable_convolution_is_a_convolution():
    geometry = {"padding": 1, "stride": 2, "groups": 2}
    counts = [
        count_multiply_adds(layer(6, 8, 3, **geometry), 2, 6, 9, 11)
        for layer in (Unmoved, nn.Conv2d)
    ]
    assert counts[0] == counts[1]


def test_a_deformable_convolution_is_a_convolution():
    conv = nn.Conv2d(6, 8, 3, padding=1, stride=2, groups=2)
    deformable = DeformableConv2d(conv)
    offsets = count_multiply_adds(deformable.offset_mask, 2, 6, 9, 11)
    assert count_multiply_adds(deformable, 2, 6, 9, 11).dense == (
        count_multiply_adds(conv, 2, 6, 9, 11).dense + offsets.dense
    )

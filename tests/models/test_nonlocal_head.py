import torch

from dyngraph.evaluate import count_multiply_adds
from dyngraph.models import NonLocalHead
from dyngraph.nn import NonLocalBlock


def test_a_convolution_and_the_block():
    head = NonLocalHead(8).eval()
    convolution, block = head
    assert type(block) is NonLocalBlock
    assert block.conv.out_channels == 4
    x = torch.randn(2, 8, 5, 4)
    assert torch.equal(head(x), block(convolution(x)))
    assert head(x).shape == x.shape


def test_the_weights_of_dgmns_table_1():
    """2.88 M; of its 73.33 G, 72.46 G are those of convolutions and matrix products."""
    with torch.device("meta"):
        head = NonLocalHead(512)
    weights = sum(parameter.numel() for parameter in head.parameters() if parameter.dim() > 1)
    assert weights == 512 * 512 * 9 + 4 * 512 * 256 == 2_883_584
    nodes = 97 * 97
    counted = count_multiply_adds(head, 1, 512, 97, 97)
    assert counted.total == counted.dense == weights * nodes + 2 * nodes**2 * 256
    assert round(counted.total / 1e9, 2) == 72.46

"""The blocks that the papers compare with: of CCNet, DANet and GCNet."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyngraph.evaluate import count_multiply_adds
from dyngraph.nn import (
    ChannelAttentionBlock,
    CrissCrossBlock,
    GlobalContextBlock,
    PositionAttentionBlock,
)


def channels_by_nodes(x):
    """Maps ``[B, C, *spatial]`` as matrices ``[B, C, n]``."""
    return x.flatten(2)


def linear(layer, matrices):
    """A linear layer on all nodes of ``[B, C, n]``."""
    return F.linear(matrices.mT, layer.weight, layer.bias).mT


def criss_cross(block, x):
    shape, nodes = x.shape, torch.ones(x.shape[2:]).nonzero()
    on_a_line = (nodes.unsqueeze(1) != nodes.unsqueeze(0)).sum(dim=2) <= 1
    for _ in range(block.num_steps):
        x = x + block.scale * _attention(block.conv, x, on_a_line).view(shape)
    return x


def position_attention(block, x):
    nodes = x[0, 0].numel()
    everywhere = torch.ones(nodes, nodes, dtype=torch.bool)
    return x + block.scale * _attention(block.conv, x, everywhere).view_as(x)


def _attention(conv, x, adjacency):
    matrices = channels_by_nodes(x)
    layers = (conv.lin_query, conv.lin_key, conv.lin_value)
    query, key, value = (linear(layer, matrices) for layer in layers)
    score = (query.mT @ key).masked_fill(~adjacency, -torch.inf)
    return value @ score.softmax(dim=2).mT


def channel_attention(block, x):
    matrices = channels_by_nodes(x)
    score = torch.einsum("bcn,bdn->bcd", matrices, matrices)
    # Eq. 3: d listens to c, and attention sums to one over c.
    alpha = score.exp() / score.exp().sum(dim=1, keepdim=True)
    return x + block.scale * torch.einsum("bcd,bcn->bdn", alpha, matrices).view_as(x)


def global_context(block, x):
    matrices = channels_by_nodes(x)
    alpha = linear(block.lin_score, matrices).softmax(dim=2)
    context = (matrices * alpha).sum(dim=2, keepdim=True)
    hidden = block.norm(linear(block.lin_reduce, context).mT).relu().mT
    return (matrices + linear(block.lin_expand, hidden)).view_as(x)


DENSE = {
    CrissCrossBlock: criss_cross,
    PositionAttentionBlock: position_attention,
    ChannelAttentionBlock: channel_attention,
    GlobalContextBlock: global_context,
}
BLOCKS = list(DENSE)
SHAPES = {1: (7,), 2: (5, 4), 3: (3, 4, 2)}


def trained(block):
    """The block with all weights away from where they start."""
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def block_for(make, num_axes, channels=8):
    return make(channels, num_axes=num_axes) if make is CrissCrossBlock else make(channels)


@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("make", BLOCKS)
def test_a_block_equals_its_dense_form(make, num_axes):
    block = trained(block_for(make, num_axes)).double()
    x = torch.randn(2, 8, *SHAPES[num_axes], dtype=torch.float64, requires_grad=True)
    out, want = block(x), DENSE[make](block, x)
    torch.testing.assert_close(out, want, atol=1e-12, rtol=1e-12)
    inputs, probe = [x, *block.parameters()], torch.randn_like(x)
    grads = [torch.autograd.grad((y * probe).sum(), inputs) for y in (out, want)]
    torch.testing.assert_close(grads[0], grads[1], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_the_steps_of_criss_cross_attention(num_steps):
    block = trained(CrissCrossBlock(8, num_steps=num_steps)).double()
    x = torch.randn(1, 8, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x), criss_cross(block, x))


@pytest.mark.parametrize(("num_steps", "heard"), [(1, 3 + 4 - 1), (2, 3 * 4)])
def test_after_two_steps_a_node_has_heard_of_all(num_steps, heard):
    block = trained(CrissCrossBlock(8, num_steps=num_steps)).double()
    x = torch.randn(1, 8, 3, 4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(block(x)[0, :, 1, 2].sum(), x)
    assert grad[0].any(dim=0).sum() == heard


@pytest.mark.parametrize("make", BLOCKS)
def test_the_identity_at_the_start_bit_for_bit(make):
    block = make(8)
    x = torch.randn(2, 8, 4, 5)
    assert torch.equal(block(x), x)
    trained(block).reset_parameters()
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("make", BLOCKS)
def test_everything_learns(make):
    block = make(32)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.01)
    x, target = torch.randn(2, 2, 32, 4, 5)
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) - target).square().sum().backward()
        optimizer.step()
    for name, parameter in block.named_parameters():
        assert parameter.grad.any(), name


@pytest.mark.parametrize("make", BLOCKS)
def test_reset_parameters(make):
    block = trained(make(8))
    before = copy.deepcopy(block.state_dict())
    block.reset_parameters()
    for name, tensor in block.state_dict().items():
        assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("make", BLOCKS)
def test_maps_of_different_sizes_equal_each_alone(make):
    block = trained(make(8)).double()
    sizes = [(3, 4), (2, 2), (2, 2), (1, 1), (5, 3)]
    maps = [torch.randn(8, *size, dtype=torch.float64) for size in sizes]
    for got, feature_map in zip(block(maps), maps, strict=True):
        torch.testing.assert_close(got, block(feature_map.unsqueeze(0))[0])


@pytest.mark.parametrize("make", BLOCKS)
def test_the_layout_of_maps_stays(make):
    block = trained(make(8))
    x = torch.randn(2, 8, 3, 4, requires_grad=True)
    last = block(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    out = block(x)
    assert out.is_contiguous()
    assert torch.autograd.grad(out.square().sum(), x)[0].is_contiguous()
    assert torch.equal(last, out)


@pytest.mark.parametrize("make", BLOCKS)
def test_no_maps(make):
    block = make(8)
    x = torch.randn(0, 8, 3, 4, requires_grad=True)
    out = block(x)
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", BLOCKS)
def test_autocast(make, dtype):
    block = make(8)
    last = block.lin_expand.weight if make is GlobalContextBlock else block.scale
    nn.init.constant_(last, 0.5)
    x = torch.randn(1, 8, 60, 61)
    full = block(x)
    with torch.autocast("cpu", dtype=dtype):
        half = block(x)
    atol = 6 * torch.finfo(dtype).eps
    torch.testing.assert_close(half.float(), full, atol=atol, rtol=0)


def test_scores_of_channels_are_not_of_a_half_type():
    """Scores of 820.4 and 818, of which bfloat16 makes 820 twice."""
    x = torch.zeros(3, 4096)
    x[0, :2051] = x[1, 2051:] = 1
    x[2] = 0.4
    block = ChannelAttentionBlock(3)
    nn.init.ones_(block.scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x.view(1, 3, 64, 64)).view(3, 4096)
    # The third channel hears the first two, and hardly itself, of score 655.
    alpha = torch.tensor([820.4, 818]).softmax(dim=0)
    assert torch.allclose(out[2, [0, -1]], 0.4 + alpha, atol=torch.finfo(torch.bfloat16).eps)


@pytest.mark.slow
@pytest.mark.parametrize("make", BLOCKS)
def test_compile(make):
    torch._dynamo.reset()
    block = trained(make(8)).double()
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 8, 3, 4), (3, 8, 5, 2)):
        results = []
        for function in (block, compiled):
            torch.manual_seed(2)
            x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
            out = function(x)
            grads = torch.autograd.grad(out.square().sum(), [x, *block.parameters()])
            results.append((out, grads))
        torch.testing.assert_close(results[1], results[0])


@pytest.mark.slow
@pytest.mark.parametrize("make", BLOCKS)
def test_export_with_any_size(make):
    block = trained(make(8))
    dim = torch.export.Dim
    # Exported programs take lengths of 0 and 1 as constants, those of the rest of a line too.
    shape = {2: dim("height", min=3), 3: dim("width", min=3)}
    exported = torch.export.export(
        block, (torch.randn(2, 8, 3, 4),), dynamic_shapes=(shape,)
    ).module()
    for size in ((2, 8, 3, 4), (2, 8, 4, 3), (2, 8, 9, 5)):
        x = torch.randn(size)
        torch.testing.assert_close(exported(x), block(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", BLOCKS)
def test_maps_that_do_not_fit(make):
    with pytest.raises(ValueError, match=r"^maps: expected 8 channels"):
        make(8)(torch.ones(2, 7, 3, 3))


def test_hidden_channels():
    assert CrissCrossBlock(64).conv.lin_query.out_channels == 8
    assert CrissCrossBlock(64, 5).conv.lin_query.out_channels == 5
    assert PositionAttentionBlock(64).conv.lin_key.out_channels == 8
    assert PositionAttentionBlock(64, 5).conv.lin_key.out_channels == 5
    assert GlobalContextBlock(64).lin_reduce.out_features == 4
    assert GlobalContextBlock(64, 5).lin_reduce.out_features == 5
    assert GlobalContextBlock(8).lin_reduce.out_features == 1


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"^num_steps: expected at least 1, got 0"):
        CrissCrossBlock(8, num_steps=0)
    with pytest.raises(ValueError, match=r"^num_axes: expected 1, 2 or 3, got 4"):
        CrissCrossBlock(8, num_axes=4)
    with pytest.raises(ValueError, match=r"^backend: expected one of"):
        CrissCrossBlock(8, backend="fast")(torch.ones(1, 8, 2, 2))


def test_multiply_adds():
    """Of 64 channels on 5x6 nodes, those of the formulas."""
    nodes, shape = 30, (1, 64, 5, 6)
    found = count_multiply_adds(PositionAttentionBlock(64), *shape).total
    assert found == nodes * (2 * 64 * 8 + 64 * 64) + nodes**2 * (8 + 64)
    assert count_multiply_adds(ChannelAttentionBlock(64), *shape).total == 2 * 64**2 * nodes
    # Scores and the sum, then the two layers of one vector.
    assert count_multiply_adds(GlobalContextBlock(64), *shape).total == 2 * 64 * nodes + 2 * 64 * 4
    counted = count_multiply_adds(CrissCrossBlock(64), *shape)
    assert counted.dense == 2 * nodes * (2 * 64 * 8 + 64 * 64)
    # Each sample is interpolated from four corners.
    assert counted.sampling == 2 * nodes * (5 + 6 - 1) * (8 + 64) * (4 + 1)

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyngraph import Grid
from dyngraph.nn import DGMN2Block
from dyngraph.nn.block.drop_path import DropPath
from dyngraph.ops import use_backend


def trained(block):
    """The block with walks as after some training."""
    nn.init.normal_(block.attn.conv_offset.weight, std=0.5)
    nn.init.normal_(block.attn.conv_offset.bias, std=0.5)
    return block


def dense(block, maps):
    """The formula on one batch, with the attention layer given."""
    grid = Grid.of(maps)
    x = maps.movedim(1, -1)

    def norm(x, norm):
        centred = x - x.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    attention = block.attn(norm(x, block.norm1).flatten(0, 2), grid)
    x = x + attention.view_as(x)
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    hidden = F.gelu(norm(x, block.norm2) @ fc1.weight.t() + fc1.bias)
    return (x + hidden @ fc2.weight.t() + fc2.bias).movedim(-1, 1)


def test_the_block_equals_the_formula():
    block = trained(DGMN2Block(6, 2, (3, 4), mlp_ratio=3)).double()
    assert block.mlp.fc1.weight.shape == (18, 6)
    maps = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(block(maps), dense(block, maps))


def test_maps_of_different_sizes_equal_each_alone():
    block = trained(DGMN2Block(6, 2)).double()
    sizes = [(3, 4), (2, 2), (2, 2), (1, 1), (5, 3)]
    maps = [torch.randn(6, *size, dtype=torch.float64) for size in sizes]
    for got, feature_map in zip(block(maps), maps, strict=True):
        torch.testing.assert_close(got, block(feature_map.unsqueeze(0))[0])


def test_the_layout_of_maps_stays():
    block = DGMN2Block(8)
    x = torch.randn(2, 8, 3, 4, requires_grad=True)
    last = block(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    out = block(x)
    assert out.is_contiguous()
    assert torch.autograd.grad(out.square().sum(), x)[0].is_contiguous()
    assert torch.equal(last, out)


def test_no_maps():
    x = torch.randn(0, 8, 3, 4, requires_grad=True)
    out = DGMN2Block(8, 2)(x)
    assert out.shape == (0, 8, 3, 4)
    out.sum().backward()


def test_gradients_with_the_reference_backend():
    block = trained(DGMN2Block(6, 2)).double()
    maps = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for backend in ("torch", "pyg"):
        with use_backend(backend):
            out = block(maps)
        grads = torch.autograd.grad(out.square().sum(), [maps, *block.parameters()])
        results.append((out, grads))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    block = DGMN2Block(8, 2)
    x = torch.randn(2, 8, 4, 5, requires_grad=True)
    full = block(x)
    (full_grad,) = torch.autograd.grad(full.sum(), x)
    with torch.autocast("cpu", dtype=dtype):
        half = block(x)
    (half_grad,) = torch.autograd.grad(half.sum(), x)
    assert half.dtype == half_grad.dtype == torch.float32
    atol = 6 * torch.finfo(dtype).eps
    torch.testing.assert_close(half, full, atol=atol, rtol=0)
    torch.testing.assert_close(half_grad, full_grad, atol=2 * atol, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compile(training, checkpointing):
    torch._dynamo.reset()
    block = trained(DGMN2Block(8, 2, checkpointing=checkpointing)).double().train(training)
    compiled = torch.compile(block, fullgraph=True, dynamic=True)
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
@pytest.mark.parametrize("checkpointing", [False, True])
def test_export_with_any_size(checkpointing):
    block = trained(DGMN2Block(8, 2, checkpointing=checkpointing)).eval()
    dim = torch.export.Dim
    shape = {2: dim("height", min=2), 3: dim("width", min=2)}
    exported = torch.export.export(
        block, (torch.randn(2, 8, 3, 4),), dynamic_shapes=(shape,)
    ).module()
    for size in ((2, 8, 3, 4), (2, 8, 4, 3), (2, 8, 9, 2), (2, 8, 60, 60)):
        x = torch.randn(size)
        assert torch.equal(exported(x), block(x))


def test_state_dict_and_copies():
    block, other = trained(DGMN2Block(8, 2)), DGMN2Block(8, 2)
    x = torch.randn(2, 8, 3, 4)
    want = block(x)
    assert torch.equal(copy.deepcopy(block)(x), want)
    assert not torch.equal(other(x), want)
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(x), want)


def test_reset_parameters():
    block = trained(DGMN2Block(8, 2))
    before = copy.deepcopy(block.state_dict())
    block.reset_parameters()
    for name, tensor in block.state_dict().items():
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif name.startswith("norm"):
            assert (tensor == 1).all(), name
        else:
            assert not torch.equal(tensor, before[name]), name


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"^heads: "):
        DGMN2Block(8, 3)
    with pytest.raises(ValueError, match=r"^mlp_ratio: expected at least 1, got 0"):
        DGMN2Block(8, mlp_ratio=0)
    for probability in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"^drop_path: "):
            DGMN2Block(8, drop_path=probability)
    with pytest.raises(ValueError, match=r"^maps: expected 8 channels"):
        DGMN2Block(8)(torch.randn(1, 7, 3, 3))
    with pytest.raises(ValueError, match=r"^grid: expected 2 spatial axes, got 3"):
        DGMN2Block(8)(torch.randn(1, 8, 2, 2, 2))


def test_branches_are_dropped_map_by_map():
    drop = DropPath(0.4)
    grid = Grid([[1, 2]] * 500 + [[1, 1]] * 500)
    x = torch.randn(1500, 3)
    factor = (drop(x, grid) / x).round(decimals=4)
    assert factor.unique().tolist() == pytest.approx([0, 1 / 0.6], abs=1e-4)
    dropped = (factor == 0).float()
    assert torch.equal(dropped.amin(dim=1), dropped.amax(dim=1))
    maps = dropped[:1000, 0].view(500, 2)
    assert torch.equal(maps[:, 0], maps[:, 1])
    assert 0.35 < torch.cat([maps[:, 0], dropped[1000:, 0]]).mean() < 0.45
    assert drop.eval()(x, grid) is x
    assert DropPath(0.0)(x, grid) is x


@pytest.mark.slow
def test_an_export_with_a_batch_of_any_size():
    block = DGMN2Block(4, 2, (4, 4)).eval()
    batch = torch.export.Dim("batch", max=1000)
    program = torch.export.export(block, (torch.randn(2, 4, 4, 5),), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 4, 4, 5)
    torch.testing.assert_close(program.module()(x), block(x))

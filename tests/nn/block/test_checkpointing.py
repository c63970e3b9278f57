import pytest
import torch

from dyngraph.nn import DGMN2Block
from dyngraph.nn.block import checkpointing

SIZES = [(3, 4), (3, 4), (2, 2), (5, 3), (1, 1)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(checkpointing, "_NODES_ON_CPU", 16)


def blocks():
    """One block without and one with checkpointing, of equal weights."""
    made = [DGMN2Block(6, 2, checkpointing=given).double() for given in (False, True)]
    torch.nn.init.normal_(made[0].attn.conv_offset.weight, std=0.5)
    made[1].load_state_dict(made[0].state_dict())
    return made


def output_and_gradients(block, maps):
    out = block(maps)
    loss = sum(part.square().sum() for part in out)
    leaves = [maps] if isinstance(maps, torch.Tensor) else maps
    return [*out, *torch.autograd.grad(loss, [*leaves, *block.parameters()])]


@pytest.mark.parametrize("mixed", [True, False])
def test_values_and_gradients_are_the_same(mixed):
    maps = [torch.randn(6, *size, dtype=torch.float64, requires_grad=True) for size in SIZES]
    if not mixed:
        maps = torch.randn(5, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    plain, checkpointed = (output_and_gradients(block, maps) for block in blocks())
    torch.testing.assert_close(checkpointed, plain)


def test_only_the_input_is_kept():
    plain, checkpointed = blocks()
    x = torch.randn(5, 6, 3, 4, dtype=torch.float64, requires_grad=True)

    def kept(block):
        tensors = {}

        def pack(tensor):
            tensors[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            block(x)
        return sum(tensors.values())

    assert kept(checkpointed) <= x.nbytes
    assert kept(plain) > 10 * x.nbytes


def test_branches_are_dropped_alike_when_they_are_computed_again():
    _, block = blocks()
    block.drop_path.probability = 0.5
    x = torch.randn(5, 6, 3, 4, dtype=torch.float64, requires_grad=True)

    def run(x):
        torch.manual_seed(0)
        return block(x)

    assert not torch.equal(run(x), block.eval()(x))
    block.train()
    assert torch.autograd.gradcheck(run, x, fast_mode=True)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_all_maps_at_once_without_gradients(monkeypatch, context):
    plain, checkpointed = blocks()
    x = torch.randn(5, 6, 3, 4, dtype=torch.float64)
    want = plain(x)
    monkeypatch.delattr(checkpointing, "checkpoint")
    with context():
        assert torch.equal(checkpointed(x), want)
    with pytest.raises(NameError, match="checkpoint"):
        checkpointed(x)


def test_no_maps():
    x = torch.randn(0, 8, 3, 4, requires_grad=True)
    out = DGMN2Block(8, 2, checkpointing=True)(x)
    assert out.shape == (0, 8, 3, 4)
    out.sum().backward()

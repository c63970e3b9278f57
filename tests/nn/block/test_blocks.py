"""What all blocks on feature maps share."""

import copy

import dense_blocks
import pytest
import torch
from torch import nn

from dyngraph import to_graph
from dyngraph.nn import BottleneckRepGraphBlock, NonLocalBlock, RepGraphBlock
from dyngraph.nn.block import bottleneck_repgraph_block
from dyngraph.nn.block.feature_map_block import FeatureMapBlock

DENSE = {
    NonLocalBlock: dense_blocks.nonlocal_block,
    RepGraphBlock: dense_blocks.repgraph_block,
    BottleneckRepGraphBlock: dense_blocks.bottleneck_block,
}
BLOCKS = list(DENSE)
SAMPLED = [RepGraphBlock, BottleneckRepGraphBlock]
SHAPES = {1: (7,), 2: (5, 4), 3: (3, 4, 2)}


def trained(block):
    """The block with offsets that depend on the features and statistics as after training."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    if hasattr(block.conv, "sampler"):
        nn.init.normal_(block.conv.sampler.offset.weight, std=0.3)
        nn.init.uniform_(block.conv.sampler.offset.bias, -1.5, 1.5)
    return block


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fusion", ["sum", "concat"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("make", BLOCKS)
def test_a_block_equals_its_dense_form(make, num_axes, groups, fusion, training):
    axes = {} if make is NonLocalBlock else {"num_axes": num_axes}
    block = trained(make(8, 6, groups=groups, fusion=fusion, **axes)).double().train(training)
    x = torch.randn(2, 8, *SHAPES[num_axes], dtype=torch.float64)
    out = block(x)
    assert block.conv.groups == groups
    assert out.shape == (2, 8 if fusion == "sum" else 16, *SHAPES[num_axes])
    assert out.shape[1] == block.out_channels
    torch.testing.assert_close(out, DENSE[make](block, x))


@pytest.mark.parametrize("cell_size", [2, 3])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("make", SAMPLED)
def test_cells_that_share_their_samples(make, num_axes, cell_size):
    block = trained(make(4, 6, 5, cell_size=cell_size, num_axes=num_axes)).double().eval()
    sampler = block.conv.sampler
    assert (sampler.cell_size, sampler.num_samples) == (cell_size, 5)
    # Sizes that the cells don't divide.
    x = torch.randn(2, 4, *(5, 4, 7)[:num_axes], dtype=torch.float64)
    torch.testing.assert_close(block(x), DENSE[make](block, x))


@pytest.mark.parametrize("zero_init", [False, True])
def test_the_last_relu_of_the_bottleneck(zero_init):
    block = trained(BottleneckRepGraphBlock(4, zero_init=zero_init)).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    out = block(x)
    assert (out < 0).any() == zero_init
    torch.testing.assert_close(out, dense_blocks.bottleneck_block(block, x))


@pytest.mark.parametrize("make", BLOCKS)
def test_hidden_channels_default_to_a_quarter(make):
    assert make(32).conv.out_channels == 8
    assert make(32, 6).conv.out_channels == 6


@pytest.mark.parametrize("make", BLOCKS)
def test_the_same_weights_on_a_graph_and_on_its_edges(make):
    block = trained(make(8, 6, groups=2)).double().eval()
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    if make is BottleneckRepGraphBlock:
        x = dense_blocks.batch_norm(
            block.norm_reduce, dense_blocks.conv1x1(block.lin_reduce, x)
        ).relu()
    graph = to_graph(x)
    out = block.conv(graph.x, graph.grid)
    dense = dense_blocks.nonlocal_ if make is NonLocalBlock else dense_blocks.repgraph
    torch.testing.assert_close(graph.grid.unflatten(out), dense(block.conv, x))
    if make is NonLocalBlock:
        # The complete graph, given edge by edge.
        image = graph.batch
        edge_index = (image.unsqueeze(0) == image.unsqueeze(1)).nonzero().t()
        torch.testing.assert_close(block.conv(graph.x, edge_index), out)
    else:
        # All samples on nodes of the map, so that every sample is one edge.
        sampler = block.conv.sampler
        nn.init.zeros_(sampler.offset.weight)
        sampler.offset.bias.data = torch.tensor([0, 0, 0, 1.0] * 4 + [0, 0]).double()
        near = sampler(graph.x, graph.grid)
        edge_index, weight = near.edge_index()
        inside = graph.pos[:, 1] < 3
        kept = (weight == 1) & inside[edge_index[1]]
        given = block.conv(graph.x, edge_index[:, kept])
        torch.testing.assert_close(given[inside], block.conv(graph.x, graph.grid)[inside])


# --- identity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", BLOCKS)
def test_zero_init_is_the_identity_bit_for_bit(make, training):
    block = make(8, zero_init=True).train(training)
    x = torch.randn(2, 8, 4, 5)
    assert torch.equal(block(x), x)
    block.reset_parameters()
    assert torch.equal(block(x), x)
    both = make(8, fusion="concat", zero_init=True).train(training)(x)
    assert torch.equal(both, torch.cat([x, torch.zeros_like(x)], dim=1))


@pytest.mark.parametrize("make", BLOCKS)
def test_zero_init_learns(make):
    block = make(8, zero_init=True)
    if make is not NonLocalBlock:
        # On so small a map all samples may start outside.
        nn.init.uniform_(block.conv.sampler.offset.bias, -1.5, 1.5)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    x, target = torch.randn(2, 2, 8, 4, 5)

    def step():
        optimizer.zero_grad()
        (block(x) - target).square().sum().backward()
        optimizer.step()
        return {name for name, p in block.named_parameters() if p.grad.any()}

    last = "norm_expand" if make is BottleneckRepGraphBlock else "lin_out"
    assert step() == {f"{last}.weight", f"{last}.bias"}
    learning = step()
    if make is NonLocalBlock:
        # Adds the same to all scores of a node, to which softmax is blind.
        learning.add("conv.lin_key.bias")
    assert learning == {name for name, _ in block.named_parameters()}


# --- layouts of maps ----------------------------------------------------------------------------


@pytest.mark.parametrize("cell_size", [1, 2])
@pytest.mark.parametrize("make", BLOCKS)
def test_maps_of_different_sizes_equal_each_alone(make, cell_size):
    cells = {} if make is NonLocalBlock else {"cell_size": cell_size}
    block = trained(make(8, groups=2, **cells)).double().eval()
    sizes = [(3, 4), (2, 2), (2, 2), (1, 1), (5, 3)]
    maps = [torch.randn(8, *size, dtype=torch.float64) for size in sizes]
    out = block(maps)
    assert isinstance(out, list)
    for got, feature_map in zip(out, maps, strict=True):
        torch.testing.assert_close(got, block(feature_map.unsqueeze(0))[0])


@pytest.mark.parametrize("make", BLOCKS)
def test_the_layout_of_maps_stays(make):
    block = make(8)
    x = torch.randn(2, 8, 3, 4, requires_grad=True)
    last = block(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    out = block(x)
    assert out.is_contiguous()
    assert torch.autograd.grad(out.square().sum(), x)[0].is_contiguous()
    # Not to the bit: contiguous maps are multiplied as they are.
    torch.testing.assert_close(last, out)
    volume = torch.randn(2, 8, 2, 3, 4)
    block = make(8) if make is NonLocalBlock else make(8, num_axes=3)
    last = block(volume.to(memory_format=torch.channels_last_3d))
    assert last.is_contiguous(memory_format=torch.channels_last_3d)
    assert block(volume).is_contiguous()
    torch.testing.assert_close(last, block(volume))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("zero_init", [True, False])
@pytest.mark.parametrize("fusion", ["sum", "concat"])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_a_bottleneck_keeps_the_layout_of_contiguous_maps(num_axes, fusion, zero_init, training):
    options = {"num_axes": num_axes, "fusion": fusion, "zero_init": zero_init, "groups": 2}
    block = trained(BottleneckRepGraphBlock(8, **options)).double().train(training)
    maps = torch.randn(2, 8, *(5, 4, 3)[:num_axes], dtype=torch.float64, requires_grad=True)
    other = copy.deepcopy(block)
    out = block(maps)
    assert out.is_contiguous()
    nodes = maps.detach().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
    want = FeatureMapBlock.forward(other, nodes)
    for name, statistic in block.named_buffers():
        torch.testing.assert_close(other.get_buffer(name), statistic)
    torch.testing.assert_close(out, want)
    upstream = torch.randn_like(out)
    inputs = [maps, *block.parameters()], [nodes, *other.parameters()]
    for got, grad in zip(
        torch.autograd.grad(out, inputs[0], upstream),
        torch.autograd.grad(want, inputs[1], upstream),
        strict=True,
    ):
        torch.testing.assert_close(got, grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("zero_init", [True, False])
@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_a_bottleneck_computes_the_same_without_gradients(fusion, zero_init, training):
    options = {"fusion": fusion, "zero_init": zero_init, "groups": 2}
    block = trained(BottleneckRepGraphBlock(8, **options)).double().train(training)
    x = torch.randn(2, 8, 5, 4, dtype=torch.float64)
    given, want = x.clone(), block(x)
    with torch.no_grad():
        out = block(x)
        assert block.to("meta")(x.to("meta")).shape == out.shape
    assert out.is_contiguous()
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
    assert torch.equal(x, given)


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_transforms_and_autocast_see_a_bottleneck_without_gradients(fusion):
    block = trained(BottleneckRepGraphBlock(8, fusion=fusion)).eval()
    x = torch.randn(2, 8, 5, 4)
    with torch.no_grad():
        want = block(x)
        by_image = torch.func.vmap(block)(x.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(by_image, want)
        out, tangent = torch.func.jvp(block, (x,), (torch.ones_like(x),))
        torch.testing.assert_close(out, want)
        assert tangent.abs().sum() > 0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            # Eight bits; and positions move with what they are computed from.
            torch.testing.assert_close(block(x).float(), want, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("make", BLOCKS)
def test_maps_that_are_not_contiguous(make):
    block = make(8)
    x = torch.randn(6, 8, 9, 4)[::3, :, 1::2].transpose(2, 3)
    # Not to the bit: contiguous maps are multiplied as they are.
    torch.testing.assert_close(block(x), block(x.contiguous()))


@pytest.mark.parametrize("fusion", ["sum", "concat"])
@pytest.mark.parametrize("make", BLOCKS)
def test_no_maps(make, fusion):
    block = make(8, fusion=fusion).eval()
    x = torch.randn(0, 8, 3, 4, requires_grad=True)
    out = block(x)
    assert out.shape == (0, block.out_channels, 3, 4)
    out.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("make", BLOCKS)
def test_maps_of_one_node(make):
    block = trained(make(8)).double().eval()
    x = torch.randn(3, 8, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(block(x), DENSE[make](block, x))


# --- precision and gradients --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", BLOCKS)
def test_autocast(make, dtype):
    block = make(8, groups=2).eval()
    x = torch.randn(2, 8, 4, 5, requires_grad=True)
    full = block(x)
    (full_grad,) = torch.autograd.grad(full.sum(), x)
    with torch.autocast("cpu", dtype=dtype):
        half = block(x)
    (half_grad,) = torch.autograd.grad(half.sum(), x)
    assert half_grad.dtype == torch.float32
    # Three roundings in a row, each to half an ulp of values up to 4.
    atol = 6 * torch.finfo(dtype).eps
    torch.testing.assert_close(half.float(), full, atol=atol, rtol=0)
    torch.testing.assert_close(half_grad, full_grad, atol=2 * atol, rtol=0)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", BLOCKS)
def test_gradcheck(make, training):
    samples = {} if make is NonLocalBlock else {"num_samples": 2}
    block = trained(make(3, 2, groups=2, **samples)).double().train(training)
    if samples:
        # Samples that move with the features, but stay away from integers.
        with torch.no_grad():
            block.conv.sampler.offset.weight.uniform_(-0.02, 0.02)
            block.conv.sampler.offset.bias.copy_(torch.tensor([0.4, -0.6, 0.5, 0.3]))
    names, parameters = zip(*block.named_parameters(), strict=True)
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)

    def output(x, *parameters):
        # Running statistics are buffers: each call gets copies.
        buffers = {name: buffer.clone() for name, buffer in block.named_buffers()}
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(block, {**given, **buffers}, (x,))

    assert torch.autograd.gradcheck(output, (x, *parameters))


# --- compilers and exporters --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("make", BLOCKS)
def test_compile(make):
    torch._dynamo.reset()
    block = trained(make(8, groups=2)).double()
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


@pytest.mark.parametrize("make", BLOCKS)
def test_export(make):
    block = trained(make(8, groups=2)).eval()
    x = torch.randn(2, 8, 3, 4)
    exported = torch.export.export(block, (x,)).module()
    assert torch.equal(exported(x), block(x))


@pytest.mark.parametrize("make", BLOCKS)
def test_export_with_any_size(make):
    block = trained(make(8, groups=2)).eval()
    dim = torch.export.Dim
    shape = {2: dim("height", min=2), 3: dim("width", min=2)}
    exported = torch.export.export(
        block, (torch.randn(2, 8, 3, 4),), dynamic_shapes=(shape,)
    ).module()
    for size in ((2, 8, 3, 4), (2, 8, 4, 3), (2, 8, 9, 2)):
        x = torch.randn(size)
        assert torch.equal(exported(x), block(x))


# --- state --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", BLOCKS)
def test_state_dict_and_copies(make):
    block, other = trained(make(8, groups=2)).eval(), make(8, groups=2).eval()
    x = torch.randn(2, 8, 3, 4)
    want = block(x)
    copied = copy.deepcopy(block)
    assert torch.equal(copied(x), want)
    assert not torch.equal(other(x), want)
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(x), want)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(block(x), want), "a copy shares no weights"


@pytest.mark.parametrize("make", BLOCKS)
def test_reset_parameters(make):
    block = trained(make(8, groups=2))
    before = copy.deepcopy(block.state_dict())
    block.reset_parameters()
    fresh = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for name, tensor in block.state_dict().items():
        module, kind = name.rsplit(".", 1)
        if isinstance(block.get_submodule(module), nn.BatchNorm1d) and kind in fresh:
            assert (tensor == fresh[kind]).all(), name
        elif name == "conv.sampler.offset.weight":
            assert not tensor.any()
        elif kind != "num_batches_tracked":
            assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("make", BLOCKS)
def test_repr(make):
    first = repr(make(8, fusion="concat")).splitlines()
    assert first[0] == f"{make.__name__}("
    assert first[1] == "  8, 16"


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", BLOCKS)
def test_constructor_errors_name_the_argument(make):
    with pytest.raises(ValueError, match=r"^fusion: expected one of .* got 'add'"):
        make(8, fusion="add")
    with pytest.raises(ValueError, match=r"^groups: expected a divisor of 2 channels, got 3"):
        make(8, groups=3)
    if make is not NonLocalBlock:
        for name, value in (("num_samples", 0), ("cell_size", 0), ("num_axes", 4)):
            with pytest.raises(ValueError, match=f"^{name}: expected .* got {value}"):
                make(8, **{name: value})


@pytest.mark.parametrize("make", BLOCKS)
@pytest.mark.parametrize(
    ("maps", "error"),
    [
        (torch.ones(2, 7, 3, 3), ValueError),
        (torch.ones(8, 3, 3), ValueError),
        (torch.ones(8, 3), ValueError),
        ([torch.ones(8, 3, 3), torch.ones(7, 3, 3)], ValueError),
        ([], ValueError),
        (None, TypeError),
    ],
)
def test_maps_that_do_not_fit(make, maps, error):
    with pytest.raises(error, match=r"^maps: expected"):
        make(8).eval()(maps)


@pytest.mark.parametrize("make", SAMPLED)
def test_another_number_of_axes(make):
    with pytest.raises(ValueError, match=r"^grid: expected 2 spatial axes, got 3"):
        make(8)(torch.ones(1, 8, 2, 2, 2))
    with pytest.raises(ValueError, match=r"^backend: expected one of"):
        make(8, backend="fast")(torch.ones(1, 8, 2, 2))


@pytest.mark.parametrize("make", [RepGraphBlock, BottleneckRepGraphBlock])
def test_initial_offsets_reach_as_far_as_the_spread(make):
    block = make(8, num_samples=50, spread=3.0)
    reach = block.conv.sampler.offset.bias.abs().max()
    assert 2 < reach <= 3


def test_evaluation_takes_one_map_for_map_and_normalisation():
    block = trained(BottleneckRepGraphBlock(8)).eval()
    x = torch.randn(12, 8)
    expected = block.norm_reduce(block.lin_reduce(x))
    folded = bottleneck_repgraph_block._linear_norm(x, block.lin_reduce, block.norm_reduce)
    torch.testing.assert_close(folded, expected)
    block.norm_reduce = nn.GroupNorm(2, 2).eval()
    kept = bottleneck_repgraph_block._linear_norm(x, block.lin_reduce, block.norm_reduce)
    assert torch.equal(kept, block.norm_reduce(block.lin_reduce(x)))


@pytest.mark.parametrize("make", BLOCKS)
@pytest.mark.parametrize("training", [True, False])
def test_maps_are_left_as_they_were(make, training):
    block = trained(make(8, groups=2)).train(training)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 8, 3, 4).contiguous(memory_format=memory_format)
        before = x.clone()
        block(x)
        assert torch.equal(x, before)

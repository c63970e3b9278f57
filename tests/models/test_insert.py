import copy
import pickle
from functools import partial

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import nn
from torch.utils.hooks import RemovableHandle

from dyngraph.models import (
    SmallTrunk,
    insert,
    inserted_parameters,
    insertions,
    remove_insertions,
    segmenter,
)
from dyngraph.nn import BottleneckRepGraphBlock, DGMNBlock, NonLocalBlock, RepGraphBlock

IDENTITIES = {
    "bottleneck_repgraph": partial(BottleneckRepGraphBlock, hidden_channels=8, zero_init=True),
    "repgraph": partial(RepGraphBlock, hidden_channels=8, zero_init=True),
    "nonlocal": partial(NonLocalBlock, hidden_channels=8, zero_init=True),
    "dgmn": partial(DGMNBlock, rates=(1,), groups=1, fusion="sum"),
}
identity = IDENTITIES["bottleneck_repgraph"]
other = partial(RepGraphBlock, hidden_channels=8, num_samples=4, spread=1.0)


def segmenter18():
    return segmenter("resnet18", num_classes=3, head_channels=16, aux_loss=True)


def features18():
    return timm.create_model("resnet18", features_only=True)


# A model, a module of it to insert before, a container to insert after, and their channels.
MODELS = {
    "resnet18": (torchvision.models.resnet18, "layer3.1", 256, "layer2", 128),
    "segmenter": (segmenter18, "backbone.layer3.1", 256, "classifier.0", 16),
    "small": (lambda: SmallTrunk(8), "2", 8, "4", 8),
    "timm": (partial(timm.create_model, "resnet18"), "layer3.1", 256, "layer2", 128),
    "timm features": (features18, "layer3.1", 256, "layer2", 128),
    "timm convnext": (
        partial(timm.create_model, "convnext_atto"), "stages.2.blocks.1", 160, "stages.1", 80,
    ),
    "smp unet": (
        partial(smp.Unet, "resnet18", encoder_weights=None), "encoder.layer3.1", 256,
        "decoder.blocks.0.conv1", 256,
    ),
    "smp deeplab": (
        partial(smp.DeepLabV3Plus, "resnet18", encoder_weights=None), "encoder.layer4.1", 512,
        "decoder.aspp", 256,
    ),
}  # fmt: skip
everywhere = pytest.mark.parametrize("name", MODELS)


def inserted(name, make=identity):
    """A model with a block before a module and one after a container, and their names."""
    build, before, _, after, _ = MODELS[name]
    model = build()
    insert(model, before=before, make=make)
    insert(model, after=after, make=make)
    return model


def image(batch=2, dtype=torch.float32):
    return torch.randn(batch, 3, 64, 64, dtype=dtype)


def tensors(output):
    if isinstance(output, dict):
        output = list(output.values())
    return list(output) if isinstance(output, (list, tuple)) else [output]


def results(model, x):
    """Outputs, gradients by name, and the state after the run."""
    torch.manual_seed(1)
    outputs = tensors(model(x))
    model.zero_grad()
    sum(out.square().mean() for out in outputs).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return outputs, gradients, {**model.state_dict()}


def assert_same(got, want):
    for a, b in zip(got[0], want[0], strict=True):
        assert torch.equal(a, b)
    for part in (1, 2):
        for key, value in want[part].items():
            same = got[part][key] is value or torch.equal(got[part][key], value)
            assert same, key


@everywhere
@pytest.mark.parametrize("training", [True, False])
def test_blocks_that_are_the_identity_change_nothing(name, training):
    build, before, _, after, _ = MODELS[name]
    model = build().train(training)
    plain = copy.deepcopy(model)
    insert(insert(model, before=before, make=identity), after=after, make=identity)
    x = image()
    assert_same(results(model, x), results(plain, x))
    assert all(p.grad is not None for p in inserted_parameters(model))


@pytest.mark.parametrize("context", IDENTITIES)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_every_block_can_be_the_identity(context, order):
    model = torchvision.models.resnet18().to(memory_format=order)
    plain = copy.deepcopy(model)
    # Before and after modules that work in place, and such that sum gradients over nodes.
    insert(model, before="layer4.*.relu", make=IDENTITIES[context])
    insert(model, after="layer4.*.bn1", make=IDENTITIES[context])
    x = image().to(memory_format=order)
    assert_same(results(model, x), results(plain, x))


@everywhere
def test_channels_are_found(name):
    build, before, channels_before, after, channels_after = MODELS[name]
    found = []

    def make(channels):
        found.append(channels)
        return nn.Identity()

    model = build()
    assert insert(model, before=before, make=make) is model
    insert(model, after=after, make=make)
    assert found == [channels_before, channels_after]


@everywhere
def test_checkpoints_of_either_load_into_the_other(name):
    plain, model = MODELS[name][0](), inserted(name, other)
    new = [
        key
        for key in model.state_dict()
        if key.startswith(tuple(f"{n}." for n in insertions(model)))
    ]
    assert new
    assert [key for key in model.state_dict() if key not in new] == list(plain.state_dict())
    report = model.load_state_dict(plain.state_dict(), strict=False)
    assert (report.missing_keys, report.unexpected_keys) == (new, [])
    report = plain.load_state_dict(model.state_dict(), strict=False)
    assert (report.missing_keys, report.unexpected_keys) == ([], new)
    again = inserted(name, other)
    again.load_state_dict(model.state_dict())
    x = image()
    for got, want in zip(tensors(again.eval()(x)), tensors(model.eval()(x)), strict=True):
        assert torch.equal(got, want)


@everywhere
def test_removal_restores_the_model(name):
    build, before, _, after, _ = MODELS[name]
    model = build()
    plain = copy.deepcopy(model)
    insert(insert(model, before=before, make=other), after=after, make=other)
    x = image()
    assert not torch.equal(tensors(model.eval()(x))[-1], tensors(plain.eval()(x))[-1])
    assert remove_insertions(model) is model
    assert repr(model) == repr(plain)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_modules()] == [n for n, _ in plain.named_modules()]
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert insertions(model) == {}
    assert inserted_parameters(model) == []
    assert_same(results(model.train(), x), results(plain.train(), x))


@pytest.mark.slow
@everywhere
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_blocks_of_their_own(name, duplicate):
    model = inserted(name, other).eval()
    copied = duplicate(model)
    x = image()
    want = tensors(model(x))
    with torch.no_grad():
        for parameter in inserted_parameters(model):
            parameter.add_(1)
    assert not torch.equal(tensors(model(x))[-1], want[-1])
    for got, expected in zip(tensors(copied(x)), want, strict=True):
        assert torch.equal(got, expected)
    assert list(insertions(copied)) == list(insertions(model))
    remove_insertions(copied)
    assert len(insertions(model)) == 2


def test_a_pickled_model_keeps_its_blocks_beside_new_hooks(monkeypatch):
    data = pickle.dumps(inserted("small", other))
    # As in the process that loads it: PyTorch numbers hooks from 0.
    monkeypatch.setattr(RemovableHandle, "next_id", 0)
    model = pickle.loads(data)
    ran = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, args: None)
        module.register_forward_hook(lambda module, args, output: ran.append(module))
    model(image())
    blocks = insertions(model)
    assert len(blocks) == 2
    assert set(blocks.values()) <= set(ran)


@pytest.mark.slow
@everywhere
def test_compile_without_breaks(name):
    torch._dynamo.reset()
    model = inserted(name, other).double().eval()
    # The other gradients would be most of what is compiled.
    model.requires_grad_(False)
    nn.ParameterList(inserted_parameters(model)).requires_grad_(True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = image(dtype=torch.float64)
    everything = []
    for function in (model, compiled):
        outputs = tensors(function(x))
        loss = sum(out.square().mean() for out in outputs)
        everything.append((outputs, torch.autograd.grad(loss, inserted_parameters(model))))
    torch.testing.assert_close(everything[1], everything[0])


@pytest.mark.slow
def test_compiled_models_notice():
    model = SmallTrunk(4).eval()
    compiled = torch.compile(model, backend="eager")
    x = image()
    without = compiled(x)
    insert(model, before="2", make=other)
    assert torch.equal(compiled(x), model(x))
    assert not torch.equal(compiled(x), without)
    remove_insertions(model)
    assert torch.equal(compiled(x), without)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strict"), [*((name, False) for name in MODELS), ("small", True)])
def test_export(name, strict):
    model = inserted(name, other).eval()
    x = image()
    exported = torch.export.export(model, (x,), strict=strict)
    assert set(exported.state_dict) == set(model.state_dict())
    for got, want in zip(tensors(exported.module()(x)), tensors(model(x)), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("target", ["layer3.1", "layer3", "layer3.1.conv2"])
def test_equals_the_pieces_by_hand(side, target):
    model = torchvision.models.resnet18().double().eval()
    plain = copy.deepcopy(model)
    insert(model, **{side: target}, make=other)
    (block,) = insertions(model).values()
    by_hand = copy.deepcopy(block)
    module = plain.get_submodule(target)
    pair = nn.Sequential(by_hand, module) if side == "before" else nn.Sequential(module, by_hand)
    plain.set_submodule(target, pair)
    x = image(dtype=torch.float64)
    got, want = model(x), plain(x)
    torch.testing.assert_close(got, want)
    got.square().sum().backward()
    want.square().sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    assert block.lin_out.weight.grad.any()
    pairs = [*zip(block.parameters(), by_hand.parameters(), strict=True)]
    for a, b in [*pairs, (model.conv1.weight, plain.conv1.weight)]:
        torch.testing.assert_close(a.grad, b.grad)


def test_both_sides_and_containers_in_containers():
    model = nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.ReLU()))
    log = []

    class Log(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            log.append(self.name)
            return x

    places = [(side, name) for name in ("0", "0.0", "0.0.0") for side in ("before", "after")]
    for side, name in places:
        insert(model, **{side: name}, make=lambda _, place=(side, name): Log(place))
    log.clear()
    model(torch.randn(1, 3, 5, 5))
    names = ("0", "0.0", "0.0.0")
    assert log == [("before", n) for n in names] + [("after", n) for n in reversed(names)]
    assert {name: block.name for name, block in insertions(model).items()} == {
        "0.0.0.dyngraph_before_parent_parent": ("before", "0"),
        "0.0.0.dyngraph_after_parent_parent": ("after", "0"),
        "0.0.0.dyngraph_before_parent": ("before", "0.0"),
        "0.0.0.dyngraph_after_parent": ("after", "0.0"),
        "0.0.0.dyngraph_before": ("before", "0.0.0"),
        "0.0.0.dyngraph_after": ("after", "0.0.0"),
    }
    assert [len(model), len(model[0]), len(model[0][0])] == [1, 2, 1]


def test_parts_of_the_model_have_their_blocks():
    model = inserted("segmenter", other).eval()
    trunk = segmenter18().backbone
    insert(trunk, before="layer3.1", make=other)
    state = model.backbone.state_dict()
    assert set(state) == set(trunk.state_dict())
    trunk.load_state_dict(state)
    x = image()
    assert torch.equal(model.backbone(x)["out"], trunk.eval()(x)["out"])


def test_a_shared_activation_hosts_the_blocks_of_both_containers():
    relu = nn.ReLU()
    model = nn.Sequential(
        nn.Sequential(relu, nn.Conv2d(3, 4, 1)), nn.Sequential(relu, nn.Conv2d(4, 5, 1))
    )
    insert(model, before="*", make=lambda channels: nn.Conv2d(channels, channels, 1))
    assert [block.in_channels for block in insertions(model).values()] == [3, 4]
    assert model(torch.randn(2, 3, 4, 4)).shape == (2, 5, 4, 4)


def test_the_place_of_repgraph():
    with torch.device("meta"):
        model = torchvision.models.resnet50()
        insert(model, before="layer3.5", make=partial(BottleneckRepGraphBlock, zero_init=True))
    (item,) = insertions(model).items()
    assert item[0] == "layer3.5.dyngraph_before"
    assert (item[1].in_channels, item[1].conv.in_channels) == (1024, 256)
    assert model(torch.empty(2, 3, 65, 65, device="meta")).shape == (2, 1000)


def test_the_places_of_dgmn():
    model = torchvision.models.resnet50().eval()
    make = partial(DGMNBlock, rates=(1, 6), fusion="sum")
    insert(model, before="layer4.*.conv3", make=make)
    assert list(insertions(model)) == [f"layer4.{i}.conv3.dyngraph_before" for i in range(3)]
    assert all(block.in_channels == 512 for block in insertions(model).values())

    got, want = [], []
    model.layer4[1].conv3.dyngraph_before.register_forward_pre_hook(lambda _, x: got.extend(x))
    model.layer4[1].bn2.register_forward_hook(lambda *args: want.append(args[-1].relu()))
    with torch.no_grad():
        assert model(image(1)).shape == (1, 1000)
    assert torch.equal(got[0], want[0])


def test_stars_match_one_component_in_order():
    def names(pattern):
        model = insert(torchvision.models.resnet18(), before=pattern, make=nn.BatchNorm2d)
        return [name.removesuffix(".dyngraph_before") for name in insertions(model)]

    assert names("layer*.1.conv2") == [f"layer{i}.1.conv2" for i in (1, 2, 3, 4)]
    assert names("*.0.conv1") == [f"layer{i}.0.conv1" for i in (1, 2, 3, 4)]
    assert names("conv*") == ["conv1"]
    # Not the blocks that are there already.
    model = insert(torchvision.models.resnet18(), before="layer4.1", make=nn.BatchNorm2d)
    insert(model, after="layer4.1.*n*", make=nn.BatchNorm2d)
    assert len(insertions(model)) == 5


def test_parameters_for_an_optimiser():
    model = inserted("resnet18", other)
    new = inserted_parameters(model)
    assert len(new) == sum(len([*block.parameters()]) for block in insertions(model).values())
    plain = {id(p) for p in torchvision.models.resnet18().parameters()}
    assert plain.isdisjoint({id(p) for p in new})
    named = {id(p): name for name, p in model.named_parameters()}
    assert all("dyngraph_" in named[id(p)] for p in new)
    # A block in two places, once.
    shared = nn.BatchNorm2d(512)
    model = insert(torchvision.models.resnet18(), after="layer4.*", make=lambda _: shared)
    assert len(insertions(model)) == 2
    assert len(inserted_parameters(model)) == 2


def test_examples():
    model = nn.Sequential(nn.Conv1d(2, 6, 3), nn.Conv1d(6, 4, 1))
    insert(model, before="1", make=nn.BatchNorm1d, example=torch.randn(1, 2, 9))
    assert insertions(model)["1.dyngraph_before"].num_features == 6

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 1)

        def forward(self, x, y):
            return self.conv(torch.cat([x, y], dim=1))

    example = (torch.randn(1, 1, 4, 4), torch.randn(1, 2, 4, 4))
    model = insert(Two(), after="conv", make=nn.BatchNorm2d, example=example)
    assert insertions(model)["conv.dyngraph_after"].num_features == 5
    model = insert(Two(), after="conv", make=nn.BatchNorm2d, channels=5)
    assert model(*example).shape == (1, 5, 4, 4)


def test_finding_channels_leaves_no_trace():
    model = torchvision.models.resnet18()
    model.layer2.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    insert(model, before="layer*.1", make=lambda channels: nn.Identity())
    assert torch.equal(torch.get_rng_state(), random)
    blocks = insertions(model)
    assert {n: m.training for n, m in model.named_modules() if n not in blocks} == modes
    assert [block.training for block in blocks.values()] == [True, False, True, True]
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(len(module._forward_pre_hooks) <= 1 for module in model.modules())


def test_blocks_have_the_dtype_of_the_model():
    model = insert(torchvision.models.resnet18().double(), before="layer3.1", make=other)
    assert {p.dtype for p in inserted_parameters(model)} == {torch.float64}
    model.half()
    assert {p.dtype for p in inserted_parameters(model)} == {torch.float16}


@pytest.fixture
def process_group(tmp_path):
    method = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=method, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrapper", [nn.DataParallel, nn.parallel.DistributedDataParallel])
def test_wrap_after_inserting_and_not_before(wrapper):
    message = f"^model: expected one that is not wrapped yet, got {wrapper.__name__}"
    with pytest.raises(TypeError, match=message):
        insert(wrapper(SmallTrunk(4)), before="module.2", make=nn.BatchNorm2d)
    model = inserted("small", other)
    wrapper(model)(image()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_errors_name_the_argument():
    def refuse(message, **kwargs):
        model = kwargs.pop("model", torchvision.models.resnet18())
        names = [name for name, _ in model.named_modules()]
        with pytest.raises(ValueError, match=message):
            insert(model, **{"make": nn.BatchNorm2d, **kwargs})
        assert [name for name, _ in model.named_modules()] == names
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    refuse(r"^before, after: expected one of them, got None and None$")
    refuse(r"^before, after: .* got 'fc' and 'layer1'$", before="fc", after="layer1")
    refuse(r"^before: expected the name of a module, got 'layer5', which none has", before="layer5")
    refuse(r"^after: .* got 'layer4.\*.conv3'", after="layer4.*.conv3")
    refuse(r"^after: .* got ''", after="")
    refuse(r"^before: expected 'fc' to get one feature map .*, got \[1, 512\]$", before="fc")
    refuse(r"^after: expected 'fc' to return one feature map .*, got \[1, 1000\]$", after="fc")
    relu = nn.ReLU()
    mixed = nn.Sequential(nn.Conv2d(3, 6, 1), relu, nn.Conv2d(6, 4, 1), relu)
    refuse(r"^after: expected '1' to return one .*, got \[4, 6\] channels$", after="1", model=mixed)
    model = segmenter18()
    refuse(r"^after: expected 'backbone' .*, got dict$", after="backbone", model=model)
    unet = smp.Unet("resnet18", encoder_weights=None)
    refuse(r"^before: .*blocks.0' .*, got tuple$", before="decoder.blocks.0", model=unet)
    refuse(r"^before: .*blocks' .*, got none: it does not run", before="decoder.blocks", model=unet)
    empty = nn.Sequential(nn.Sequential())
    refuse(
        r"^before: expected a module with layers, got '0', which has none",
        before="0",
        model=empty,
    )


@pytest.mark.parametrize("side", ["before", "after"])
def test_one_block_at_each_place(side):
    model = insert(SmallTrunk(4), **{side: "2"}, make=nn.BatchNorm2d)
    with pytest.raises(ValueError, match=f"^{side}: '2' already has a block {side} it"):
        insert(model, **{side: "2"}, make=nn.BatchNorm2d)
    with pytest.raises(ValueError, match=f"^{side}: '2' already has"):
        insert(model, **{side: "*"}, make=nn.BatchNorm2d)
    assert len(insertions(model)) == 1


def test_a_block_that_cannot_be_made_leaves_the_model_as_it_was():
    model = torchvision.models.resnet18()
    plain = repr(model)

    def make(channels):
        if channels > 128:
            raise RuntimeError("too many")
        return nn.BatchNorm2d(channels)

    with pytest.raises(RuntimeError, match="too many"):
        insert(model, after="layer*", make=make)
    with pytest.raises(TypeError, match=r"^make: expected a function that .* module, got None"):
        insert(model, after="layer*", make=lambda channels: None)
    assert repr(model) == plain
    assert insertions(model) == {}

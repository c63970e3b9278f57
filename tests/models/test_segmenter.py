import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyngraph.models import (
    ASPPHead,
    DANetHead,
    DilatedResNet,
    NonLocalHead,
    Segmenter,
    SmallTrunk,
    insertions,
    segmenter,
)
from dyngraph.models.segmenter import CONTEXTS
from dyngraph.nn import (
    BottleneckRepGraphBlock,
    CrissCrossBlock,
    DGMNBlock,
    GlobalContextBlock,
    NonLocalBlock,
    RepGraphBlock,
)

BLOCKS = {
    None: nn.Identity,
    "nonlocal": NonLocalBlock,
    "repgraph": RepGraphBlock,
    "bottleneck_repgraph": BottleneckRepGraphBlock,
    "dgmn": DGMNBlock,
    "aspp": ASPPHead,
    "gcnet": GlobalContextBlock,
    "ccnet": CrissCrossBlock,
    "danet": DANetHead,
    "conv": nn.Sequential,
}


class Pyramid(nn.Module):
    """Two feature maps of 5 and 7 channels, in any of the forms a backbone may return them."""

    def __init__(self, form):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.BatchNorm2d(5))
        self.second = nn.Sequential(nn.Conv2d(5, 7, 3, 2, 1), nn.BatchNorm2d(7))
        self.form = form

    def forward(self, image):
        aux = self.first(image)
        out = self.second(aux)
        return {
            "tensor": out,
            "list": [image, aux, out],
            "tuple": (aux, out),
            "dict": {"aux": aux, "out": out},
        }[self.form]


def small(context, **kwargs):
    return segmenter(SmallTrunk(8), context, num_classes=5, head_channels=16, **kwargs)


def test_the_contexts():
    assert {None, *CONTEXTS} == set(BLOCKS)


@pytest.mark.parametrize("context", BLOCKS)
def test_scores_have_the_size_of_the_image(context):
    model = segmenter("small_trunk", context, num_classes=5, head_channels=32)
    assert isinstance(model.backbone, SmallTrunk)
    assert isinstance(model.classifier[1], BLOCKS[context])
    scores = model(torch.randn(2, 3, 37, 51))
    assert {name: score.shape for name, score in scores.items()} == {"out": (2, 5, 37, 51)}


@pytest.mark.parametrize("context", BLOCKS)
def test_all_parameters_of_resnet18_learn(context):
    model = segmenter("resnet18", context, head_channels=32, aux_loss=True)
    assert isinstance(model.backbone, DilatedResNet)
    # What starts at zero, scales and last layers, leaves what is before it without a gradient.
    for parameter in model.classifier[1].parameters():
        if not parameter.any():
            nn.init.normal_(parameter)
    scores = model(torch.randn(2, 3, 65, 49))
    assert {name: score.shape for name, score in scores.items()} == {
        "out": (2, 19, 65, 49),
        "aux": (2, 19, 65, 49),
    }
    sum(score.square().mean() for score in scores.values()).backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # Samples that start outside so small a map learn nothing yet.
    assert not {name for name in still if ".conv.sampler." not in name}


def test_the_defaults_are_those_of_cityscapes():
    with torch.device("meta"):
        model = segmenter("resnet50", "bottleneck_repgraph", aux_loss=True)
        assert model.classifier[0][0].weight.shape == (512, 2048, 3, 3)
        assert model.classifier[1].conv.in_channels == 128
        assert model.classifier[2].weight.shape == (19, 512, 1, 1)
        assert model.aux_classifier[0][0].weight.shape == (256, 1024, 3, 3)
        assert segmenter("resnet101").aux_classifier is None


def test_the_parts_in_order():
    model = small("repgraph").eval()
    image = torch.randn(2, 3, 19, 30)
    scores = model.classifier(model.backbone(image))
    assert scores.shape == (2, 5, 5, 8)
    want = F.interpolate(scores, (19, 30), mode="bilinear")
    assert torch.equal(model(image)["out"], want)


@pytest.mark.parametrize("form", ["list", "tuple", "dict"])
def test_backbones_with_two_maps(form):
    backbone = Pyramid(form)
    model = segmenter(backbone, "nonlocal", num_classes=5, head_channels=8, aux_loss=True).eval()
    assert model.backbone is backbone
    assert model.classifier[0][0].in_channels == 7
    assert model.aux_classifier[0][0].in_channels == 5
    image = torch.randn(1, 3, 12, 16)
    aux = backbone.first(image)
    scores = model(image)
    for name, head, feature in (
        ("out", model.classifier, backbone.second(aux)),
        ("aux", model.aux_classifier, aux),
    ):
        assert torch.equal(scores[name], F.interpolate(head(feature), (12, 16), mode="bilinear"))
    assert set(segmenter(backbone, head_channels=8)(torch.randn(2, 3, 12, 16))) == {"out"}


def test_backbones_with_one_map():
    model = segmenter(Pyramid("tensor"), num_classes=5, head_channels=8)
    assert model(torch.randn(2, 3, 12, 16))["out"].shape == (2, 5, 12, 16)
    with pytest.raises(ValueError, match=r"^aux_loss: expected a backbone with two feature maps"):
        segmenter(Pyramid("tensor"), aux_loss=True)
    with pytest.raises(ValueError, match=r"^aux_loss: "):
        segmenter("small_trunk", aux_loss=True)


def test_any_function_can_make_the_context():
    model = small(lambda channels: RepGraphBlock(channels, 6, groups=3, fusion="concat"))
    assert model.classifier[1].conv.groups == 3
    assert model.classifier[2].in_channels == 32
    assert model(torch.randn(2, 3, 17, 20))["out"].shape == (2, 5, 17, 20)
    # A module without out_channels keeps them.
    model = small(lambda channels: nn.Conv2d(channels, 7, 1))
    assert model.classifier[2].in_channels == 7
    assert small(nn.BatchNorm2d).classifier[2].in_channels == 16
    assert type(small(NonLocalHead).classifier[1]) is NonLocalHead
    # One with another number of channels says so.
    assert small("aspp").classifier[2].in_channels == 256


def test_building_leaves_the_backbone_as_it_was():
    backbone = Pyramid("dict")
    backbone.first.eval()
    modes = {name: module.training for name, module in backbone.named_modules()}
    state = copy.deepcopy(backbone.state_dict())
    segmenter(backbone, head_channels=8)
    assert {name: module.training for name, module in backbone.named_modules()} == modes
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_backbone_that_fails_is_left_as_it_was():
    class Failing(nn.Module):
        def forward(self, image):
            raise RuntimeError("no features")

    backbone = Failing()
    with pytest.raises(RuntimeError, match="no features"):
        segmenter(backbone)
    assert backbone.training


def test_double_backbones():
    backbone = SmallTrunk(4).double()
    assert segmenter(backbone, head_channels=8).backbone is backbone


def test_state_dict_and_copies():
    model, other = small("repgraph").eval(), small("repgraph").eval()
    image = torch.randn(1, 3, 17, 20)
    want = model(image)["out"]
    assert not torch.equal(other(image)["out"], want)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(image)["out"], want)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(image)["out"], want)


@pytest.mark.slow
@pytest.mark.parametrize("context", BLOCKS)
def test_compile_without_breaks(context):
    torch._dynamo.reset()
    model = small(context).double()
    # The whole graph, and its gradients, run as they were traced: the kernels are tested elsewhere.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    image = torch.randn(2, 3, 17, 20, dtype=torch.float64)
    results = []
    for function in (model, compiled):
        out = function(image)["out"]
        results.append((out, torch.autograd.grad(out.square().sum(), [*model.parameters()])))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.slow
@pytest.mark.parametrize("context", BLOCKS)
def test_export(context):
    model = small(context).eval()
    image = torch.randn(2, 3, 17, 20)
    exported = torch.export.export(model, (image,)).module()
    assert torch.equal(exported(image)["out"], model(image)["out"])


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"^backbone: expected one of .*'small_trunk'.* got 'vgg'"):
        segmenter("vgg")
    with pytest.raises(
        ValueError, match=r"^context: expected None or one of \('none', .* got 'gcn'"
    ):
        segmenter("small_trunk", "gcn")
    for backbone in ("small_trunk", SmallTrunk(4)):
        with pytest.raises(
            ValueError, match=r"^weights_backbone: only ResNets, DGMN2 and .* got 'DEFAULT'"
        ):
            segmenter(backbone, weights_backbone="DEFAULT")
    for backbone in ("small_trunk", "dgmn2_tiny"):
        for channels in (0, -1):
            message = rf"^head_channels: expected at least 1, got {channels}$"
            with pytest.raises(ValueError, match=message):
                segmenter(backbone, head_channels=channels)
        with pytest.raises(ValueError, match=r"^num_classes: expected at least 1, got 0$"):
            segmenter(backbone, num_classes=0)


def test_segmenters_by_hand():
    model = Segmenter(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    assert model(torch.randn(1, 3, 5, 6))["out"].shape == (1, 2, 5, 6)


@pytest.mark.parametrize("context", ["repgraph", "bottleneck_repgraph", "dgmn"])
def test_synchronised_batch_normalisation(context):
    """One process gets what plain batch normalisation gives; only GPUs can have several."""
    torch.manual_seed(0)
    model = segmenter("small_trunk", context, head_channels=8)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules())
    image = torch.randn(2, 3, 32, 48)
    for training in (True, False):
        expected = model.train(training)(image)["out"]
        assert torch.equal(converted.train(training)(image)["out"], expected)


def test_blocks_inside_the_backbone():
    model = segmenter(
        "resnet18",
        insert_before={"layer2.1": RepGraphBlock, "layer3.1": RepGraphBlock},
        num_classes=3,
        head_channels=8,
    )
    blocks = insertions(model.backbone)
    assert set(blocks) == {"layer2.1.dyngraph_before", "layer3.1.dyngraph_before"}
    assert [block.in_channels for block in blocks.values()] == [128, 256]
    assert model(torch.randn(2, 3, 64, 64))["out"].shape == (2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"^before: .*layer9"):
        segmenter("resnet18", insert_before={"layer9": RepGraphBlock})


def test_the_five_layers_of_repgraphs_table_1d():
    """One in res3, two in res4 and two in res5: before the last but one and the last block."""
    places = ["layer2.3", "layer3.4", "layer3.5", "layer4.1", "layer4.2"]
    make = partial(BottleneckRepGraphBlock, zero_init=True)
    torch.manual_seed(0)
    plain = segmenter("resnet50", num_classes=3, head_channels=8).eval()
    torch.manual_seed(0)
    model = segmenter(
        "resnet50", num_classes=3, head_channels=8, insert_before=dict.fromkeys(places, make)
    ).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    blocks = insertions(model.backbone)
    assert [*blocks] == [f"{place}.dyngraph_before" for place in places]
    assert [block.in_channels for block in blocks.values()] == [512, 1024, 1024, 2048, 2048]
    image = torch.randn(1, 3, 33, 33)
    assert torch.equal(model(image)["out"], plain(image)["out"])
    model.train()(torch.randn(2, 3, 33, 33))["out"].square().sum().backward()
    for name, block in blocks.items():
        assert block.norm_expand.weight.grad.any(), name

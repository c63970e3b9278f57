import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from dyngraph.models import DGMN2, DGMN2Classifier, dgmn2_large, dgmn2_tiny, segmenter
from dyngraph.models import dgmn2 as module
from dyngraph.models.semantic_fpn import SemanticFPN
from dyngraph.nn import DGMN2Block, RepGraphBlock

#: Small stages, whose heads have 8, 8, 4 and 8 channels.
SMALL = {
    "depths": (1, 1, 2, 1),
    "channels": (8, 16, 20, 32),
    "heads": (1, 2, 5, 4),
    "mlp_ratios": (2, 2, 1, 1),
}
#: For compilers, which take seconds for each block.
TWO_BLOCKS = SMALL | {"depths": (1, 0, 0, 1)}
# An image whose last map has a side of 1 is a case of its own for the exporter.
IMAGE_SIZE = {2: torch.export.Dim("height", min=33), 3: torch.export.Dim("width", min=33)}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("dgmn2_tiny", 12_101_464),
        ("dgmn2_small", 20_968_360),
        ("dgmn2_medium", 35_811_712),
        ("dgmn2_large", 48_286_762),
    ],
)
def test_the_number_of_parameters(name, number):
    with torch.device("meta"):
        model = getattr(module, name)()
        backbone = getattr(module, name)(features_only=True)
        assert getattr(module, name)(num_classes=10).head.weight.shape == (10, 512)
    assert sum(parameter.numel() for parameter in model.parameters()) == number
    head = {"head.weight", "head.bias"}
    assert model.state_dict().keys() - backbone.state_dict().keys() == head


@pytest.mark.parametrize("size", [(64, 64), (97, 65), (33, 130), (1, 1), (7, 40)])
def test_maps_of_images_of_any_size(size):
    model = DGMN2(**SMALL).eval()
    maps = model(torch.randn(2, 3, *size))
    assert [tuple(part.shape) for part in maps] == [
        (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(model.channels, model.strides, strict=True)
    ]
    assert all(part.isfinite().all() for part in maps)


def test_the_parts_of_a_classifier():
    model = DGMN2Classifier(5, **SMALL).eval()
    backbone = DGMN2(**SMALL).eval()
    weights = model.state_dict()
    head = {name: weights.pop(f"head.{name}") for name in ("weight", "bias")}
    backbone.load_state_dict(weights)
    image = torch.randn(2, 3, 64, 96)
    want = backbone(image)[-1].mean(dim=(2, 3)) @ head["weight"].t() + head["bias"]
    torch.testing.assert_close(model(image), want)


def test_a_pyramid_for_detectors():
    backbone = DGMN2(**SMALL)
    fpn = FeaturePyramidNetwork(list(backbone.channels), 7)
    maps = backbone(torch.randn(2, 3, 64, 96))
    pyramid = fpn({str(level): part for level, part in enumerate(maps)})
    assert [part.shape[1:] for part in pyramid.values()] == [
        (7, 64 // stride, 96 // stride) for stride in backbone.strides
    ]


def test_a_training_step_of_the_classifier():
    model = dgmn2_tiny(num_classes=10, drop_path=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    image, label = torch.randn(2, 3, 64, 64), torch.tensor([3, 7])
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        loss = nn.functional.cross_entropy(model(image), label)
        optimizer.zero_grad()
        loss.backward()
        still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert not still
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_later_blocks_are_dropped_more_often():
    model = DGMN2(**SMALL, drop_path=0.2)
    rates = [part.probability for part in model.modules() if hasattr(part, "probability")]
    torch.testing.assert_close(rates, [0.0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("features_only", [False, True])
def test_checkpointing_is_that_of_all_blocks(features_only):
    for given in (False, True):
        model = dgmn2_tiny(10, features_only=features_only, checkpointing=given)
        blocks = [part for part in model.modules() if isinstance(part, DGMN2Block)]
        assert [block.checkpointing for block in blocks] == [given] * 8


def test_a_training_step_of_the_segmenter():
    model = segmenter("dgmn2_tiny", num_classes=4, aux_loss=True)
    assert isinstance(model.classifier, SemanticFPN)
    scores = model(torch.randn(2, 3, 65, 97))
    assert {name: part.shape for name, part in scores.items()} == {
        "out": (2, 4, 65, 97),
        "aux": (2, 4, 65, 97),
    }
    label = torch.randint(4, (2, 65, 97))
    sum(nn.functional.cross_entropy(part, label) for part in scores.values()).backward()
    assert not {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}


def test_segmenters_with_a_context_and_inserted_blocks():
    model = segmenter(
        DGMN2(**SMALL),
        "repgraph",
        num_classes=4,
        head_channels=16,
        insert_before={"block3.0": RepGraphBlock},
    )
    assert isinstance(model.classifier.context, RepGraphBlock)
    assert model.classifier.context.in_channels == 16
    assert model(torch.randn(1, 3, 64, 64))["out"].shape == (1, 4, 64, 64)


@pytest.mark.slow
def test_compile_without_breaks():
    torch._dynamo.reset()
    model = DGMN2Classifier(5, **TWO_BLOCKS).double().eval()
    # The kernels' own compilation is tested elsewhere, and that for any size with a block.
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    for size in ((64, 96), (97, 65)):
        image = torch.randn(2, 3, *size, dtype=torch.float64)
        results = []
        for function in (model, compiled):
            out = function(image)
            results.append((out, torch.autograd.grad(out.square().sum(), [*model.parameters()])))
        torch.testing.assert_close(results[1], results[0])


@pytest.mark.slow
def test_segmenters_compile_without_breaks():
    torch._dynamo.reset()
    model = segmenter(DGMN2(**TWO_BLOCKS)).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), model(image))


@pytest.mark.slow
@pytest.mark.parametrize("make", [DGMN2, DGMN2Classifier, lambda **k: segmenter(DGMN2(**k))])
def test_export_with_any_size(make):
    model = make(**TWO_BLOCKS).eval()
    exported = torch.export.export(
        model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(IMAGE_SIZE,)
    ).module()
    for size in ((64, 96), (64, 64), (97, 65), (33, 224)):
        image = torch.randn(2, 3, *size)
        torch.testing.assert_close(exported(image), model(image))


def test_copies():
    model = DGMN2Classifier(5, **SMALL).eval()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(copy.deepcopy(model)(image), model(image))


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"^heads: expected a number for each of 4 stages"):
        DGMN2(heads=(1, 2))
    with pytest.raises(ValueError, match=r"^heads: expected a divisor of 128 channels, got 3"):
        DGMN2(heads=(1, 3, 5, 8))
    with pytest.raises(ValueError, match=r"^num_classes: expected at least 1, got 0"):
        DGMN2Classifier(0, **SMALL)
    with pytest.raises(ValueError, match=r"^backbone: expected one of .*'dgmn2_tiny'"):
        segmenter("dgmn2_huge")


def test_large_models_have_more_blocks():
    with torch.device("meta"):
        model = dgmn2_large(features_only=True)
    depths = [len(model.get_submodule(f"block{stage}")) for stage in (1, 2, 3, 4)]
    assert depths == [3, 8, 27, 3]

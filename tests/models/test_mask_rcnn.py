import copy
from functools import partial

import pytest
import torch
from torch import nn

from dyngraph.models import dgmn2_tiny, insertions, mask_rcnn
from dyngraph.models.deformable_conv2d import DeformableConv2d
from dyngraph.models.mask_rcnn import DETECTOR_CONTEXTS, PLACES, STAGES
from dyngraph.nn import BottleneckRepGraphBlock, DGMNBlock

SMALL = {
    "num_classes": 3,
    "min_size": 64,
    "max_size": 128,
    "pyramid_channels": 16,
    "box_detections_per_img": 5,
    "box_batch_size_per_image": 16,
}
IMAGES = [torch.rand(3, 64, 96), torch.rand(3, 70, 64)]


def targets(num_objects=2):
    boxes = torch.tensor([[8.0, 10, 40, 50], [20, 5, 60, 30]])[:num_objects]
    return [
        {
            "boxes": boxes,
            "labels": torch.tensor([1, 3])[:num_objects],
            "masks": torch.ones(num_objects, *image.shape[-2:], dtype=torch.uint8),
        }
        for image in IMAGES
    ]


def trainable(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_the_papers_numbers_of_parameters():
    """In millions: 63.1 of ResNet-101, and 51.1 of ResNet-50 with DGMN in C4 and C5."""
    with torch.device("meta"):
        assert trainable(mask_rcnn("resnet101", freeze=True)) == 63_065_077
        model = mask_rcnn("resnet50", context="dgmn", context_at="c4_c5", freeze=True)
    assert trainable(model) == 51_092_505
    assert not any(name.endswith("bias") for name, _ in _inserted(model))


def _inserted(model):
    return nn.ModuleList(insertions(model).values()).named_parameters()


def detections_and_losses(model):
    detections = model.eval()(IMAGES)
    torch.manual_seed(1)
    return [*detections, model.train()(IMAGES, targets())]


@pytest.fixture(scope="module")
def plain():
    """The weights of a detector without context, and what it finds and loses."""
    torch.manual_seed(0)
    model = mask_rcnn("resnet18", **SMALL)
    weights = copy.deepcopy(model.state_dict())
    return weights, detections_and_losses(model)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["res4", "c5", "c4_c5"])
@pytest.mark.parametrize("context", DETECTOR_CONTEXTS)
def test_a_new_context_changes_nothing(context, place, plain):
    weights, results = plain
    model = mask_rcnn("resnet18", context=context, context_at=place, **SMALL)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert missing
    assert all(".dyngraph_before." in name for name in missing)
    for expected, found in zip(results, detections_and_losses(model), strict=True):
        assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("backbone", "place", "names"),
    [
        ("resnet18", "res4", ["layer3.1"]),
        ("resnet50", "res4", ["layer3.5"]),
        ("resnet101", "res4", ["layer3.22"]),
        ("resnet18", "c5", ["layer4.0.conv2", "layer4.1.conv2"]),
        ("resnext101_32x8d", "c5", [f"layer4.{block}.conv3" for block in range(3)]),
        (
            "resnet50",
            "c4_c5",
            [f"layer{s}.{b}.conv3" for s, n in ((3, 6), (4, 3)) for b in range(n)],
        ),
    ],
)
def test_the_places_of_the_papers(backbone, place, names):
    with torch.device("meta"):
        model = mask_rcnn(backbone, context="dgmn", context_at=place)
    blocks = insertions(model.backbone.body)
    assert len(blocks) == len(names)
    for name, (place_, block) in zip(names, blocks.items(), strict=True):
        assert place_.startswith(f"{name}.")
        assert type(block) is DGMNBlock
        assert block.conv.rates == (1, 4, 8, 12)


@pytest.mark.slow
@pytest.mark.parametrize("context", [*DETECTOR_CONTEXTS, "deformable"])
def test_every_context_learns(context):
    torch.manual_seed(0)
    place = "c5" if context in ("dgmn", "deformable") else "res4"
    model = mask_rcnn("resnet18", context=context, context_at=place, **SMALL)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        torch.stack([*model(IMAGES, targets()).values()]).sum().backward()
        optimizer.step()
    if context == "deformable":
        layers = [m.offset_mask for m in model.modules() if isinstance(m, DeformableConv2d)]
        parameters = [pair for layer in layers for pair in layer.named_parameters()]
    else:
        parameters = list(_inserted(model))
    assert parameters
    for name, parameter in parameters:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(parameter.grad.any() for _, parameter in parameters)


@pytest.mark.parametrize("place", PLACES)
def test_deformable_message_passing(place):
    """DGMN's Table 2: learned walks, and filters that are the same for all nodes."""
    make = partial(DGMNBlock, rates=(1, 4, 8, 12), affinity=False, filters=False, fusion="sum")
    torch.manual_seed(0)
    plain = mask_rcnn("resnet18", **SMALL).eval()
    model = mask_rcnn("resnet18", context=make, context_at=place, **SMALL).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    for expected, found in zip(plain(IMAGES), model(IMAGES), strict=True):
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    kinds = {name.rpartition(".")[2] for name, _ in _inserted(model)}
    assert kinds == {"beta", "static_filter", "weight"}


@pytest.mark.parametrize("place", STAGES)
def test_deformable_convolutions(place):
    model = mask_rcnn("resnet50", context="deformable", context_at=place, **SMALL)
    found = [n for n, m in model.backbone.body.named_modules() if isinstance(m, DeformableConv2d)]
    blocks = [(s, b) for s, n in (("layer3", 6), ("layer4", 3)) for b in range(n)]
    assert found == [f"{s}.{b}.conv2" for s, b in blocks if s in STAGES[place]]


def test_dgmn2_with_released_weights(tmp_path):
    torch.manual_seed(0)
    weights = dgmn2_tiny(features_only=True).state_dict()
    released = {f"backbone.{name}": weight for name, weight in weights.items()}
    torch.save({"state_dict": released}, tmp_path / "coco.pth")
    model = mask_rcnn("dgmn2_tiny", weights_backbone=str(tmp_path / "coco.pth"), **SMALL)
    for name, weight in model.backbone.body.state_dict().items():
        assert torch.equal(weight, weights[name])
    losses = model(IMAGES, targets())
    torch.stack([*losses.values()]).sum().backward()
    assert all(p.grad is not None for p in model.backbone.parameters())
    assert len(model.eval()(IMAGES)) == len(IMAGES)


def test_images_without_objects_train():
    model = mask_rcnn("resnet18", context="dgmn", context_at="c5", **SMALL)
    losses = model(IMAGES, targets(num_objects=0))
    loss = torch.stack([*losses.values()]).sum()
    loss.backward()
    assert loss.isfinite()


def test_what_is_frozen():
    model = mask_rcnn("resnet18", freeze=True, **SMALL)
    frozen = {n for n, p in model.backbone.body.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"conv1", "layer1"}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    model = mask_rcnn("resnet18", **SMALL)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_a_block_and_a_backbone_of_ones_own():
    model = mask_rcnn(
        "resnet18", context=lambda channels: BottleneckRepGraphBlock(channels, 8), **SMALL
    )
    (block,) = insertions(model).values()
    assert block.lin_reduce.weight.shape == (8, 256)
    trunk = model.backbone
    again = mask_rcnn(trunk, **SMALL)
    assert again.backbone is trunk


def test_resnet10_is_resnet18_with_one_block_per_stage():
    def shapes(name):
        weights = mask_rcnn(name, **SMALL).backbone.body.state_dict()
        return {key: value.shape for key, value in weights.items()}

    second = tuple(f"layer{stage}.1." for stage in range(1, 5))
    expected = {key: size for key, size in shapes("resnet18").items() if not key.startswith(second)}
    assert shapes("resnet10") == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "vgg16"}, "backbone: expected one of .*, got 'vgg16'"),
        (
            {"backbone": "dgmn2_tiny", "freeze": True},
            "freeze: expected None with 'dgmn2_tiny', got True",
        ),
        (
            {"backbone": "resnet10", "weights_backbone": "DEFAULT"},
            "weights_backbone: expected None with 'resnet10', got 'DEFAULT'",
        ),
        ({"context": "gat"}, r"context: expected None or one of \('none', .*'ccnet'\), got 'gat'"),
        (
            {"context": "gat", "context_at": "c5"},
            r"context: expected None or one of \('none', .*'ccnet', 'deformable'\), got 'gat'",
        ),
        (
            {"context_at": "res2"},
            r"context_at: expected one of \('res4', 'c5', 'c4_c5'\) with None, got 'res2'",
        ),
        (
            {"context": "deformable"},
            r"context_at: expected one of \('c5', 'c4_c5'\) with 'deformable', got 'res4'",
        ),
        (
            {"backbone": nn.Identity(), "context": "dgmn"},
            "context: expected None with 'Identity', got 'dgmn'",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        mask_rcnn(**{"backbone": "resnet18"} | arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_classes", 0),
        ("min_size", 0),
        ("pyramid_channels", 0),
        ("rpn_post_nms_top_n_train", 0),
        ("box_detections_per_img", -1),
        ("size_divisible", 0),
        ("fixed_size", (0, 64)),
    ],
)
def test_numbers_that_make_no_detector(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected at least 1, got (0|-1)$"):
        mask_rcnn("resnet10", **{name: value})


def test_the_longer_side_is_not_shorter():
    with pytest.raises(ValueError, match=r"^max_size: expected at least 64, got 63$"):
        mask_rcnn("resnet10", min_size=64, max_size=63)

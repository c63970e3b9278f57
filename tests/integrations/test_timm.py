"""DGMN2 as timm and segmentation_models_pytorch build it."""

import copy
from functools import partial

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from timm.data import resolve_data_config
from timm.models import group_parameters

import dyngraph.integrations.timm
from dyngraph.models import DGMN2, DGMN2Classifier, load_official
from dyngraph.models.dgmn2 import DEPTHS

IMAGE = torch.rand(2, 3, 64, 97)
tiny = partial(timm.create_model, "dgmn2_tiny")


@pytest.fixture(scope="module")
def classifier():
    return DGMN2Classifier(10, depths=DEPTHS["dgmn2_tiny"]).eval()


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_all_variants_are_registered():
    assert timm.list_models("dgmn2*") == sorted(DEPTHS)
    assert timm.list_pretrained("dgmn2*") == []
    with torch.device("meta"):
        for name, depths in DEPTHS.items():
            model, ours = timm.create_model(name), DGMN2Classifier(depths=depths)
            assert model.state_dict().keys() == ours.state_dict().keys()


def test_a_classifier_is_ours(classifier):
    model = tiny(num_classes=10).eval()
    model.load_state_dict(classifier.state_dict())
    with torch.no_grad():
        assert_equal(model(IMAGE), classifier(IMAGE))
        last = DGMN2.forward(classifier, IMAGE)[-1]
        assert_equal(model.forward_features(IMAGE), last)
        assert_equal(model.forward_head(last, pre_logits=True), last.mean(dim=(2, 3)))
        model.reset_classifier(0)
        assert_equal(model(IMAGE), last.mean(dim=(2, 3)))
        model.reset_classifier(0, "")
        assert_equal(model(IMAGE), last)
        model.reset_classifier(4, "avg")
        assert model(IMAGE).shape == (2, 4)
    assert model.num_classes == 4
    assert model.get_classifier().weight.shape == (4, 512)


@pytest.mark.parametrize("indices", [(0, 1, 2, 3), (1, 3), (0, 1), (-1,)])
def test_features(indices, classifier):
    model = tiny(features_only=True, out_indices=indices).eval()
    weights = classifier.state_dict()
    model.model.load_state_dict({name: weights[name] for name in model.model.state_dict()})
    maps = DGMN2.forward(classifier, IMAGE)
    expected = [maps[index] for index in indices]
    assert_equal(model(IMAGE), expected)
    assert model.feature_info.channels() == [each.shape[1] for each in expected]
    assert model.feature_info.reduction() == [(4, 8, 16, 32)[index] for index in indices]
    # Stages after the last one are gone.
    last = max(index % 4 for index in indices)
    stages = {name.partition(".")[0] for name in model.model.state_dict()}
    assert {name[-1] for name in stages} == {str(stage + 1) for stage in range(last + 1)}


def test_intermediate_features():
    model = tiny().eval()
    maps = model.stages(IMAGE, 4)
    last, some = model.forward_intermediates(IMAGE, indices=[0, 2])
    assert_equal(some, [maps[0], maps[2]])
    assert_equal(last, maps[3])
    early, _ = model.forward_intermediates(IMAGE, indices=[0, 2], stop_early=True)
    assert_equal(early, maps[2])
    assert_equal(model.forward_intermediates(IMAGE, 2, intermediates_only=True), maps[2:])
    with pytest.raises(ValueError, match=r"^output_fmt: expected 'NCHW', got 'NLC'$"):
        model.forward_intermediates(IMAGE, output_fmt="NLC")


def test_released_files_load_into_it(classifier, tmp_path):
    path = tmp_path / "dgmn2_tiny.pth"
    torch.save({"model": classifier.state_dict()}, path)
    model = tiny(num_classes=10).eval()
    load_official(model, path)
    assert_equal(model(IMAGE), classifier(IMAGE))
    trunk = tiny(features_only=True).eval()
    load_official(trunk, path)
    assert_equal(trunk(IMAGE), DGMN2.forward(classifier, IMAGE))


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels(channels):
    model = tiny(in_chans=channels, num_classes=3)
    model(torch.rand(1, channels, 64, 64)).sum().backward()
    assert model.patch_embed1.conv1.weight.grad.shape == (32, channels, 3, 3)
    assert len(tiny(in_chans=channels, features_only=True)(torch.rand(1, channels, 64, 64))) == 4


def test_what_timm_knows_of_it():
    model = tiny(drop_rate=0.5, drop_path_rate=0.2)
    config = resolve_data_config(model=model)
    assert (config["input_size"], config["crop_pct"]) == ((3, 224, 224), 0.9)
    assert model.block4[-1].drop_path.probability == pytest.approx(0.2)
    assert not torch.equal(model.train()(IMAGE), model(IMAGE))
    # Parameters in the order in which an image meets them, for learning rates by layer.
    groups = group_parameters(model, model.group_matcher())
    firsts = [names[0].rsplit(".", 1)[0] for _, names in sorted(groups.items())]
    assert firsts[:5] == [
        "patch_embed1.conv1",
        "block1.0.norm1",
        "block1.1.norm1",
        "patch_embed2.conv",
        "block2.0.norm1",
    ]
    assert firsts[-1] == "head"
    assert len(group_parameters(model, model.group_matcher(coarse=True))) == 6


def test_checkpointing_computes_the_same():
    model = tiny(num_classes=3)
    same = copy.deepcopy(model)
    same.set_grad_checkpointing()
    assert same.block3[0].checkpointing
    assert not model.block3[0].checkpointing
    for each in (model, same):
        each.eval()(IMAGE).sum().backward()
    torch.testing.assert_close(same.head.weight.grad, model.head.weight.grad)
    torch.testing.assert_close(
        same.patch_embed1.conv1.weight.grad, model.patch_embed1.conv1.weight.grad
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": True}, "pretrained: expected False"),
        ({"output_stride": 8}, "output_stride: expected 32, got 8"),
        ({"global_pool": "max"}, r"global_pool: expected one of \('avg', ''\), got 'max'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        tiny(**options)


@pytest.mark.parametrize("make", [smp.FPN, smp.Segformer, smp.Unet, smp.UPerNet])
def test_an_encoder_of_segmentation_models_pytorch(make):
    model = make("tu-dgmn2_tiny", encoder_weights=None, classes=5, in_channels=4)
    assert isinstance(model.encoder.model.model, dyngraph.integrations.timm.TimmDGMN2)
    scores = model(torch.rand(2, 4, 64, 96))
    assert scores.shape == (2, 5, 64, 96)
    scores.sum().backward()
    assert model.encoder.model.model.patch_embed1.conv1.weight.grad.abs().sum() > 0

"""Files as the released code writes them, made here; the real ones are not in the repository."""

import argparse
import copy

import pytest
import torch
from test_dgmn2 import SMALL
from torch import nn

from dyngraph.models import DGMN2, DGMN2Classifier, load_official, segmenter


@pytest.fixture
def released():
    """A classifier's weights under their released names."""
    model = DGMN2Classifier(5, **SMALL)
    return {name: torch.randn_like(t.float()).to(t) for name, t in model.state_dict().items()}


def features(weights):
    return {name: w for name, w in weights.items() if not name.startswith("head.")}


def with_prefix(prefix, weights):
    return {prefix + name: w for name, w in weights.items()}


def assert_loaded(model, weights):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_a_classifier_as_it_was_saved(released, tmp_path):
    path = tmp_path / "dgmn2.pth"
    args = argparse.Namespace(lr=0.1, model="dgmn2_small", distributed=True)
    torch.save({"model": released, "epoch": 299, "args": args, "scaler": {"scale": 1.0}}, path)
    model = DGMN2Classifier(5, **SMALL)
    report = load_official(model, path)
    assert_loaded(model, released)
    assert report.loaded == list(model.state_dict())
    assert report.kept == report.unused == []
    assert str(report).startswith(f"{len(released)} tensors loaded\n0 tensors kept")


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("module", ["", "module."])
@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.0.", "backbone.bottom_up."])
def test_all_wrappers_and_prefixes(prefix, module, wrapper, released, tmp_path):
    weights = with_prefix(module + prefix, features(released))
    others = {
        module + "rpn_head.weight": torch.ones(3),
        module + "backbone.fpn.weight": torch.ones(2),
    }
    file = weights | others
    torch.save(file if wrapper is None else {"meta": {"epoch": 1}, wrapper: file}, tmp_path / "f")
    model = DGMN2(**SMALL)
    report = load_official(model, tmp_path / "f")
    assert_loaded(model, released)
    assert report.loaded == list(features(released))
    assert report.unused == ["rpn_head.weight", "backbone.fpn.weight"]


def test_a_classifier_into_a_backbone_and_a_larger_model(released):
    backbone = DGMN2(**SMALL)
    assert load_official(backbone, {"model": released}).unused == ["head.weight", "head.bias"]
    assert_loaded(backbone, released)
    model = segmenter(DGMN2(**SMALL))
    head = copy.deepcopy(model.classifier.state_dict())
    report = load_official(model, {"model": released})
    assert_loaded(model.backbone, released)
    assert report.loaded == [f"backbone.{name}" for name in features(released)]
    assert report.kept == [f"classifier.{name}" for name in head]
    assert_loaded(model.classifier, head)


def semantic_fpn(num_classes=3):
    """The weights of MMSegmentation's neck and head."""
    weights = {}
    for level, channels in enumerate(SMALL["channels"]):
        for kind, size in (("lateral", (256, channels, 1, 1)), ("fpn", (256, 256, 3, 3))):
            weights[f"neck.{kind}_convs.{level}.conv.weight"] = torch.randn(size)
            weights[f"neck.{kind}_convs.{level}.conv.bias"] = torch.randn(256)
        for i in range(max(level, 1)):
            name = f"decode_head.scale_heads.{level}.{2 * i}"
            weights[f"{name}.conv.weight"] = torch.randn(128, 128 if i else 256, 3, 3)
            for part in ("weight", "bias", "running_mean", "running_var"):
                weights[f"{name}.bn.{part}"] = torch.randn(128).exp()
            weights[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)
    weights["decode_head.conv_seg.weight"] = torch.randn(num_classes, 128, 1, 1)
    weights["decode_head.conv_seg.bias"] = torch.randn(num_classes)
    return weights


def test_a_segmenter_with_its_head(released):
    model = segmenter(DGMN2(**SMALL), num_classes=3)
    head = semantic_fpn()
    file = {"state_dict": with_prefix("backbone.", features(released)) | head, "meta": {}}
    report = load_official(model, file)
    assert report.kept == report.unused == []
    assert_loaded(model.backbone, released)
    own = model.classifier
    for level in range(4):
        lateral = head[f"neck.lateral_convs.{level}.conv.weight"]
        assert torch.equal(own.fpn.inner_blocks[level][0].weight, lateral)
        assert torch.equal(
            own.fpn.layer_blocks[level][0].bias, head[f"neck.fpn_convs.{level}.conv.bias"]
        )
    last = "decode_head.scale_heads.3.4"
    assert torch.equal(own.scale_heads[3][4][0].weight, head[f"{last}.conv.weight"])
    assert torch.equal(own.scale_heads[3][4][1].running_var, head[f"{last}.bn.running_var"])
    assert torch.equal(own.conv_seg.bias, head["decode_head.conv_seg.bias"])
    # With a context, which no file has.
    with_context = segmenter(DGMN2(**SMALL), "repgraph", num_classes=3)
    kept = load_official(with_context, file).kept
    assert kept
    assert all(name.startswith("classifier.context.") for name in kept)
    # Another number of classes.
    with pytest.raises(ValueError, match=r"decode_head.conv_seg.weight \[3, 128, 1, 1\] instead"):
        load_official(segmenter(DGMN2(**SMALL), num_classes=4), file)
    head.pop("decode_head.conv_seg.bias")
    with pytest.raises(ValueError, match=r"missing classifier.conv_seg.bias,"):
        load_official(model, with_prefix("backbone.", features(released)) | head)


def test_segmenters_by_name_take_the_path_of_a_file(tmp_path):
    weights = DGMN2(depths=(2, 2, 2, 2)).state_dict()
    torch.save({"model": weights}, tmp_path / "tiny.pth")
    model = segmenter("dgmn2_tiny", weights_backbone=str(tmp_path / "tiny.pth"))
    assert_loaded(model.backbone, weights)
    message = rf"^{tmp_path / 'tiny.pth'}: expected the weights of this model; missing block"
    with pytest.raises(ValueError, match=message):
        segmenter("dgmn2_small", weights_backbone=str(tmp_path / "tiny.pth"))


# --- what does not fit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"depths": (1, 1, 3, 1)}, r"missing block3\.2\.norm1\.weight|missing block3\.2\.attn"),
        ({"depths": (1, 1, 1, 1)}, r"missing none, unexpected block3\.1\.norm1\.weight"),
        (
            {"channels": (16, 16, 20, 32)},
            r"patch_embed1.conv1.weight \[4, 3, 3, 3\] instead",
        ),
        ({"mlp_ratios": (2, 2, 1, 2)}, r"block4.0.mlp.fc1.weight \[32, 32\] instead of \[64,"),
    ],
)
def test_other_sizes_are_refused(change, error, released):
    model = DGMN2(**(SMALL | change))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"^checkpoint: expected the weights of .*({error})"):
        load_official(model, released)
    assert_loaded(model, before)


def test_a_classifier_needs_its_head(released):
    with pytest.raises(ValueError, match=r"missing head.bias, head.weight,"):
        load_official(DGMN2Classifier(5, **SMALL), features(released))
    with pytest.raises(ValueError, match=r"head.weight \[5, 32\] instead of \[7, 32\]"):
        load_official(DGMN2Classifier(7, **SMALL), released)


def test_long_lists_are_cut(released):
    with pytest.raises(ValueError, match=r"missing .* and \d+ more, unexpected"):
        load_official(DGMN2(**(SMALL | {"depths": (3, 3, 3, 3)})), released)


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


def test_broken_files(released, tmp_path, capsys):
    model = DGMN2(**SMALL)
    good, path = tmp_path / "good", tmp_path / "bad"
    torch.save({"model": released}, good)
    contents = good.read_bytes()
    for bad in (b"", b"no checkpoint", contents[: len(contents) // 2], contents[:100]):
        path.write_bytes(bad)
        with pytest.raises(OSError, match=rf"^{path}: expected a readable checkpoint, got "):
            load_official(model, path)
    with pytest.raises(OSError, match=r"none: expected a readable checkpoint, got FileNotFound"):
        load_official(model, tmp_path / "none")
    torch.save({"model": released, "args": Harmful()}, path)
    with pytest.raises(OSError, match="expected a readable checkpoint"):
        load_official(model, path)
    assert "executed" not in capsys.readouterr().out
    torch.save((1, 2), path)
    with pytest.raises(OSError, match=rf"^{path}: expected tensors by name, got tuple"):
        load_official(model, path)
    torch.save({"fc.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=rf"^{path}: expected weights of DGMN2, got fc"):
        load_official(model, path)


def test_errors_name_the_argument(released):
    model = DGMN2(**SMALL)
    for checkpoint in ([1, 2], torch.ones(3)):
        with pytest.raises(TypeError, match=r"^checkpoint: expected tensors by name, got "):
            load_official(model, checkpoint)
    for checkpoint in ({}, {"model": {}}, {"fc.weight": torch.ones(2)}, {1: 2}):
        with pytest.raises(ValueError, match=r"^checkpoint: expected weights of DGMN2, got "):
            load_official(model, checkpoint)
    for other in (nn.Linear(2, 2), nn.ModuleList([model, DGMN2(**SMALL)])):
        with pytest.raises(ValueError, match=r"^model: expected one with a DGMN2 inside, got "):
            load_official(other, released)

import re
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from dyngraph.models import segmenter
from dyngraph.models.timm_backbone import timm_backbone

# timm renames the stages of the second one in a network without its classifier.
NETWORKS = ["mobilenetv3_small_050", "convnext_atto"]


def save(model, path):
    """A file of either format, as the name says."""
    weights = model if isinstance(model, dict) else model.state_dict()
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights}, path)
    return path


@pytest.fixture(scope="module")
def classifier():
    """EfficientNet-Lite0 with statistics as after training, which hide no differences."""
    model = timm.create_model("efficientnet_lite0").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return model


def test_every_few_nodes_are_those_of_the_strided_classifier(classifier, tmp_path):
    trunk = timm_backbone("efficientnet_lite0", save(classifier, tmp_path / "a.pth")).eval()
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        got = trunk(image)
        want = classifier.forward_intermediates(image, intermediates_only=True)
    sizes = [(16, 33, 49), (24, 17, 25), (40, 9, 13), (112, 9, 13), (320, 9, 13)]
    assert [maps.shape[1:] for maps in got] == sizes
    for dense, strided in zip(got, want, strict=True):
        step = (dense.shape[-1] - 1) // (strided.shape[-1] - 1)
        # The same sums in another order, through up to 50 layers.
        scale = strided.abs().max().item()
        torch.testing.assert_close(dense[..., ::step, ::step], strided, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("file", ["a.safetensors", "a.pth"])
def test_all_weights_are_those_of_the_file(name, file, tmp_path):
    model = timm.create_model(name)
    trunk = timm_backbone(name, str(save(model, tmp_path / file)))
    weights = {key.replace(".", "_"): tensor for key, tensor in model.state_dict().items()}
    for key, tensor in trunk.state_dict().items():
        assert torch.equal(tensor, weights[key.replace(".", "_")]), key


def test_the_last_map_is_for_the_classifier_the_one_before_for_the_auxiliary_head():
    model = segmenter(
        "timm/efficientnet_lite0", "repgraph", num_classes=5, head_channels=8, aux_loss=True
    )
    assert model.classifier[0][0].in_channels == 320
    assert model.aux_classifier[0][0].in_channels == 112
    image = torch.randn(2, 3, 40, 56)
    maps = model.backbone(image)
    features = model.features(image)
    for name, index in (("out", -1), ("aux", -2)):
        assert features[name].shape == maps[index].shape
    assert {name: score.shape for name, score in model(image).items()} == dict.fromkeys(
        ("out", "aux"), (2, 5, 40, 56)
    )


def test_a_file_of_another_network(classifier, tmp_path):
    other = save(timm.create_model("efficientnet_lite1"), tmp_path / "lite1.safetensors")
    message = rf"^{other}: expected .* missing none, unexpected blocks\.1\.2\..* of another size n"
    with pytest.raises(ValueError, match=message):
        timm_backbone("efficientnet_lite0", other)
    weights = classifier.state_dict()
    del weights["conv_stem.weight"]
    weights["bn1.bias"] = torch.zeros(3)
    part = save(weights, tmp_path / "part.pth")
    message = rf"^{part}: .* missing conv_stem.weight, unexpected none, .* bn1.bias \[3\] instead"
    with pytest.raises(ValueError, match=message):
        segmenter("timm/efficientnet_lite0", weights_backbone=str(part))


def test_another_head_does_not_matter(classifier, tmp_path):
    weights = {**classifier.state_dict(), "classifier.weight": torch.zeros(5, 1280)}
    del weights["classifier.bias"]
    trunk = timm_backbone("efficientnet_lite0", save(weights, tmp_path / "five.safetensors"))
    found = trunk.state_dict()
    same = [torch.equal(tensor, weights[name]) for name, tensor in found.items() if name in weights]
    assert same
    assert all(same)


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_files_are_not_trusted(name, tmp_path, capsys):
    path = tmp_path / name
    with pytest.raises(OSError, match=rf"^{path}: expected a readable "):
        timm_backbone("resnet18", path)
    torch.save({"state_dict": {"conv1.weight": Harmful()}}, path)
    with pytest.raises(OSError, match=rf"^{path}: expected a readable "):
        timm_backbone("resnet18", path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["", "efficientnet_lite9", "hf-hub:timm/resnet18", "local-dir:."])
def test_unknown_networks(name):
    message = f"^backbone: expected a network of timm after 'timm/', got {name!r}$"
    with pytest.raises(ValueError, match=message):
        segmenter(f"timm/{name}")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_networks_without_maps_at_this_stride(name):
    message = (
        rf"^backbone: expected a network with feature maps at output stride 8, got timm/{name}"
    )
    with pytest.raises(ValueError, match=message):
        segmenter(f"timm/{name}")


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    message = re.escape("backbone: timm/resnet18 needs timm: pip install 'dyngraph[timm]'")
    with pytest.raises(ImportError, match=f"^{message}$"):
        segmenter("timm/resnet18")

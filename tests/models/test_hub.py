"""Models that are saved, and loaded elsewhere by folder or name alone."""

import json
import pickle
import subprocess
import sys
from functools import partial

import huggingface_hub
import pytest
import torch
from test_dgmn2 import SMALL
from torch import nn
from torchvision.models import resnet18
from torchvision.models._api import WeightsEnum
from torchvision.models.detection import MaskRCNN

from dyngraph.models import (
    DGMN2,
    Detector,
    DGMN2Classifier,
    NonLocalHead,
    PyramidSegmenter,
    Segmenter,
    SmallTrunk,
    from_pretrained,
    insert,
    mask_rcnn,
    segmenter,
)
from dyngraph.nn import BottleneckRepGraphBlock, DGMNBlock, NonLocalBlock

SMALL_DETECTOR = {
    "backbone": "resnet10",
    "num_classes": 3,
    "min_size": 64,
    "max_size": 128,
    "pyramid_channels": 16,
    "box_detections_per_img": 5,
    "box_score_thresh": 0.0,
}
REVISION = "0" * 40
IMAGE = torch.rand(1, 3, 64, 96)
MODELS = {
    "segmenter": partial(segmenter, "small_trunk", "repgraph", num_classes=4, head_channels=16),
    "auxiliary head": partial(
        segmenter, "resnet18", "dgmn", num_classes=4, head_channels=16, aux_loss=True
    ),
    "blocks with arguments": partial(
        segmenter,
        "resnet18",
        partial(DGMNBlock, rates=(1, 2), groups=2),
        num_classes=4,
        head_channels=16,
        insert_before={
            "layer2.1": NonLocalBlock,
            "layer3.*": partial(BottleneckRepGraphBlock, zero_init=True, num_samples=5),
        },
    ),
    "head": partial(segmenter, "small_trunk", NonLocalHead, num_classes=4, head_channels=16),
    "pyramid": partial(segmenter, "dgmn2_tiny", "repgraph", num_classes=4, head_channels=16),
    "timm": partial(segmenter, "timm/resnet10t", "gcnet", num_classes=4, head_channels=16),
    "detector": partial(mask_rcnn, context="repgraph", **SMALL_DETECTOR),
    "deformable detector": partial(
        mask_rcnn, context="deformable", context_at="c5", **SMALL_DETECTOR
    ),
    "backbone": partial(DGMN2, **SMALL),
    "classifier": partial(DGMN2Classifier, 5, **SMALL),
}


def run(model):
    with torch.inference_mode():
        return model([IMAGE[0]] if isinstance(model, Detector) else IMAGE)


def trained(make):
    """A model whose weights and statistics are not those that it starts with."""
    torch.manual_seed(1)
    model = make()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor), alpha=0.02)
    return model.eval()


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_a_loaded_model_is_equal_to_the_bit(kind, tmp_path):
    model = trained(MODELS[kind])
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert not any(module.training for module in loaded.modules())
    assert loaded.recipe == model.recipe
    assert_equal(loaded.state_dict(), model.state_dict())
    assert_equal(run(loaded), run(model))


def test_a_loaded_model_can_be_trained_and_saved_again(tmp_path):
    trained(MODELS["segmenter"]).save_pretrained(tmp_path / "a")
    model = from_pretrained(tmp_path / "a").train()
    model(IMAGE)["out"].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.save_pretrained(tmp_path / "b")
    assert (tmp_path / "a/config.json").read_bytes() == (tmp_path / "b/config.json").read_bytes()


def test_weights_keep_their_precision(tmp_path):
    model = trained(MODELS["segmenter"]).double()
    model.save_pretrained(tmp_path)
    assert_equal(from_pretrained(tmp_path)(IMAGE.double()), model(IMAGE.double()))


def test_models_are_those_of_before():
    """What torchvision has, under its names of weights; pickled with all that was built."""
    detector = MODELS["detector"]()
    assert isinstance(detector, MaskRCNN)
    assert {name.partition(".")[0] for name in detector.state_dict()} == {
        "backbone",
        "rpn",
        "roi_heads",
    }
    model = segmenter("small_trunk", lambda channels: nn.Conv2d(channels, channels, 1))
    pickle.loads(pickle.dumps(model))


ELSEWHERE = """
import sys
import torch
from dyngraph.models import from_pretrained

model = from_pretrained(sys.argv[1], local_files_only=True, cache_dir=sys.argv[2])
image, output = torch.load(sys.argv[3], weights_only=True)
with torch.inference_mode():
    torch.testing.assert_close(model(image), output, rtol=0, atol=0)
print(type(model).__name__, model.class_names)
"""
NO_NET = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("the net was asked")
socket.socket.connect = socket.getaddrinfo = refuse
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segmenter", "detector"])
def test_by_name_in_another_process_without_the_net(kind, tmp_path):
    model = trained(MODELS[kind])
    # The folder in which the Hub keeps what it has downloaded.
    cached = tmp_path / "models--someone--streets"
    names = [f"class {number}" for number in range(model.recipe.arguments["num_classes"])]
    model.save_pretrained(cached / "snapshots" / REVISION, class_names=names)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(REVISION)
    image = [IMAGE[0]] if kind == "detector" else IMAGE
    torch.save((image, run(model)), tmp_path / "output.pt")
    result = subprocess.run(
        [sys.executable, "-c", NO_NET + ELSEWHERE, "someone/streets", tmp_path, "output.pt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{type(model).__name__} {tuple(names)}\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segmenter", "detector"])
def test_pretrained_weights_are_not_looked_for_again(kind, tmp_path, monkeypatch):
    pretrained = resnet18().state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *args, **kwargs: pretrained)
    if kind == "segmenter":
        model = segmenter("resnet18", num_classes=3, head_channels=8, weights_backbone="DEFAULT")
        module = model.backbone
    else:
        model = mask_rcnn(**SMALL_DETECTOR | {"backbone": "resnet18"}, weights_backbone="DEFAULT")
        module = model.backbone.body
    assert_equal(module.conv1.weight, pretrained["conv1.weight"])
    model.eval().save_pretrained(tmp_path)

    def refuse(*args, **kwargs):
        raise AssertionError("pretrained weights were looked for")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    loaded = from_pretrained(tmp_path)
    assert_equal(run(loaded), run(model))
    # A detector stays as frozen as it was trained.
    frozen = [{n for n, p in m.named_parameters() if not p.requires_grad} for m in (model, loaded)]
    assert frozen[0] == frozen[1]
    assert bool(frozen[0]) == (kind == "detector")


def test_the_page_of_a_model(tmp_path):
    model = trained(MODELS["segmenter"])
    picture = torch.randint(256, (3, 8, 12), dtype=torch.uint8)
    names = ["road", "car", "person", "sky"]
    model.save_pretrained(
        tmp_path / "streets", class_names=names, scores={"mIoU": 0.7123456}, picture=picture
    )
    page = (tmp_path / "streets/README.md").read_text()
    assert "library_name: dyngraph\npipeline_tag: image-segmentation\n" in page
    assert "# streets\n\n![](picture.png)\n" in page
    assert "| context | `repgraph` |" in page
    assert "model = from_pretrained('streets')" in page
    assert "| mIoU | `0.7123` |" in page
    assert "road, car, person, sky" in page
    card = huggingface_hub.ModelCard(page)
    assert card.data.library_name == "dyngraph"
    assert (tmp_path / "streets/picture.png").stat().st_size > 100
    assert from_pretrained(tmp_path / "streets").class_names == tuple(names)
    plain = tmp_path / "plain"
    model.save_pretrained(plain)
    assert "Scores" not in (plain / "README.md").read_text()
    assert {path.name for path in plain.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }


def test_the_page_on_the_hub_names_the_model(monkeypatch):
    calls = []

    class Api:
        def __init__(self, token):
            calls.append(token)

        def create_repo(self, name, private, exist_ok):
            calls.append((name, private, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            loaded = from_pretrained(folder_path)
            assert_equal(loaded.state_dict(), model.state_dict())
            with open(f"{folder_path}/README.md", encoding="utf-8") as page:
                assert "from_pretrained('someone/streets')" in page.read()
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model = trained(MODELS["segmenter"])
    assert model.push_to_hub("someone/streets", private=True) == "https://hub/someone/streets"
    assert calls == [None, ("someone/streets", True, True)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: segmenter(SmallTrunk()), r"backbone: expected a name .* with a SmallTrunk$"),
        (
            lambda: segmenter("small_trunk", lambda channels: nn.Identity()),
            r"context: expected a name or one of dyngraph's blocks .* with a function$",
        ),
        (
            lambda: segmenter("small_trunk", partial(nn.Conv2d, out_channels=3, kernel_size=1)),
            r"context: expected .* with a partial$",
        ),
        (
            lambda: Segmenter(SmallTrunk(), nn.Conv2d(48, 2, 1)),
            r"model: expected one built by one of .*'segmenter'.*, got a Segmenter$",
        ),
        (
            lambda: insert(
                MODELS["segmenter"](), before="backbone.3", make=NonLocalBlock, channels=48
            ),
            r"model: expected the weights of segmenter; missing none, unexpected backbone\.3",
        ),
    ],
    ids=["backbone", "context", "foreign block", "by hand", "changed"],
)
def test_what_could_not_be_built_again_is_not_saved(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make().save_pretrained(tmp_path)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_names": ["a"]}, "class_names: expected a name for each of 4 classes, got 1"),
        ({"picture": torch.rand(3, 4, 4)}, r"picture: expected \[3, H, W\], uint8, got"),
    ],
    ids=["names", "picture"],
)
def test_what_does_not_fit_is_not_saved(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        MODELS["segmenter"]().save_pretrained(tmp_path, **arguments)
    assert [*tmp_path.iterdir()] == []


def change(**changes):
    def edit(config):
        return {**config, **changes}

    return edit


def change_arguments(**changes):
    def edit(config):
        return {**config, "arguments": {**config["arguments"], **changes}}

    return edit


BROKEN = {
    "another key": (change(script="x"), "'script'"),
    "a list": (lambda config: [config], "got list instead of"),
    "another builder": (change(model="os.system"), r"model: 'os.system' instead of"),
    "no name of a builder": (change(model=["segmenter"]), r"model: \['segmenter'\]"),
    "arguments in a list": (change(arguments=[]), r"arguments: \[\]"),
    "another argument": (change_arguments(hook="os.system"), r"\['hook'\]"),
    "weights from elsewhere": (
        change_arguments(weights_backbone="/etc/passwd"),
        r"\['weights_backbone'\]",
    ),
    "another backbone": (change_arguments(backbone="resnet9000"), "got 'resnet9000'"),
    "a backbone from the net": (
        change_arguments(backbone="timm/hf-hub:someone/net"),
        "expected a network of timm",
    ),
    "another context": (change_arguments(context="eval"), "got 'eval'"),
    "another class": (
        change_arguments(context={"block": "Popen", "arguments": {"args": "ls"}}),
        "got 'Popen'",
    ),
    "another argument of a block": (
        change_arguments(context={"block": "RepGraphBlock", "arguments": {"x": 1}}),
        "expected arguments of RepGraphBlock",
    ),
    "a block in a block": (
        change_arguments(
            context={
                "block": "RepGraphBlock",
                "arguments": {"groups": {"block": "RepGraphBlock", "arguments": {}}},
            }
        ),
        "expected numbers and names",
    ),
    "half a block": (change_arguments(context={"block": "RepGraphBlock"}), "block: expected"),
    "texts": (change_arguments(context=["repgraph"]), r"context: expected a number, a name"),
    "a wrong type": (change_arguments(num_classes="4"), r"TypeError\("),
    "no backbone": (change_arguments(backbone=3), "got "),
    "more classes than memory": (
        change_arguments(num_classes=10**15),
        "another size classifier.2",
    ),
    "other names": (change(class_names="abcd"), "class_names: 'abcd'"),
    "too few names": (change(class_names=["road"]), "class_names: expected a name for each of 4"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_untrusted_configurations(kind, tmp_path):
    edit, message = BROKEN[kind]
    MODELS["segmenter"]().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=rf"^{tmp_path}/(?s:.*){message}"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("config.json", b"{", ValueError),
        ("config.json", b"\xff", ValueError),
        ("config.json", b"[" * 100_000, ValueError),
        ("config.json", None, OSError),
        ("model.safetensors", b"no weights", OSError),
        ("model.safetensors", None, OSError),
    ],
)
def test_broken_files_are_named(name, content, kind, tmp_path):
    MODELS["segmenter"]().save_pretrained(tmp_path)
    path = tmp_path / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind, match=f"^{path}: expected "):
        from_pretrained(tmp_path)


def test_weights_of_another_model_are_named(tmp_path):
    MODELS["segmenter"]().save_pretrained(tmp_path / "a")
    MODELS["head"]().save_pretrained(tmp_path / "b")
    path = tmp_path / "a/model.safetensors"
    (tmp_path / "b/model.safetensors").replace(path)
    with pytest.raises(ValueError, match=f"^{path}: expected the weights of segmenter; missing cl"):
        from_pretrained(tmp_path / "a")


def test_a_model_of_another_class_is_refused(tmp_path):
    MODELS["segmenter"]().save_pretrained(tmp_path)
    message = f"^{tmp_path}: expected a PyramidSegmenter, got a Segmenter$"
    with pytest.raises(ValueError, match=message):
        PyramidSegmenter.from_pretrained(tmp_path)


def test_a_name_that_is_nowhere(tmp_path):
    for name in ("someone/nothing", "neither/a/name/nor:a:folder"):
        with pytest.raises(OSError, match=f"^{name}: expected a folder, or a model on the Hub"):
            from_pretrained(name, cache_dir=tmp_path, local_files_only=True)


WITHOUT_THE_HUB = """
import sys
sys.modules["huggingface_hub"] = sys.modules["safetensors"] = None
from dyngraph.models import DGMN2, load_safetensors, save_safetensors
model = DGMN2((1, 1, 1, 1), (8, 8, 8, 8), heads=(1, 1, 1, 1))
model.state_dict()
for run in (
    lambda: model.save_pretrained("x"),
    lambda: model.push_to_hub("x"),
    lambda: DGMN2.from_pretrained("x"),
    lambda: save_safetensors(model, "x"),
    lambda: load_safetensors(model, "x"),
):
    try:
        run()
    except ImportError as error:
        print(error)
"""


@pytest.mark.slow
def test_models_need_no_hub():
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_HUB], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "save_safetensors needs safetensors: pip install 'dyngraph[hub]'",
        "push_to_hub needs huggingface_hub: pip install 'dyngraph[hub]'",
        "from_pretrained needs huggingface_hub: pip install 'dyngraph[hub]'",
        "save_safetensors needs safetensors: pip install 'dyngraph[hub]'",
        "load_safetensors needs safetensors: pip install 'dyngraph[hub]'",
    ]

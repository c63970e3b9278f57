"""The page of what a model listens to, as a file."""

import html
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from test_packing import unpack_positions, unpack_weights
from torch import nn

from dyngraph.models import SmallTrunk, mask_rcnn, segmenter
from dyngraph.nn import DGMNBlock, RepGraphBlock, RepGraphConv
from dyngraph.samplers import OffsetSampler
from dyngraph.viz import capture_input, explore


class Tags(HTMLParser):
    """The elements of a page, and the text of its data."""

    def __init__(self, page):
        super().__init__()
        self.names, self.addresses, self.data = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        self.is_data = ("type", "application/json") in attributes

    def handle_data(self, text):
        if self.names and self.names[-1] == "script" and self.is_data:
            self.data += text


def data_of(viewer):
    return json.loads(Tags(viewer.page).data)


def make_model(context="repgraph", classes=5):
    model = segmenter(SmallTrunk(8), context, num_classes=classes, head_channels=8)
    for module in model.modules():
        if isinstance(module, OffsetSampler):
            nn.init.normal_(module.offset.weight)
    return model


def test_a_page_holds_what_the_layer_computes():
    model, image = make_model(), torch.randn(1, 3, 24, 40)
    page = data_of(explore(model, image))
    conv, x, grid = capture_input(model, RepGraphConv, image)
    _, near, weight = conv.sample(x, grid)
    ((layer,),) = ([*model["layers"]] for model in page["models"])
    assert (layer["name"], layer["kind"]) == ("classifier.1.conv", "RepGraphConv")
    assert (unpack_positions(layer)[:, 0] - near.pos).abs().max() <= 1 / 128 + 1e-4
    error = (unpack_weights(layer["weights"]["attention"]) - weight).abs().max()
    assert error <= weight.max() / 255
    assert page["picture"]["width"] == 40
    assert page["classes"] == [f"class {number}" for number in range(5)]
    model.class_names = ("a", "b", "c", "d", "e")
    assert data_of(explore(model, image))["classes"] == [*model.class_names]


def test_several_models_by_name():
    models = {"with walks": make_model("dgmn"), "without": make_model("ccnet")}
    page = data_of(explore(models, torch.randn(1, 3, 16, 24)))
    assert [model["name"] for model in page["models"]] == [*models]
    # Criss-cross attention runs twice.
    assert [len(model["layers"]) for model in page["models"]] == [1, 2]
    page = data_of(explore([*models.values()], torch.randn(1, 3, 16, 24)))
    assert [model["name"] for model in page["models"]] == ["Segmenter 1", "Segmenter 2"]


class AtStride8(nn.Module):
    """A block on an eighth of the rows and columns, with samples that are anywhere."""

    def __init__(self, block):
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 8, 1))
        self.block = block
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=2.0)

    def forward(self, image):
        return {"features": self.block(self.features(image))}


def test_the_page_of_a_large_image_is_a_few_megabytes():
    picture = torch.zeros(3, 1024, 2048, dtype=torch.uint8)
    image = torch.randn(1, 3, 1024, 2048)
    viewer = explore(AtStride8(RepGraphBlock(8)), image, picture=picture)
    (layer,) = data_of(viewer)["models"][0]["layers"]
    assert (layer["maps"], layer["every"]) == ([[128, 256]], 1)
    assert len(viewer.page.encode()) < 2_500_000


@pytest.mark.parametrize(("most_bytes", "every"), [(210_000, 1), (150_000, 2), (40_000, 4)])
def test_samples_take_no_more_than_they_may(most_bytes, every):
    # Of 512 nodes, 45 samples of 4 + 4 + 1 bytes each: 207,360.
    viewer = explore(AtStride8(DGMNBlock(8)), torch.randn(1, 3, 128, 256), most_bytes=most_bytes)
    (layer,) = data_of(viewer)["models"][0]["layers"]
    assert layer["every"] == every
    assert len(json.dumps(layer)) < 1.4 * most_bytes


def test_texts_from_elsewhere_stay_texts():
    bad = "</script><img src=x onerror=alert(1)>{{DATA}}&amp;"
    viewer = explore(
        {bad: make_model(classes=2)},
        torch.randn(1, 3, 16, 24),
        class_names=[bad, "<b>"],
        title=bad,
    )
    tags = Tags(viewer.page)
    # The page's own image is made by its script.
    assert tags.names.count("script") == 2
    assert not {"img", "b"} & set(tags.names)
    page = json.loads(tags.data)
    assert page["title"] == page["models"][0]["name"] == page["classes"][0] == bad


def test_a_page_needs_nothing_else():
    page = explore(make_model(), torch.randn(1, 3, 16, 24)).page
    assert Tags(page).addresses == []
    assert set(re.findall(r"https?://[^\"'\s]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|\beval\(|@import|url\(", page)
    assert "default-src 'none'" in page
    assert "unsafe" not in page


def test_saving_and_showing(tmp_path):
    viewer = explore(make_model(), torch.randn(1, 3, 16, 24))
    path = viewer.save(tmp_path / "new/page.html")
    assert path.read_text(encoding="utf-8") == viewer.page
    assert [*path.parent.iterdir()] == [path]
    frame = viewer._repr_html_()
    assert frame.startswith('<iframe srcdoc="')
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == viewer.page
    assert 'sandbox="allow-scripts"' in frame
    with pytest.raises(ValueError, match=r"^path: expected a .html file, got .*page.png"):
        viewer.save(tmp_path / "page.png")


def test_labels_and_palette():
    model, image = make_model(), torch.randn(1, 3, 16, 24)
    label = torch.full((16, 24), 255)
    label[0, 0] = 6
    page = data_of(explore(model, image, label=label, class_names=["road"]))
    assert page["classes"] == ["road", *(f"class {number}" for number in range(1, 7))]
    colours = torch.tensor(page["palette"], dtype=torch.float32)
    assert (torch.cdist(colours, colours) + 1000 * torch.eye(7)).min() > 30
    palette = torch.randint(256, (7, 3), dtype=torch.uint8)
    assert data_of(explore(model, image, palette=palette, label=label))["palette"] == (
        palette.tolist()
    )


def test_true_objects_may_be_of_classes_that_are_not_found():
    label = {"boxes": torch.tensor([[1.0, 2, 3, 4]]), "labels": torch.tensor([9])}
    page = data_of(explore(make_model(), torch.randn(1, 3, 16, 24), label=label))
    assert page["objects"]["labels"] == [8]
    assert page["objects"]["boxes"] == [[1, 2, 3, 4]]
    assert page["label"] is None
    assert len(page["classes"]) == len(page["palette"]) == 9


def test_detectors_pad_their_images():
    model = mask_rcnn(
        "resnet18",
        context="repgraph",
        num_classes=2,
        min_size=32,
        max_size=64,
        box_score_thresh=0.0,
    )
    page = data_of(explore(model, [torch.rand(3, 48, 64)], threshold=0.0))
    (found,) = page["models"]
    # 32x43 pixels (rounded down or up), padded to 32x64.
    assert found["cover"][0] == 1
    assert found["cover"][1] == pytest.approx(64 / 42.5, rel=0.02)
    assert found["layers"][0]["maps"] == [[2, 4]]
    assert len(found["objects"]["boxes"]) == len(found["objects"]["scores"]) > 0
    assert found["objects"]["masks"]["shape"] == [48, 64]


def test_bad_input_by_its_name():
    model, image = make_model(), torch.randn(1, 3, 16, 24)
    label = torch.zeros(16, 24, dtype=torch.long)
    boxes, ones = torch.zeros(2, 4), torch.ones(2, dtype=torch.long)
    for options, message in [
        ({"picture": torch.zeros(3, 8, 8, dtype=torch.uint8)}, r"^picture: expected \[3, 16, 24\]"),
        ({"picture": torch.zeros(3, 16, 24)}, r"^picture: expected .* uint8.* got .*float32"),
        ({"label": label[:4]}, r"^label: expected shape \[16, 24\], got \[4, 24\]"),
        ({"label": label - 1}, r"^label: expected classes in 0..255, got -1..-1"),
        ({"label": {"boxes": boxes}}, r"^label: expected boxes and labels, got none .* 'labels'"),
        (
            {"label": {"boxes": boxes, "labels": ones[:1]}},
            r"^label: boxes: expected shape \[1, 4\]",
        ),
        (
            {"label": {"boxes": boxes, "labels": ones, "masks": label}},
            r"^label: masks: expected shape \[2, 16, 24\], got \[16, 24\]",
        ),
        ({"label": {"boxes": boxes, "labels": ones - 1}}, r"^label: labels: .* from 1, got 0"),
        ({"palette": torch.zeros(5, 3)}, r"^palette: expected \[C, 3\], uint8"),
        ({"palette": torch.zeros(4, 3, dtype=torch.uint8)}, r"^palette: expected 5 colours, got 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            explore(model, image, **options)
    with pytest.raises(ValueError, match=r"^image: expected one, \[1, 3, H, W\], got shape \[2, 3"):
        explore(model, torch.randn(2, 3, 16, 24))
    with pytest.raises(ValueError, match=r"^image: expected one, got 2"):
        explore(model, [image[0], image[0]])
    with pytest.raises(TypeError, match=r"^image: expected a batch, .* got str"):
        explore(model, "image.png")
    with pytest.raises(ValueError, match=r"^model: expected one with a layer .* got Segmenter$"):
        explore(make_model(None), image)
    with pytest.raises(ValueError, match=r"^model: expected a module or several"):
        explore([], image)


def test_why_no_layer_is_shown_is_said():
    class OnGraph(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = RepGraphConv(3, 3)

        def forward(self, image):
            return self.conv(image[0].flatten(1).t(), torch.tensor([[0], [1]]))

    with pytest.raises(ValueError, match=r"got OnGraph; conv is left out: it was given a graph"):
        explore(OnGraph(), torch.randn(1, 3, 4, 4))

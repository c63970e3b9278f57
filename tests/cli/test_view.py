"""The pages of what networks listen to, from the command line."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from small_runs import TINY_DETECTOR, TINY_SEGMENTER

from dyngraph.cli import main
from dyngraph.data import CocoDetection, generate_coco, generate_scenes

# About loaders without workers and logs of few steps.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


def page_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)<', text)[1])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A small data set, and a network trained on it."""
    folder = tmp_path_factory.mktemp("scenes")
    generate_scenes(folder, num_train=2, num_val=2, progress=False)
    run = [f"--data.root={folder}", f"--trainer.folder={folder / 'run'}", *TINY_SEGMENTER]
    main(["fit", *run])
    return folder


@pytest.fixture
def image(scenes):
    return sorted((scenes / "leftImg8bit/val").rglob("*.png"))[0]


def test_a_page_for_each_image(scenes, image, tmp_path, capsys):
    other = tmp_path / "my photo.jpg"
    Image.new("RGB", (48, 40), (90, 100, 110)).save(other)
    view = ["view", f"--config={scenes / 'run/config.yaml'}", f"--out={tmp_path / 'pages'}"]
    main([*view, str(image), str(other)])
    pages = [tmp_path / "pages" / f"{path.stem}.html" for path in (image, other)]
    assert capsys.readouterr().out.splitlines() == [str(page) for page in pages]
    first, second = map(page_of, pages)
    assert first["title"] == image.name
    (model,) = first["models"]
    assert (model["name"], len(model["layers"])) == ("run", 1)
    assert model["segmentation"]["classes"]["shape"] == [64, 128]
    # An image of the data set has its label.
    assert first["label"]["shape"] == [64, 128]
    assert first["classes"][:2] == ["road", "sidewalk"]
    assert second["label"] is None
    assert (second["picture"]["height"], second["picture"]["width"]) == (40, 48)


def test_two_checkpoints_side_by_side(scenes, image, tmp_path):
    """The settings of each are in its checkpoint."""
    paths = [tmp_path / name / "last.ckpt" for name in ("old", "new")]
    for path in paths:
        path.parent.mkdir()
        shutil.copy(scenes / "run/last.ckpt", path)
    view = ["view", f"--checkpoint={paths[0]}", f"--compare={paths[1]}", f"--out={tmp_path}"]
    main([*view, str(image)])
    page = page_of(tmp_path / f"{image.stem}.html")
    assert [model["name"] for model in page["models"]] == ["old", "new"]
    assert page["models"][0]["layers"] == page["models"][1]["layers"]


def test_mistakes_are_named(scenes, image, tmp_path, capsys):
    config = f"--config={scenes / 'run/config.yaml'}"

    def error(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["view", config, f"--out={tmp_path}", *map(str, arguments)])
        assert stop.value.code == 2
        return capsys.readouterr().err

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert f"{broken}: expected a readable PNG or JPEG image" in error(broken)
    same = tmp_path / image.name
    shutil.copy(image, same)
    assert f"{image} and {same} would both be written to" in error(image, same)
    assert "images" in error()
    assert "missing.ckpt" in error("--compare", tmp_path / "missing.ckpt", image)
    baseline = ["--network.context=none", f"--trainer.folder={tmp_path / 'none'}"]
    assert "last.ckpt" in error(*baseline, image)
    assert list(tmp_path.glob("*.html")) == []


@pytest.mark.slow
def test_a_detector(tmp_path, capsys):
    coco = tmp_path / "coco"
    generate_coco(coco, num_train=2, num_val=1, progress=False)
    run = [*TINY_DETECTOR, f"--data.root={coco}", f"--trainer.folder={tmp_path / 'run'}"]
    main(["fit", *run, "--network.context=repgraph"])
    (image,) = (coco / "val2017").iterdir()
    view = ["view", f"--checkpoint={tmp_path / 'run/last.ckpt'}", f"--out={tmp_path}"]
    main([*view, "--threshold=0", str(image)])
    page = page_of(tmp_path / f"{image.stem}.html")
    (model,) = page["models"]
    assert model["layers"][0]["kind"] == "RepGraphConv"
    assert len(model["objects"]["boxes"]) > 0
    # The image is one of the data that the run was trained on.
    (_, target) = CocoDetection(coco, "val")[0]
    true = page["objects"]
    assert len(true["labels"]) > 0
    assert [label + 1 for label in true["labels"]] == target["labels"].tolist()
    assert torch.tensor(true["boxes"]).allclose(
        target["boxes"].as_subclass(torch.Tensor), atol=0.01
    )
    assert true["scores"] is None
    other = shutil.copy(image, tmp_path / "other.jpg")
    main([*view, str(other)])
    assert page_of(tmp_path / "other.html")["objects"] is None
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*view, f"--compare={tmp_path / 'run/other.ckpt'}", str(image)])
    assert "other.ckpt" in capsys.readouterr().err

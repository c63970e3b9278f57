import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from dyngraph.data.labels import voc_palette
from dyngraph.evaluate.detect import detect_folder
from dyngraph.models import mask_rcnn

NAMES, IDS = ("cat", "dog"), (3, 9)


@pytest.fixture
def images(tmp_path):
    for name, size in (("a.png", (60, 40)), ("deep/b.jpg", (50, 64))):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 120, 30)).save(path)
    return tmp_path / "images"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return mask_rcnn(
        "resnet10",
        context="dgmn",
        num_classes=2,
        context_at="c5",
        min_size=64,
        max_size=96,
        box_score_thresh=0.0,
        box_detections_per_img=3,
    )


def detect(model, images, out, **options):
    return detect_folder(
        model,
        images,
        out,
        class_names=NAMES,
        category_ids=IDS,
        palette=voc_palette(2),
        **{"progress": False} | options,
    )


def test_files_for_each_image(model, images, tmp_path):
    paths = detect(model, images, tmp_path / "out", threshold=0.0)
    assert paths == [tmp_path / "out/detections/a.json", tmp_path / "out/detections/deep/b.json"]
    assert model.training
    for path, size in zip(paths, ([40, 60], [64, 50]), strict=True):
        found = json.loads(path.read_text())
        assert found
        for detection in found:
            assert set(detection) == {"category", "category_id", "bbox", "score", "segmentation"}
            assert (
                detection["category"]
                == dict(zip(IDS, NAMES, strict=True))[detection["category_id"]]
            )
            assert detection["segmentation"]["size"] == size
        name = path.relative_to(tmp_path / "out/detections").with_suffix(".png")
        with Image.open(tmp_path / "out/overlays" / name) as overlay:
            assert overlay.size == tuple(reversed(size))
        assert (tmp_path / "out/rates" / name).exists()


@pytest.mark.slow
def test_an_interrupted_run_goes_on(model, images, tmp_path):
    first, second = detect(model, images, tmp_path / "out", model_digest="a")
    whole, expected = first.read_text(), second.read_bytes()
    first.write_text("untouched")
    second.unlink()
    detect(model, images, tmp_path / "out", model_digest="a")
    assert first.read_text() == "untouched"
    assert second.read_bytes() == expected
    # Those of another model are not taken, and without a digest none are.
    for digest in ("b", None):
        first.write_text("stale")
        detect(model, images, tmp_path / "out", model_digest=digest)
        assert first.read_text() == whole


def test_an_image_that_has_changed_is_detected_again(model, images, tmp_path):
    first, second = detect(model, images, tmp_path / "out", model_digest="a")
    Image.new("RGB", (33, 44), (9, 9, 99)).save(images / "a.png")
    second.write_text("untouched")
    detect(model, images, tmp_path / "out", model_digest="a")
    assert {d["segmentation"]["size"][0] for d in json.loads(first.read_text())} == {44}
    assert second.read_text() == "untouched"


def test_bad_folders(model, images, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^images: expected the folder"):
        detect(model, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match=r"^out: expected a folder outside"):
        detect(model, images, images / "out")
    Image.new("RGB", (8, 8)).save(images / "a.jpg")
    with pytest.raises(ValueError, match="would both be written to"):
        detect(model, images, tmp_path / "out")
    (images / "a.jpg").unlink()
    Path(images / "a.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"a\.png: expected a readable PNG or JPEG image"):
        detect(model, images, tmp_path / "out")
    errors = []
    paths = detect(model, images, tmp_path / "out", on_unreadable=errors.append)
    assert paths == [tmp_path / "out/detections/deep/b.json"]
    (error,) = errors
    assert str(images / "a.png") in str(error)
    assert not (tmp_path / "out/detections/a.json").exists()


def test_pictures_are_upright(model, images, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (images / "deep/b.jpg").unlink()
    Image.new("RGB", (60, 40)).save(images / "a.png", exif=exif)
    (path,) = detect(model, images, tmp_path / "out", threshold=0.0)
    found = json.loads(path.read_text())
    assert {tuple(detection["segmentation"]["size"]) for detection in found} == {(60, 40)}
    with Image.open(tmp_path / "out/overlays/a.png") as overlay:
        assert overlay.size == (40, 60)


def test_more_pixels_than_may_be(model, images, tmp_path):
    with pytest.raises(OSError, match=r"b\.jpg: expected .* at most 3199 pixels"):
        detect(model, images, tmp_path / "out", max_pixels=64 * 50 - 1)

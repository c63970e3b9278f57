import contextlib
import io
import json
import re
import shutil

import pytest
import torch
from torch import nn

from dyngraph.data import CocoDetection, detection_eval_transform, generate_coco
from dyngraph.evaluate.coco import detections_to_coco, judge_detections
from dyngraph.evaluate.detect_listed import detect_listed

coco = pytest.importorskip("pycocotools.coco")
cocoeval = pytest.importorskip("pycocotools.cocoeval")

NAME = "detections_test-dev2017_dyngraph_results.json"


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    generate_coco(root, num_train=0, num_val=6, progress=False)
    return CocoDetection(root, "val", transform=detection_eval_transform())


@pytest.fixture
def image_info(val, tmp_path):
    """What COCO says of its test images: all but the annotations, in no order."""
    content = json.loads(val.annotation_path.read_text())
    del content["annotations"]
    content["images"].reverse()
    return write(tmp_path / "image_info_test-dev2017.json", content)


def write(path, content):
    path.write_text(json.dumps(content))
    return path


class Oracle(nn.Module):
    """Finds the objects of the images it knows, a pixel too far to the right."""

    def __init__(self, dataset):
        super().__init__()
        self.targets = {image.sum().item(): target for image, target in dataset}
        self.num_images = 0

    def forward(self, images):
        assert not self.training
        self.num_images += 1
        (image,) = images
        target = self.targets[image.sum().item()]
        boxes = target["boxes"].as_subclass(torch.Tensor) + torch.tensor([1, 0, 1, 0])
        masks = target["masks"].as_subclass(torch.Tensor).roll(1, -1)[:, None].float()
        scores = torch.linspace(0.9, 0.5, len(boxes))
        return [{"boxes": boxes, "labels": target["labels"], "scores": scores, "masks": masks}]


def detect(model, val, image_info, out, **options):
    options = {
        "images": val.image_paths[0].parent,
        "categories": dict(zip(val.category_ids, val.class_names, strict=True)),
        "progress": False,
    } | options
    return detect_listed(model, image_info, out=out, **options)


def judged_by_pycocotools(results, annotations, iou_type):
    """As the evaluation server does: it reads the file itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(annotations))
        judge = cocoeval.COCOeval(truth, truth.loadRes(str(results)), iou_type)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[:3].tolist()


def test_the_results_are_those_of_all_images(val, image_info, tmp_path):
    oracle = Oracle(val).train()
    results = detect(oracle, val, image_info, tmp_path / "out")
    assert results == tmp_path / "out" / NAME
    assert oracle.training
    found = json.loads(results.read_text())
    oracle.eval()
    expected = [
        detection
        for (image, _), id in zip(val, val.image_ids, strict=True)
        for detection in detections_to_coco(id, oracle([image])[0], val.category_ids)
    ]
    assert found == expected
    for detection in found:
        assert list(detection) == ["image_id", "category_id", "bbox", "score", "segmentation"]
        assert detection["image_id"] in val.image_ids
        assert detection["category_id"] in val.category_ids
    scores = judge_detections(found, val.annotation_path)
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        judged = judged_by_pycocotools(results, val.annotation_path, iou_type)
        assert judged == [scores[f"{kind}_{name}"] for name in ("ap", "ap50", "ap75")]
        assert 0.1 < judged[0] < 1


def test_an_interrupted_run_goes_on(val, image_info, tmp_path):
    oracle = Oracle(val)
    results = detect(oracle, val, image_info, tmp_path / "out", model_digest="a")
    expected = results.read_bytes()
    results.unlink()
    (tmp_path / f"out/results/{val.image_ids[2]}.json").unlink()
    detect(oracle, val, image_info, tmp_path / "out", model_digest="a")
    assert oracle.num_images == len(val) + 1
    assert results.read_bytes() == expected
    detect(oracle, val, image_info, tmp_path / "out", model_digest="b")
    assert oracle.num_images == 2 * len(val) + 1


def test_missing_images_are_named(val, image_info, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    first, last = (re.escape(str(images / val.image_paths[n].name)) for n in (0, -1))
    message = f"^{image_info}: images, id 1000001: expected {first}, which is missing, and 5 more$"
    with pytest.raises(FileNotFoundError, match=message):
        detect(Oracle(val), val, image_info, out, images=images)
    for path in val.image_paths[:-1]:
        (images / path.name).write_bytes(path.read_bytes())
    message = f"^{image_info}: images, id 1000006: expected {last}, which is missing$"
    with pytest.raises(FileNotFoundError, match=message):
        detect(Oracle(val), val, image_info, out, images=images)
    assert not out.exists()


def test_wrong_files_are_named(val, image_info, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"^out: expected a folder outside"):
        detect(Oracle(val), val, image_info, val.image_paths[0].parent / "out")
    nowhere = tmp_path / "nowhere.json"
    with pytest.raises(FileNotFoundError, match=f"expected the file {nowhere}, which is missing"):
        detect(Oracle(val), val, nowhere, out)
    categories = {1: "disc", 3: "square", 7: "moon", 18: "sea"}
    message = f"^{image_info}: categories, id 7: expected 'moon', as the data set has it, got 'sun'"
    with pytest.raises(ValueError, match=message):
        detect(Oracle(val), val, image_info, out, categories=categories)
    content = json.loads(image_info.read_text())
    content["images"][0]["height"] += 1
    other = write(tmp_path / "other.json", content)
    with pytest.raises(
        ValueError, match=r"expected height and width \[65, 3.*, as in .*other\.json"
    ):
        detect(Oracle(val), val, other, out)
    broken = write(tmp_path / "broken.json", {**content, "images": [{"id": 1}]})
    with pytest.raises(ValueError, match=r"broken\.json: images, id 1: expected 'file_name'"):
        detect(Oracle(val), val, broken, out)
    empty = write(tmp_path / "empty.json", {**content, "images": []})
    with pytest.raises(ValueError, match=r"empty\.json: expected images, got none"):
        detect(Oracle(val), val, empty, out)


def test_no_results_of_some_images_only(val, image_info, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(val.image_paths[0].parent, images)
    options = {"images": images, "model_digest": "a"}
    results = detect(Oracle(val), val, image_info, out, **options)
    whole = results.read_bytes()
    first, other = (images / path.name for path in val.image_paths[:2])
    first.write_bytes(b"no image")
    # Another size than that listed.
    other.write_bytes(val.image_paths[2].read_bytes())
    errors = []
    message = f"^{results}: not written: expected all 6 images of {image_info}, but 2 could"
    with pytest.raises(OSError, match=message):
        detect(Oracle(val), val, image_info, out, on_unreadable=errors.append, **options)
    assert [str(error).partition(":")[0] for error in errors] == [str(first), str(other)]
    assert not results.exists()
    ids = [path.stem for path in (out / "results").iterdir()]
    assert sorted(ids) == [str(id) for id in val.image_ids[2:]]
    for path, id in ((first, 0), (other, 1)):
        path.write_bytes(val.image_paths[id].read_bytes())
    assert detect(Oracle(val), val, image_info, out, **options).read_bytes() == whole


def test_files_of_other_images_are_not_taken(val, image_info, tmp_path):
    detect(Oracle(val), val, image_info, tmp_path / "out", model_digest="a")
    first, second = (tmp_path / f"out/results/{id}.json" for id in val.image_ids[:2])
    assert json.loads(first.read_text())
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=f"^{second}: image_id: expected 1000002, got 1000001"):
        detect(Oracle(val), val, image_info, tmp_path / "out", model_digest="a")


def test_more_pixels_than_may_be(val, image_info, tmp_path):
    with pytest.raises(OSError, match=r"\.jpg: expected .* at most 5 pixels"):
        detect(Oracle(val), val, image_info, tmp_path / "out", max_pixels=5)

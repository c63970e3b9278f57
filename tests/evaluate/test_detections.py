import contextlib
import io
import json
import math
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dyngraph.data import CocoDetection, generate_coco
from dyngraph.data.coco_masks import decode_mask
from dyngraph.evaluate.coco import (
    detections_to_coco,
    judge_detections,
    read_detections,
    write_detections,
)

coco = pytest.importorskip("pycocotools.coco")
cocoeval = pytest.importorskip("pycocotools.cocoeval")

SIZE = (20, 30)
NAMES = {4: "four", 9: "nine", 11: "eleven"}
SCORES = ("ap", "ap50", "ap75")


def random_masks(rng, count, size=SIZE):
    """Rectangles, which overlap now and then."""
    masks = np.zeros((count, *size), dtype=np.uint8)
    for mask in masks:
        row, column = rng.integers(size[0] - 6), rng.integers(size[1] - 6)
        mask[row : row + rng.integers(3, 14), column : column + rng.integers(3, 20)] = 1
    return masks


def boxes_of(masks):
    edges = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        edges.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return torch.tensor(np.array(edges).reshape(-1, 4), dtype=torch.float32)


def prediction(rng, count, masks=None):
    masks = random_masks(rng, count) if masks is None else masks
    return {
        "boxes": boxes_of(masks) + torch.tensor(rng.uniform(0, 0.7, (count, 4))).float(),
        "labels": torch.tensor(rng.integers(1, 3, count)),
        "scores": torch.tensor(rng.permutation(count) / count + rng.uniform(0, 0.01)).float(),
        "masks": torch.tensor(masks)[:, None] * 0.9 + 0.05,
    }


def random_truth(path, rng, num_images=5):
    """Objects of two of three classes, some of them crowds; the last image has none."""
    annotations, masks_of = [], {}
    for image_id in range(1, num_images):
        masks = masks_of[image_id] = random_masks(rng, 6)
        encodings = detections_to_coco(image_id, prediction(rng, 6, masks), [4, 9])
        for number, (encoding, box) in enumerate(zip(encodings, boxes_of(masks), strict=True)):
            left, top, right, bottom = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": [4, 9][number % 2],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(masks[number].sum()),
                    "iscrowd": int(number == 5),
                    "segmentation": encoding["segmentation"],
                }
            )
    content = {
        "images": [
            {"id": id, "file_name": f"{id}.jpg", "height": SIZE[0], "width": SIZE[1]}
            for id in range(1, num_images + 1)
        ],
        "categories": [{"id": id, "name": name} for id, name in NAMES.items()],
        "annotations": annotations,
    }
    path.write_text(json.dumps(content))
    return masks_of


def random_detections(rng, masks_of):
    """Some true masks, moved or with another class, and some others."""
    detections = []
    for image_id, truth in masks_of.items():
        moved = np.roll(truth, rng.integers(-1, 2), axis=2)
        masks = np.concatenate([moved, random_masks(rng, 4)])
        found = prediction(rng, len(masks), masks)
        found["labels"][:6] = torch.arange(6) % 2 + 1
        found["labels"][rng.integers(10)] = 1
        detections += detections_to_coco(image_id, found, [4, 9])
    return detections


def official(detections, path, image_ids=None):
    """The scores as pycocotools' own demo has them."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(path))
        found = truth.loadRes(json.loads(json.dumps(detections)))
        scores = {}
        for kind, iou_type in [("box", "bbox"), ("mask", "segm")]:
            judge = cocoeval.COCOeval(truth, found, iou_type)
            if image_ids is not None:
                judge.params.imgIds = image_ids
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            scores |= {f"{kind}_{name}": judge.stats[i] for i, name in enumerate(SCORES)}
            for id in sorted(NAMES):
                alone = cocoeval.COCOeval(truth, found, iou_type)
                alone.params.catIds = [id]
                alone.params.imgIds = image_ids or alone.params.imgIds
                alone.evaluate()
                alone.accumulate()
                alone.summarize()
                scores[f"{kind}_ap/{NAMES[id]}"] = alone.stats[0]
    return scores


@settings(max_examples=8)
@given(st.integers(0, 1000))
def test_scores_are_those_of_pycocotools(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("truth") / "instances.json"
    detections = random_detections(rng, random_truth(path, rng))
    for image_ids in (None, [1, 3, 5]):
        scores = judge_detections(detections, path, image_ids=image_ids)
        expected = official(detections, path, image_ids)
        assert scores.keys() == expected.keys()
        for name, score in expected.items():
            assert scores[name] == score or (math.isnan(scores[name]) and score == -1), name
        assert math.isnan(scores["box_ap/eleven"])
        assert math.isnan(scores["mask_ap/eleven"])
        assert 0 < scores["box_ap"] < scores["box_ap50"] <= 1
        shuffled = [detections[i] for i in rng.permutation(len(detections))]
        assert judge_detections(shuffled, path, image_ids=image_ids) == pytest.approx(
            scores, rel=0, abs=0, nan_ok=True
        )


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    generate_coco(root, num_train=0, num_val=20, progress=False)
    return CocoDetection(root, "val")


def perfect(dataset):
    detections = []
    for _, target in dataset:
        found = {
            "boxes": target["boxes"],
            "labels": target["labels"],
            "scores": torch.rand(len(target["labels"])),
            "masks": target["masks"][:, None].float(),
        }
        detections += detections_to_coco(target["image_id"], found, dataset.category_ids)
    return detections


def test_perfect_detections(generated, capsys):
    scores = judge_detections(perfect(generated), generated.annotation_path)
    expected = {
        f"{kind}_{name}"
        for kind in ("box", "mask")
        for name in (*SCORES, *(f"ap/{name}" for name in generated.class_names))
    }
    assert scores == dict.fromkeys(expected, 1.0)
    assert capsys.readouterr().out == ""


def test_no_detections(generated):
    scores = judge_detections([], generated.annotation_path)
    assert len(scores) == 14
    assert set(scores.values()) == {0.0}


def test_images_without_objects(generated):
    empty = [target["image_id"] for _, target in generated if not len(target["labels"])]
    scores = judge_detections(perfect(generated), generated.annotation_path, image_ids=empty)
    assert len(scores) == 14
    assert all(map(math.isnan, scores.values()))


def test_detections_and_their_judge_change_nothing(generated):
    detections = perfect(generated)
    before = json.dumps(detections)
    judge_detections(detections, generated.annotation_path)
    assert json.dumps(detections) == before


def test_a_results_file(tmp_path):
    detections = detections_to_coco(3, prediction(np.random.default_rng(0), 4), (4, 9))
    path = tmp_path / "new" / "results.json"
    write_detections(path, detections)
    assert read_detections(path) == detections
    assert sorted(path.parent.iterdir()) == [path]
    write_detections(str(path), [])
    assert read_detections(str(path)) == []
    with pytest.raises(ValueError, match="JSON"):
        write_detections(path, [{**detections[0], "score": math.nan}])
    assert read_detections(path) == []


def test_the_results_format():
    masks = torch.zeros(2, 1, 4, 5)
    masks[0, 0, 1:3, 2:4] = torch.tensor([[0.5, 0.49], [1.0, 0.51]])
    found = {
        "boxes": torch.tensor([[2.25, 1.0, 4.0, 3.5], [0.0, 0.0, 5.0, 4.0]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.25, 0.75]),
        "masks": masks,
    }
    first, second = detections_to_coco(17, found, (1, 90))
    assert first.keys() == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert (first["image_id"], first["category_id"], second["category_id"]) == (17, 90, 1)
    assert first["bbox"] == [2.25, 1.0, 1.75, 2.5]
    assert second["bbox"] == [0, 0, 5, 4]
    assert (first["score"], second["score"]) == (0.25, 0.75)
    for value in (*first["bbox"], first["score"]):
        assert type(value) is float
    assert first["segmentation"]["size"] == [4, 5]
    pixels = decode_mask(first["segmentation"], 4, 5).nonzero()
    assert np.transpose(pixels).tolist() == [[1, 2], [2, 2], [2, 3]]
    assert not decode_mask(second["segmentation"], 4, 5).any()
    # What it came from stays as it was.
    assert found["boxes"].tolist() == [[2.25, 1.0, 4.0, 3.5], [0.0, 0.0, 5.0, 4.0]]


def test_nothing_found():
    found = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
        "masks": torch.zeros(0, 1, 4, 5),
    }
    assert detections_to_coco(1, found, (1, 90)) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("boxes", torch.zeros(3, 4), r"expected boxes \[n, 4\], .* got .*\[3, 4\]"),
        ("boxes", torch.zeros(2, 5), r"got .*\[2, 5\]"),
        ("scores", torch.zeros(2, 1), r"got .*\[2, 1\]"),
        ("masks", torch.zeros(2, 4, 5), r"got .*\[2, 4, 5\]"),
        ("masks", torch.zeros(2, 3, 4, 5), r"got .*\[2, 3, 4, 5\]"),
        ("labels", torch.tensor([0, 1]), r"expected labels 1\.\.2, got \[0, 1\]"),
        ("labels", torch.tensor([3, 1]), r"expected labels 1\.\.2, got \[1, 3\]"),
        ("scores", torch.tensor([0.5, math.nan]), "expected finite boxes and scores"),
        ("boxes", torch.full((2, 4), math.inf), "expected finite boxes and scores"),
    ],
)
def test_predictions_of_other_shapes(name, value, expected):
    found = {
        "boxes": torch.zeros(2, 4),
        "labels": torch.tensor([1, 2]),
        "scores": torch.zeros(2),
        "masks": torch.zeros(2, 1, 4, 5),
    }
    with pytest.raises(ValueError, match=f"^prediction: .*{expected}"):
        detections_to_coco(1, {**found, name: value}, (4, 9))


def entry(**fields):
    return {
        "image_id": 1,
        "category_id": 4,
        "bbox": [1.0, 2.0, 3.0, 4.0],
        "score": 0.5,
        "segmentation": {"size": [10, 10], "counts": "T3"},
        **fields,
    }


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (None, "expected image_id, category_id, bbox, score, segmentation, got None"),
        ({"image_id": 1}, "expected image_id, category_id, bbox, score, segmentation, got"),
        (entry(image_id="1"), "image_id: expected an id, got '1'"),
        (entry(category_id=1.0), r"category_id: expected an id, got 1\.0"),
        (entry(bbox=[1, 2, 3]), r"bbox: expected \[x, y, width, height\], got \[1, 2, 3\]"),
        (entry(bbox=[1, 2, -3, 4]), "bbox: expected"),
        (entry(bbox=[1, 2, 3, math.inf]), "bbox: expected"),
        (entry(score=None), "score: expected a number, got None"),
        (entry(score=math.nan), "score: expected a number, got nan"),
        (entry(segmentation=[[1, 1, 2, 2, 3, 1]]), "segmentation: expected a run-length encoding"),
        (entry(segmentation={"counts": "T3"}), "segmentation: expected a run-length encoding"),
        (
            entry(segmentation={"size": [10, 10], "counts": [100]}),
            r"segmentation: expected compressed runs, got \[100\]",
        ),
        (
            entry(segmentation={"size": [10, 11], "counts": "T3"}),
            "segmentation: expected runs over 10 x 11 = 110 pixels, got 100",
        ),
        (
            entry(segmentation={"size": [-10, -10], "counts": "T3"}),
            "segmentation: expected a run-length encoding",
        ),
    ],
)
def test_broken_detections(generated, tmp_path, broken, expected):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([entry(), broken]))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: detection 1: {expected}"):
        read_detections(path)
    with pytest.raises(ValueError, match=rf"^detections\[0\]: {expected}"):
        judge_detections([broken], generated.annotation_path)


@pytest.mark.parametrize("text", ["", "[", "\xff", "{}", "3"])
def test_a_results_file_without_a_list(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text, encoding="latin1")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: expected "):
        read_detections(path)


def test_missing_files(tmp_path):
    for read in (read_detections, lambda path: judge_detections([], path)):
        with pytest.raises(FileNotFoundError, match=r"a\.json, which is missing"):
            read(tmp_path / "a.json")


def test_detections_of_something_else(generated):
    detection = perfect(generated)[0]
    path = generated.annotation_path
    image_id, size = detection["image_id"], detection["segmentation"]["size"]
    for fields, expected in [
        ({"image_id": 5}, f"image_id: expected an image of {path}, got 5"),
        ({"category_id": 2}, f"category_id: expected a category of {path}, got 2"),
        (
            {"segmentation": {"size": [10, 10], "counts": "T3"}},
            f"segmentation: expected the size {size} of image {image_id}, got [10, 10]",
        ),
    ]:
        with pytest.raises(ValueError, match=re.escape(f"detections[1]: {expected}")):
            judge_detections([detection, {**detection, **fields}], path)
    for image_ids in ([], [image_id, 5]):
        expected = f"image_ids: expected ids of images in {path}, got {image_ids[1:]}"
        with pytest.raises(ValueError, match=re.escape(expected)):
            judge_detections([detection], path, image_ids=image_ids)


@pytest.mark.parametrize("spoil", ["truncated", "polygon", "runs"])
def test_broken_ground_truth(generated, tmp_path, spoil):
    text = generated.annotation_path.read_text()
    path = tmp_path / "instances.json"
    if spoil == "truncated":
        path.write_text(text[: len(text) // 2])
        expected = "expected JSON"
    else:
        content = json.loads(text)
        broken = [[1, 1, 5, 5, 3]] if spoil == "polygon" else {"size": [96, 448], "counts": [5]}
        content["annotations"][2]["segmentation"] = broken
        path.write_text(json.dumps(content))
        expected = "annotations, id 3: segmentation: expected"
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {expected}"):
        judge_detections([], path)


def test_without_pycocotools(generated, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ImportError, match=r"pip install 'dyngraph\[eval\]'"):
        judge_detections([], generated.annotation_path)

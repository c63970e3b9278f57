import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import torchvision
from broken_files import SPOILERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from dyngraph.data import (
    CocoDetection,
    SeededSampler,
    detection_train_transform,
    generate_coco,
)
from dyngraph.data.labels import voc_palette

pytest.importorskip("pycocotools")

HEIGHT, WIDTH = 10, 12
TRIANGLE = [[1.0, 1.0, 8.0, 2.0, 4.0, 7.0]]


def pixel(row, column):
    before = HEIGHT * column + row
    return {"size": [HEIGHT, WIDTH], "counts": [before, 1, HEIGHT * WIDTH - before - 1]}


def annotation(**fields):
    return {
        "id": 1,
        "image_id": 5,
        "category_id": 9,
        "bbox": [1, 1, 7, 6],
        "area": 20.5,
        "iscrowd": 0,
        "segmentation": TRIANGLE,
        **fields,
    }


def content(*annotations, **fields):
    return {
        "images": [
            {"id": 5, "file_name": "five.jpg", "height": HEIGHT, "width": WIDTH},
            {"id": 2, "file_name": "two.png", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": [{"id": 9, "name": "nine"}, {"id": 4, "name": "four"}],
        "annotations": list(annotations),
        **fields,
    }


def write(root, content):
    path = root / "annotations" / "instances_train2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    (root / "train2017").mkdir(exist_ok=True)
    for name in ("five.jpg", "two.png"):
        Image.new("RGB", (WIDTH, HEIGHT), (9, 99, 199)).save(root / "train2017" / name)
    return path


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    generate_coco(root, num_train=12, num_val=3, seed=1, progress=False)
    return root


def test_items(generated):
    counts = []
    for split, count in [("train", 12), ("val", 3)]:
        dataset = CocoDetection(str(generated), split)
        assert len(dataset) == len(dataset.image_paths) == len(dataset.image_ids) == count
        assert dataset.image_ids == sorted(dataset.image_ids)
        items = list(dataset)
        assert len(items) == count
        for id, path, (image, target) in zip(
            dataset.image_ids, dataset.image_paths, items, strict=True
        ):
            height, width = image.shape[1:]
            assert path.name == f"{id:012d}.jpg"
            assert isinstance(image, tv_tensors.Image)
            assert image.dtype == torch.uint8
            assert image.shape[0] == 3
            assert list(target) == ["boxes", "labels", "masks", "image_id"]
            boxes, labels, masks = target["boxes"], target["labels"], target["masks"]
            assert isinstance(boxes, tv_tensors.BoundingBoxes)
            assert boxes.format == tv_tensors.BoundingBoxFormat.XYXY
            assert boxes.canvas_size == (height, width)
            assert boxes.dtype == torch.float32
            assert isinstance(masks, tv_tensors.Mask)
            assert masks.dtype == torch.uint8
            assert labels.dtype == torch.int64
            assert boxes.shape == (len(labels), 4)
            assert masks.shape == (len(labels), height, width)
            assert target["image_id"] == id
            assert set(labels.tolist()) <= {1, 2, 3, 4}
            expected = torchvision.ops.masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
            assert torch.equal(boxes.as_subclass(torch.Tensor), expected.float())
            counts.append(len(labels))
    assert min(counts) == 0
    assert max(counts) > 1


def test_classes_are_sorted_by_id(tmp_path):
    path = write(tmp_path, content(annotation(), annotation(id=2, category_id=4)))
    dataset = CocoDetection(tmp_path, "train")
    assert dataset.class_names == ("four", "nine")
    assert dataset.category_ids == (4, 9)
    assert torch.equal(dataset.palette, voc_palette(2))
    assert dataset.annotation_path == path
    assert dataset.image_ids == [2, 5]
    assert [path.name for path in dataset.image_paths] == ["two.png", "five.jpg"]
    assert dataset[1][1]["labels"].tolist() == [2, 1]


def test_targets_are_those_of_pycocotools(generated, capsys):
    coco = pytest.importorskip("pycocotools.coco").COCO(
        generated / "annotations" / "instances_train2017.json"
    )
    capsys.readouterr()
    dataset = CocoDetection(generated, "train")
    crowds = 0
    for image, target in dataset:
        annotations = coco.imgToAnns[target["image_id"]]
        crowds += sum(thing["iscrowd"] for thing in annotations)
        annotations = [thing for thing in annotations if not thing["iscrowd"]]
        assert len(annotations) == len(target["labels"])
        assert image.shape[1:] == target["masks"].shape[1:]
        for thing, box, label, mask in zip(
            annotations, target["boxes"], target["labels"], target["masks"], strict=True
        ):
            x, y, width, height = thing["bbox"]
            assert box.tolist() == [x, y, x + width, y + height]
            assert dataset.category_ids[label - 1] == thing["category_id"]
            assert np.array_equal(mask, coco.annToMask(thing))
    assert crowds > 0
    assert capsys.readouterr() == ("", "")


def test_images_without_annotations(tmp_path):
    write(tmp_path, content())
    for _, target in CocoDetection(tmp_path, "train", transform=detection_train_transform()):
        assert target["boxes"].shape == (0, 4)
        assert target["labels"].shape == (0,)
        assert target["masks"].shape == (0, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [1, 1, 8, 7]),
        ({"iscrowd": 1}, None),
        ({"bbox": [-3, -2, 9, 4]}, [0, 0, 6, 2]),
        ({"bbox": [8.5, 7.25, 90, 90]}, [8.5, 7.25, WIDTH, HEIGHT]),
        ({"bbox": [1, 1, 0, 6]}, None),
        ({"bbox": [1, 1, 7, 0.99]}, None),
        ({"bbox": [1, 1, 1, 1]}, [1, 1, 2, 2]),
        ({"bbox": [11.5, 1, 7, 6]}, None),
        ({"bbox": [-6.5, 1, 7, 6]}, None),
        ({"bbox": [40, 40, 7, 6]}, None),
        ({"segmentation": pixel(3, 4)}, [1, 1, 8, 7]),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}, None),
    ],
)
def test_what_can_be_learnt_stays(tmp_path, fields, expected):
    write(tmp_path, content(annotation(**fields)))
    target = CocoDetection(tmp_path, "train")[1][1]
    assert target["boxes"].tolist() == ([] if expected is None else [expected])
    assert len(target["labels"]) == len(target["masks"]) == len(target["boxes"])


def test_a_mask_of_one_pixel(tmp_path):
    write(tmp_path, content(annotation(segmentation=pixel(3, 4))))
    masks = CocoDetection(tmp_path, "train")[1][1]["masks"]
    assert masks.nonzero().tolist() == [[0, 3, 4]]


def test_a_seed_determines_the_augmentation_and_leaves_global_randomness_alone(generated):
    dataset = CocoDetection(generated, "train", transform=detection_train_transform())
    state = torch.get_rng_state()
    image, target = dataset[0, 5]
    assert image.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, target_again = dataset[0, 5]
    assert torch.equal(image, again)
    assert torch.equal(target["boxes"], target_again["boxes"])
    assert any(not torch.equal(image, dataset[0, seed][0]) for seed in range(6, 12))


def test_workers_load_what_one_process_does(generated):
    dataset = CocoDetection(generated, "train", transform=detection_train_transform())

    def batches(num_workers):
        sampler = SeededSampler(len(dataset), num_samples=8, seed=0)
        loader = DataLoader(dataset, 2, sampler=sampler, num_workers=num_workers, collate_fn=list)
        return [item for batch in loader for item in batch]

    for (image, target), (image_again, target_again) in zip(batches(0), batches(2), strict=True):
        assert torch.equal(image, image_again)
        for name in ("boxes", "labels", "masks"):
            assert torch.equal(target[name], target_again[name])
            assert type(target[name]) is type(target_again[name])


def test_unknown_split(generated):
    with pytest.raises(ValueError, match=r"^split: expected one of .* got '\.\.'"):
        CocoDetection(generated, "..")


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"instances_train2017\.json, which is missing"):
        CocoDetection(tmp_path, "train")
    path = write(tmp_path, content())
    (tmp_path / "train2017" / "five.jpg").unlink()
    expected = rf"^{re.escape(str(path))}: images, id 5: expected .*five\.jpg, which is missing"
    with pytest.raises(FileNotFoundError, match=expected):
        CocoDetection(tmp_path, "train")


def test_no_images(tmp_path):
    path = write(tmp_path, content(images=[]))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: expected images, got none"):
        CocoDetection(tmp_path, "train")


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("", "expected JSON"),
        ("\xff", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[]", r"expected COCO's annotations, got \[\]"),
        ("{}", "expected a list of images, got None"),
        (content(annotations={}), r"expected a list of annotations, got \{\}"),
        (content(None), r"annotations\[0\]: expected an id, got None"),
        (content({}), r"annotations\[0\]: expected an id, got \{\}"),
        (content(annotation(id=0)), "annotations, id 0: .* expected a positive number"),
        (content(annotation(id=True)), r"annotations\[0\]: expected an id"),
        (content(annotation(), annotation()), r"annotations\[1\]: expected a new id, got 1"),
        (content({"id": 3}), "annotations, id 3: expected 'image_id'"),
        (
            content(annotation(image_id=3)),
            "annotations, id 1: image_id: expected one that is listed, got 3",
        ),
        (
            content(annotation(image_id=[])),
            r"annotations, id 1: image_id: expected an id, got \[\]",
        ),
        (
            content(annotation(category_id=5)),
            "annotations, id 1: category_id: .* that is listed, got 5",
        ),
        (
            content(annotation(bbox=[1, 2, 3])),
            r"annotations, id 1: bbox: expected .* got \[1, 2, 3\]",
        ),
        (
            content(annotation(bbox=[1, 2, 3, float("nan")])),
            "annotations, id 1: bbox: .* got .*nan",
        ),
        (content(categories=[{"id": 1, "name": 1}]), "categories, id 1: name: .* got 1"),
        (
            content(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]),
            "expected one category of each name, got 'a' again",
        ),
        (content(images=[{"id": 1, "file_name": "a"}]), "images, id 1: expected 'height'"),
        *(
            (
                content(images=[{"id": 1, "file_name": name, "height": 1, "width": 1}]),
                "images, id 1: file_name: expected the name of a file, got",
            )
            for name in ("", "..", "../five.jpg", "/five.jpg", "a\\b.jpg", "a\0", 3)
        ),
        *(
            (
                content(images=[{"id": 1, "file_name": "a", "height": side, "width": 1}]),
                r"images, id 1: expected height and width 1\.\.65535, got",
            )
            for side in (0, -1, 1.5, 65536, None)
        ),
    ],
)
def test_broken_annotation_files(tmp_path, broken, expected):
    path = write(tmp_path, broken)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {expected}"):
        CocoDetection(tmp_path, "train")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"bbox": None}, "bbox: .* got None"),
        ({"bbox": [1, 2, 3, "4"]}, "bbox: .* got"),
        ({"bbox": [1, 2, 3, 10**400]}, "bbox: .* got"),
        ({"bbox": [1, 2, -3, 4]}, "bbox: .* got"),
        ({"area": -1}, "area: expected pixels, got -1"),
        ({"iscrowd": 2}, "iscrowd: expected 0 or 1, got 2"),
    ],
)
def test_broken_annotations(tmp_path, fields, expected):
    path = write(tmp_path, content(annotation(), annotation(**{"id": 7, **fields})))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: annotations, id 7: {expected}"):
        CocoDetection(tmp_path, "train")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_annotation_file(generated, tmp_path, share):
    text = (generated / "annotations" / "instances_train2017.json").read_text()
    path = write(tmp_path, text[: int(share * len(text))])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: expected JSON, got"):
        CocoDetection(tmp_path, "train")


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [TRIANGLE[0][:5]],
        {"size": [HEIGHT, WIDTH], "counts": [3]},
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": "04"},
    ],
)
def test_broken_segmentation(tmp_path, segmentation):
    path = write(tmp_path, content(annotation(id=17, segmentation=segmentation)))
    dataset = CocoDetection(tmp_path, "train")
    assert len(dataset[0][1]["labels"]) == 0
    expected = f"^{re.escape(str(path))}: annotations, id 17: segmentation: expected"
    for read in (dataset.load, dataset.check_labels):
        with pytest.raises(ValueError, match=expected):
            read(1)


def test_labels_of_good_files(generated):
    dataset = CocoDetection(generated, "train")
    for index in range(len(dataset)):
        dataset.check_labels(index)
        assert dataset.check_headers(index) == dataset[index][0].shape[1:]


def test_segmentations_that_only_the_judge_reads_are_checked(tmp_path):
    """Crowds are not learnt, but judged by."""
    path = write(tmp_path, content(annotation(iscrowd=1, segmentation=None)))
    expected = f"^{re.escape(str(path))}: annotations, id 1: segmentation: expected"
    with pytest.raises(ValueError, match=expected):
        CocoDetection(tmp_path, "train").check_labels(1)


def test_an_image_of_another_size(tmp_path):
    path = write(tmp_path, content())
    image = tmp_path / "train2017" / "five.jpg"
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(image)
    dataset = CocoDetection(tmp_path, "train")
    expected = (
        f"{image}: expected height and width [{HEIGHT}, {WIDTH}], as in {path}, images, id 5; "
        f"got [{HEIGHT + 1}, {WIDTH}]"
    )
    for read in (dataset.load, dataset.check_headers):
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            read(1)
    assert dataset.check_headers(0) == (HEIGHT, WIDTH)


def test_sizes_are_those_of_upright_images(tmp_path):
    path = write(tmp_path, content(annotation()))
    exif = Image.Exif()
    exif[0x0112] = 6
    five, two = (tmp_path / "train2017" / name for name in ("five.jpg", "two.png"))
    Image.new("RGB", (HEIGHT, WIDTH)).save(five, exif=exif)
    Image.new("RGB", (WIDTH, HEIGHT)).save(two, exif=exif)
    dataset = CocoDetection(tmp_path, "train")
    assert dataset.check_headers(1) == (HEIGHT, WIDTH)
    assert dataset[1][0].shape == (3, HEIGHT, WIDTH)
    expected = (
        f"{two}: expected height and width [{HEIGHT}, {WIDTH}], as in {path}, images, id 2; got "
        f"[{WIDTH}, {HEIGHT}] (stored as [{HEIGHT}, {WIDTH}], turned by EXIF orientation 6)"
    )
    for read in (dataset.load, dataset.check_headers):
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            read(0)


def test_more_pixels_than_may_be(tmp_path):
    write(tmp_path, content())
    assert CocoDetection(tmp_path, "train", max_pixels=HEIGHT * WIDTH)[0]
    dataset = CocoDetection(tmp_path, "train", max_pixels=HEIGHT * WIDTH - 1)
    for read in (dataset.load, dataset.check_headers):
        with pytest.raises(OSError, match=r"two\.png: expected .* at most 119 pixels, .* = 120$"):
            read(0)
    with pytest.raises(ValueError, match=r"^max_pixels: expected at least 1, got 0$"):
        CocoDetection(tmp_path, "train", max_pixels=0)


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_unreadable_image(generated, tmp_path, spoil):
    root = shutil.copytree(generated, tmp_path / "coco")
    dataset = CocoDetection(root, "val")
    path = dataset.image_paths[0]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(OSError, match=re.escape(f"{path}: expected a readable PNG")):
        dataset[0]


def test_grey_images_become_rgb(tmp_path):
    write(tmp_path, content())
    Image.new("L", (WIDTH, HEIGHT), 77).save(tmp_path / "train2017" / "two.png")
    image, _ = CocoDetection(tmp_path, "train")[0]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert image.unique().tolist() == [77]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_or_named(tmp_path, place, byte):
    crowd = annotation(id=2, iscrowd=1, segmentation=pixel(3, 4))
    path = write(tmp_path, content(annotation(), crowd))
    changed = bytearray(path.read_bytes())
    changed[int(place * len(changed))] = byte
    path.write_bytes(changed)
    problem, targets = "", []
    try:
        targets = [target for _, target in CocoDetection(tmp_path, "train")]
    except (OSError, ValueError) as error:
        problem = str(error)
    assert bool(targets) != (str(path) in problem)
    for target in targets:
        assert target["boxes"].isfinite().all()
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])


def test_without_pycocotools(tmp_path, monkeypatch):
    write(tmp_path, content(annotation()))
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    dataset = CocoDetection(tmp_path, "train")
    with pytest.raises(ImportError, match=r"pip install 'dyngraph\[eval\]'"):
        dataset[1]

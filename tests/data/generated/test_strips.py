import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import roi_align

from dyngraph.data import FAR_CLASSES, NEAR_CLASSES, CocoDetection, generate_coco
from dyngraph.data.generated.strips import draw_strip, plan_strip
from dyngraph.models import mask_rcnn

pytest.importorskip("pycocotools")

COLOURS = {"sun": (240, 150, 30), "sea": (40, 80, 220)}


def generate(root, **kwargs):
    generate_coco(root, **{"num_train": 3, "num_val": 2, "progress": False, **kwargs})


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def strips(count, seed=0):
    return [plan_strip(seed, "train", number) for number in range(count)]


def columns(thing):
    """The first and the end column of an object."""
    found = np.flatnonzero(thing.mask.any(0))
    return int(found[0]), int(found[-1]) + 1


def distance(strip, thing):
    """The columns between an object and the beacon."""
    left, right = columns(thing)
    beacon = strip.beacon[1]
    return max(left - beacon.stop, beacon.start - right)


def test_files_are_those_of_coco(tmp_path):
    generate(tmp_path)
    assert sorted(files(tmp_path)) == [
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
        "scenes.json",
        "train2017/000000000001.jpg",
        "train2017/000000000002.jpg",
        "train2017/000000000003.jpg",
        "val2017/000001000001.jpg",
        "val2017/000001000002.jpg",
    ]
    with Image.open(tmp_path / "train2017" / "000000000001.jpg") as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
    content = json.loads((tmp_path / "annotations" / "instances_val2017.json").read_text())
    assert sorted(content) == ["annotations", "categories", "images", "info", "licenses"]
    assert [(category["id"], category["name"]) for category in content["categories"]] == [
        (1, "disc"),
        (3, "square"),
        (7, "sun"),
        (18, "sea"),
    ]
    assert NEAR_CLASSES == ("disc", "square")
    assert FAR_CLASSES == ("sun", "sea")


def test_the_data_set_reads_what_was_drawn(tmp_path):
    generate(tmp_path, num_train=8, seed=3)
    dataset = CocoDetection(tmp_path, "train")
    for number, (image, target) in enumerate(dataset):
        strip = plan_strip(3, "train", number)
        error = np.abs(image.permute(1, 2, 0).numpy().astype(int) - draw_strip(strip)).mean()
        assert error < 10
        objects = [thing for thing in strip.objects if not thing.is_crowd]
        assert [dataset.class_names[label - 1] for label in target["labels"]] == [
            thing.category for thing in objects
        ]
        for mask, thing in zip(target["masks"], objects, strict=True):
            assert np.array_equal(mask, thing.mask)


def test_an_interrupted_set_is_completed(tmp_path):
    generate(tmp_path / "whole")
    whole = files(tmp_path / "whole")
    generate(tmp_path / "set")
    for name in ("annotations/instances_train2017.json", "train2017/000000000002.jpg"):
        (tmp_path / "set" / name).unlink()
    marker = json.loads(whole["scenes.json"])
    (tmp_path / "set" / "scenes.json").write_text(json.dumps({**marker, "finished": False}))
    generate(tmp_path / "set")
    assert files(tmp_path / "set") == whole


def test_a_picture_depends_on_seed_split_and_number_only(tmp_path):
    for name, kwargs in [("a", {}), ("b", {}), ("more", {"num_train": 5}), ("c", {"seed": 1})]:
        generate(tmp_path / name, **kwargs)
    found = {name: files(tmp_path / name) for name in ("a", "b", "more", "c")}
    assert found["a"] == found["b"]
    images = {path: image for path, image in found["a"].items() if path.endswith(".jpg")}
    assert len(images) == len(set(images.values())) == 5
    assert images.items() <= found["more"].items()
    assert not set(images.values()) & set(found["c"].values())


def test_something_else_in_the_way(tmp_path):
    (tmp_path / "annotations").mkdir()
    with pytest.raises(ValueError, match=r"root: expected a new folder, got .* annotations in it"):
        generate(tmp_path)


def test_what_strips_hold():
    planned = strips(400)
    things = [thing for strip in planned for thing in strip.objects]
    objects = [thing for thing in things if not thing.is_crowd]
    counts = [sum(not thing.is_crowd for thing in strip.objects) for strip in planned]
    assert set(counts) == {0, 2, 3, 4, 5, 6}
    assert 20 <= counts.count(0) <= 60
    shares = {
        name: np.mean([thing.category == name for thing in objects])
        for name in (*NEAR_CLASSES, *FAR_CLASSES)
    }
    assert all(0.14 < share < 0.4 for share in shares.values()), shares
    assert 40 <= sum(thing.is_crowd for thing in things) <= 110
    for thing in things:
        if thing.is_crowd:
            assert thing.category in NEAR_CLASSES
            assert isinstance(thing.segmentation["counts"], list)
        elif thing.category == "disc":
            assert isinstance(thing.segmentation["counts"], str)
        else:
            assert isinstance(thing.segmentation, list)
    assert {strip.size for strip in planned} == {(64, width) for width in (320, 336)}


def test_objects_stay_in_the_picture_and_do_not_overlap():
    for strip in strips(200):
        for thing in strip.objects:
            assert thing.mask.shape == strip.size
            assert not thing.mask[strip.beacon].any()
            if not thing.is_crowd:
                left, right = columns(thing)
                assert 0 < left < right < strip.size[1]
                assert 12 <= right - left <= 31
        total = sum(thing.mask.astype(int) for thing in strip.objects)
        assert np.max(total) <= 1


def test_the_colour_of_the_beacon_is_the_class(tmp_path):
    generate(tmp_path, num_train=40)
    dataset = CocoDetection(tmp_path, "train")
    seen = set()
    for number, (image, target) in enumerate(dataset):
        mean = image[:, *plan_strip(0, "train", number).beacon].float().mean((1, 2))
        nearest = min(
            COLOURS, key=lambda name: (mean - torch.tensor(COLOURS[name])).abs().sum().item()
        )
        names = {dataset.class_names[label - 1] for label in target["labels"]}
        assert names & set(FAR_CLASSES) <= {nearest}
        seen |= names
    assert seen == {*NEAR_CLASSES, *FAR_CLASSES}


def test_nothing_but_the_beacon_tells_the_class(tmp_path):
    for strip in strips(6):
        other = next(name for name in FAR_CLASSES if name != strip.far_class)
        pictures = [draw_strip(strip), draw_strip(strip._replace(far_class=other))]
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / f"{number}.jpg", quality=95)
        stored = [np.asarray(Image.open(tmp_path / f"{n}.jpg")) for n in range(2)]
        for first, second in (pictures, stored):
            differs = (first != second).any(axis=(0, 2)).nonzero()[0]
            # A decoder that smooths colours reads one column more.
            assert strip.beacon[1].start - 1 <= differs.min()
            assert differs.max() <= strip.beacon[1].stop


def test_far_classes_are_out_of_sight():
    """What RoIAlign reads of objects does not depend on the beacon's pixels, by measurement."""
    backbone = mask_rcnn("resnet10").backbone
    # In float64, convolutions are summed without fast transforms, whose rounding errors spread.
    backbone = backbone.double().eval()
    with_objects = [strip for strip in strips(40) if any(not o.is_crowd for o in strip.objects)]
    sides = set()
    for strip in with_objects[:4]:
        beacon = strip.beacon[1]
        extents = [columns(thing) for thing in strip.objects if not thing.is_crowd]
        left, right = min(start for start, _ in extents), max(end for _, end in extents)
        sides.add(left > beacon.stop)
        image = torch.from_numpy(draw_strip(strip)).permute(2, 0, 1)[None].double() / 255
        levels = list(backbone(image.requires_grad_()).values())[:4]
        read = 0
        for level, features in enumerate(levels):
            # Boxes of this size are read at the finest level: there, one twice as wide too.
            margin = 36 if level == 0 else 8
            box = torch.tensor([[0, left - margin, 0, right + margin, strip.size[0]]]).double()
            values = roi_align(features, box, (14, 14), 0.25 / 2**level, sampling_ratio=2)
            read = read + values.square().sum()
        gradient = torch.autograd.grad(read, image)[0].abs().sum((0, 1, 2))
        assert (gradient[beacon.start - 2 : beacon.stop + 2] == 0).all()
        # It's not for want of a gradient: half the way to the beacon there is one.
        way = slice(beacon.stop, left) if left > beacon.stop else slice(right, beacon.start)
        middle = (way.start + way.stop) // 2
        assert (gradient[min(middle, left) : max(middle, right)] > 0).all()
    assert sides == {True, False}


def test_distances():
    distances = [
        distance(strip, thing)
        for strip in strips(200)
        for thing in strip.objects
        if not thing.is_crowd
    ]
    assert min(distances) >= 167
    assert max(distances) < 280

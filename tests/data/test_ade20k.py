import re

import numpy as np
import pytest
from PIL import Image

from dyngraph.data import ADE20KSegmentation


def save(root, name, values, folder="training"):
    for part, suffix in [("images", ".jpg"), ("annotations", ".png")]:
        path = root / part / folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def test_zero_is_ignored_and_classes_count_from_one(tmp_path):
    save(tmp_path, "ADE_train_00000002", [[1, 2], [150, 0]])
    save(tmp_path, "ADE_train_00000001", [[7]])
    save(tmp_path, "ADE_val_00000001", [[3]], "validation")
    dataset = ADE20KSegmentation(tmp_path, "train")
    assert [path.stem for path in dataset.image_paths] == [
        "ADE_train_00000001",
        "ADE_train_00000002",
    ]
    assert [label.tolist() for _, label in dataset] == [[[6]], [[0, 1], [149, 255]]]
    assert [label.tolist() for _, label in ADE20KSegmentation(tmp_path, "val")] == [[[2]]]


@pytest.mark.parametrize("value", [151, 255])
def test_a_value_above_150_is_named(tmp_path, value):
    save(tmp_path, "a", [[150, value]])
    label = tmp_path / "annotations" / "training" / "a.png"
    expected = re.escape(f"{label}: values: expected 0..150, got {value}")
    with pytest.raises(ValueError, match=expected):
        ADE20KSegmentation(tmp_path, "train")[0]


def test_no_images(tmp_path):
    for folder in ("images", "annotations"):
        (tmp_path / folder / "validation").mkdir(parents=True)
    (tmp_path / "images" / "validation" / "index.txt").touch()
    with pytest.raises(ValueError, match=r"expected images in .*validation, got none"):
        ADE20KSegmentation(tmp_path, "val")


def test_class_names():
    names = ADE20KSegmentation.class_names
    assert len(names) == len(set(names)) == 150
    # By their numbers in objectInfo150.txt.
    known = {1: "wall", 8: "bed", 45: "chest of drawers", 73: "palm", 84: "truck", 99: "bottle"}
    known |= {111: "stool", 124: "trade name", 140: "fan", 150: "flag"}
    assert {number: names[number - 1] for number in known} == known

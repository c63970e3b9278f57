import re

import numpy as np
import pytest
from PIL import Image

from dyngraph.data import CamVidSegmentation


def save(root, split, name, values):
    for folder in (split, f"{split}annot"):
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(np.asarray(values, dtype=np.uint8)).save(root / folder / f"{name}.png")


def test_each_split_has_two_folders_and_11_is_ignored(tmp_path):
    save(tmp_path, "train", "0006R0_f00930", [[0, 10], [11, 3]])
    save(tmp_path, "train", "0001TP_006690", [[7]])
    save(tmp_path, "val", "0016E5_07959", [[8]])
    save(tmp_path, "test", "Seq05VD_f00000", [[9]])
    dataset = CamVidSegmentation(tmp_path, "train")
    assert [path.stem for path in dataset.image_paths] == ["0001TP_006690", "0006R0_f00930"]
    assert [path.parent.name for path in dataset.label_paths] == ["trainannot"] * 2
    assert [label.tolist() for _, label in dataset] == [[[7]], [[0, 10], [255, 3]]]
    assert CamVidSegmentation(tmp_path, "val")[0][1].tolist() == [[8]]
    assert CamVidSegmentation(tmp_path, "test")[0][1].tolist() == [[9]]


@pytest.mark.parametrize("value", [12, 255])
def test_a_value_above_11_is_named(tmp_path, value):
    save(tmp_path, "train", "a", [[11, value]])
    label = tmp_path / "trainannot" / "a.png"
    expected = re.escape(f"{label}: values: expected 0..11, got {value}")
    with pytest.raises(ValueError, match=expected):
        CamVidSegmentation(tmp_path, "train")[0]


def test_an_image_without_a_label(tmp_path):
    save(tmp_path, "val", "a", [[1]])
    (tmp_path / "valannot" / "a.png").unlink()
    expected = re.escape(f"root: expected {tmp_path / 'valannot' / 'a.png'}, the label of ")
    with pytest.raises(FileNotFoundError, match=expected):
        CamVidSegmentation(tmp_path, "val")


def test_class_names():
    names = CamVidSegmentation.class_names
    assert len(names) == len(set(names)) == 11
    # By the labels of the SegNet tutorial.
    assert (names[0], names[3], names[5], names[8], names[10]) == (
        "sky", "road", "tree", "car", "bicyclist"
    )  # fmt: skip

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dyngraph.data import PascalContextSegmentation


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def write_list(root, text, split="train"):
    path = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def root(tmp_path):
    for name in ("2008_000002", "2008_000001", "2009_000001"):
        save(tmp_path / "JPEGImages" / f"{name}.jpg", [[5, 5], [5, 5]])
        save(tmp_path / "SegmentationClassContext" / f"{name}.png", [[0, 1], [2, 59]])
    write_list(tmp_path, "2008_000002\n2008_000001\n")
    write_list(tmp_path, "2009_000001\n", "val")
    return tmp_path


def test_the_list_says_what_a_split_holds(root):
    dataset = PascalContextSegmentation(root, "train")
    assert [path.name for path in dataset.image_paths] == ["2008_000001.jpg", "2008_000002.jpg"]
    assert [path.name for path in dataset.label_paths] == ["2008_000001.png", "2008_000002.png"]
    assert dataset[0][1].tolist() == [[255, 0], [1, 58]]
    assert len(PascalContextSegmentation(root, "val")) == 1


def test_palette_indices_and_grey_values_mean_the_same(root):
    path = root / "SegmentationClassContext" / "2009_000001.png"
    label = Image.open(path)
    label.putpalette([9] * 768)
    label.save(path)
    assert Image.open(path).mode == "P"
    assert PascalContextSegmentation(root, "val")[0][1].tolist() == [[255, 0], [1, 58]]


def test_missing_list(root):
    path = write_list(root, "")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"expected the file {path}, which is")):
        PascalContextSegmentation(root, "train")


def test_empty_list(root):
    path = write_list(root, "\n")
    with pytest.raises(
        ValueError, match=re.escape(f"{path}: expected one name per line, got none")
    ):
        PascalContextSegmentation(root, "train")


def test_a_name_without_an_image(root):
    write_list(root, "2008_000001\n2008_000003\n")
    image = root / "JPEGImages" / "2008_000003.jpg"
    expected = re.escape(f"root: expected the image {image}, which is missing")
    with pytest.raises(FileNotFoundError, match=expected):
        PascalContextSegmentation(root, "train")


@pytest.mark.parametrize("name", ["../2008_000001", "/etc/passwd", "a/b", "..\\x", "a\0b"])
def test_a_name_that_leads_elsewhere(root, name):
    # What it leads to is there: only the name is wrong.
    save(root / "2008_000001.jpg", [[5]])
    save(root / "2008_000001.png", [[1]])
    path = write_list(root, f"2008_000001\n{name}\n")
    expected = re.escape(f"{path}: expected names of files, got {name!r}")
    with pytest.raises(ValueError, match=expected):
        PascalContextSegmentation(root, "train")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(["..", ".", "/", "\\", "2008_000001", "a"]), min_size=1))
def test_no_list_leads_out_of_the_folders(root, parts):
    write_list(root, "".join(parts))
    try:
        dataset = PascalContextSegmentation(root, "train")
    except (FileNotFoundError, ValueError):
        return
    assert [path.parent for path in dataset.image_paths] == [root / "JPEGImages"]
    assert [path.parent for path in dataset.label_paths] == [root / "SegmentationClassContext"]


def test_class_names():
    names = PascalContextSegmentation.class_names
    assert len(names) == len(set(names)) == 59
    assert list(names) == sorted(names)
    assert (names[0], names[18], names[37], names[58]) == ("aeroplane", "computer", "plate", "wood")

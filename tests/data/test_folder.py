import re

import numpy as np
import pytest
from PIL import Image

from dyngraph.data import FolderSegmentation


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    for image in ("b.jpg", "a.png", "city/far/c.d.JPEG", "city/a.jpeg"):
        save(tmp_path / "images" / "train" / image, [[5, 5, 5]])
        mask = (tmp_path / "masks" / "train" / image).with_suffix(".png")
        save(mask, [[0, 1, 255]])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


def test_images_of_all_suffixes_at_any_depth(root):
    (root / "images" / "train" / "notes.txt").write_text("no image")
    dataset = FolderSegmentation(root, "train")
    images = [str(path.relative_to(root / "images/train")) for path in dataset.image_paths]
    masks = [str(path.relative_to(root / "masks/train")) for path in dataset.label_paths]
    assert images == ["a.png", "b.jpg", "city/a.jpeg", "city/far/c.d.JPEG"]
    assert masks == ["a.png", "b.png", "city/a.png", "city/far/c.d.png"]
    assert [label.tolist() for _, label in dataset] == 4 * [[[0, 1, 255]]]


def test_classes_are_those_of_the_file(root):
    dataset = FolderSegmentation(root, "train")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.num_classes == 2
    assert dataset.palette.tolist() == [[128, 0, 0], [0, 128, 0]]


def test_masks_may_be_palette_indices(root):
    path = root / "masks" / "train" / "a.png"
    mask = Image.open(path)
    mask.putpalette([9] * 768)
    mask.save(path)
    assert Image.open(path).mode == "P"
    assert FolderSegmentation(root, "train")[0][1].tolist() == [[0, 1, 255]]


def test_missing_mask(root):
    mask = root / "masks" / "train" / "city" / "a.png"
    mask.unlink()
    image = root / "images" / "train" / "city" / "a.jpeg"
    expected = re.escape(f"root: expected {mask}, the label of {image}")
    with pytest.raises(FileNotFoundError, match=expected):
        FolderSegmentation(root, "train")


@pytest.mark.parametrize("value", [2, 254])
def test_a_mask_with_a_value_that_is_no_class(root, value):
    mask = root / "masks" / "train" / "a.png"
    save(mask, [[0, value, 255]])
    expected = re.escape(f"{mask}: values: expected classes 0..1 or 255, got {value}")
    with pytest.raises(ValueError, match=expected):
        FolderSegmentation(root, "train")[0]


def test_missing_classes(root):
    classes = root / "classes.txt"
    classes.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"expected the file {classes}")):
        FolderSegmentation(root, "train")


def test_no_classes(root):
    classes = root / "classes.txt"
    classes.write_text("\n")
    with pytest.raises(
        ValueError, match=re.escape(f"{classes}: expected one name per line, got none")
    ):
        FolderSegmentation(root, "train")


def test_as_many_classes_as_a_mask_can_hold(root):
    classes = root / "classes.txt"
    classes.write_text("\n".join(map(str, range(255))))
    assert len(FolderSegmentation(root, "train").palette) == 255
    classes.write_text("\n".join(map(str, range(256))))
    expected = re.escape(f"{classes}: expected at most 255 names, got 256")
    with pytest.raises(ValueError, match=expected):
        FolderSegmentation(root, "train")


def test_no_images(root):
    for folder in ("images", "masks"):
        (root / folder / "test").mkdir()
    with pytest.raises(ValueError, match=r"expected images in .*test, got none"):
        FolderSegmentation(root, "test")


def rotated(path):
    """Has a viewer turn an image of a row of pixels, so that it's a column."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).copy().save(path, exif=exif)


@pytest.mark.parametrize("image", ["a.png", "b.jpg"])
def test_a_mask_is_that_of_the_upright_image(root, image):
    path = root / "images" / "train" / image
    mask = (root / "masks" / "train" / image).with_suffix(".png")
    rotated(path)
    save(mask, [[0], [1], [255]])
    dataset = FolderSegmentation(root, "train")
    index = dataset.image_paths.index(path)
    assert dataset.check_headers(index) == (3, 1)
    assert [part.shape for part in dataset[index]] == [(3, 3, 1), (3, 1)]


def test_a_mask_of_the_image_as_it_is_stored(root):
    path = root / "images" / "train" / "a.png"
    mask = root / "masks" / "train" / "a.png"
    rotated(path)
    expected = re.escape(
        f"expected image and label of one size, got [3, 1] in {path} (stored as [1, 3], turned by "
        f"EXIF orientation 6) and [1, 3] in {mask}"
    )
    dataset = FolderSegmentation(root, "train")
    for read in (dataset.load, dataset.check_headers):
        with pytest.raises(ValueError, match=f"^{expected}$"):
            read(0)

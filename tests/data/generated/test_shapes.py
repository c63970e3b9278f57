import numpy as np
import pytest
from PIL import Image

from dyngraph.data import DATASETS, GENERATORS
from dyngraph.data.generated.shapes import FOLDER_CLASSES, draw_shapes

KINDS = ["ade20k", "camvid", "folder", "pascal_context"]


def generate(kind, root, **kwargs):
    arguments = {"num_train": 3, "num_val": 2, "progress": False, **kwargs}
    GENERATORS[kind](root, **arguments)


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_data_set_reads_what_was_drawn(kind, tmp_path):
    generate(kind, tmp_path, seed=3)
    for split, count in [("train", 3), ("val", 2)]:
        dataset = DATASETS[kind](tmp_path, split)
        assert len(dataset) == count
        for number, (image, label) in enumerate(dataset):
            drawn = draw_shapes(3, split, number, dataset.palette)
            assert np.array_equal(label, drawn.classes)
            pixels = image.permute(1, 2, 0).numpy().astype(int)
            error = np.abs(pixels - drawn.image).mean()
            assert error == 0 if kind in ("camvid", "folder") else error < 10


def test_files_are_of_the_set_s_own_formats(tmp_path):
    expected = {
        "ade20k": [
            ("images/training/ADE_train_00000001.jpg", "JPEG", "RGB"),
            ("annotations/validation/ADE_val_00000002.png", "PNG", "L"),
        ],
        "camvid": [
            ("train/0001TP_000000.png", "PNG", "RGB"),
            ("valannot/0001TP_000001.png", "PNG", "L"),
        ],
        "folder": [
            ("images/train/000000.png", "PNG", "RGB"),
            ("masks/val/000001.png", "PNG", "L"),
        ],
        "pascal_context": [
            ("JPEGImages/2008_000000.jpg", "JPEG", "RGB"),
            ("SegmentationClassContext/2009_000001.png", "PNG", "P"),
        ],
    }
    for kind, paths in expected.items():
        generate(kind, tmp_path / kind)
        for path, form, mode in paths:
            with Image.open(tmp_path / kind / path) as image:
                assert (image.format, image.mode) == (form, mode)


def test_colours_say_the_classes():
    palette = DATASETS["ade20k"].palette
    colours = np.array([*palette.tolist(), [0, 0, 0]])
    for number in range(20):
        image, classes = draw_shapes(0, "train", number, palette)
        for found in np.unique(classes):
            mean = image[classes == found].mean(0)
            nearest = np.abs(colours - mean).sum(1).argmin()
            assert nearest == (150 if found == 255 else found)


def test_sizes_vary_around_the_mean():
    palette = DATASETS["ade20k"].palette
    shapes = [draw_shapes(0, "train", number, palette) for number in range(40)]
    sizes = {picture.classes.shape for picture in shapes}
    assert len(sizes) > 20
    for height, width in sizes:
        assert 84 <= height <= 108
        assert 112 <= width <= 144
    assert all(picture.image.shape == (*picture.classes.shape, 3) for picture in shapes)
    assert np.mean([(picture.classes == 255).mean() for picture in shapes]) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_depends_on_seed_split_and_number_only(kind, tmp_path):
    for name, kwargs in [("a", {}), ("b", {}), ("more", {"num_train": 5}), ("c", {"seed": 1})]:
        generate(kind, tmp_path / name, **kwargs)
    pictures = {name: files(tmp_path / name) for name in ("a", "b", "more", "c")}
    assert pictures["a"] == pictures["b"]
    images = {
        path: content
        for path, content in pictures["a"].items()
        if not path.endswith((".txt", ".json"))
    }
    assert len(images) == len(set(images.values())) == 10
    assert images.items() <= pictures["more"].items()
    assert not set(images.values()) & set(pictures["c"].values())


def test_names_of_the_folder_s_classes(tmp_path):
    generate("folder", tmp_path)
    assert DATASETS["folder"](tmp_path, "val").class_names == FOLDER_CLASSES

import re

import numpy as np
import pytest
import torch
from broken_files import SPOILERS, grey_png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from dyngraph.data import DATASETS, SeededSampler, SegmentationDataset, train_transform

# What the values of a label file may be at most, and a value that is none.
HIGHEST = {"ade20k": 150, "camvid": 11, "cityscapes": 33, "folder": 255, "pascal_context": 59}
UNKNOWN = {"ade20k": 151, "camvid": 12, "cityscapes": 34, "folder": 6, "pascal_context": 255}


def first(root, kind, split="train"):
    """The files of the first item."""
    dataset = DATASETS[kind](root, split)
    return dataset.image_paths[0], dataset.label_paths[0]


def save(path, pixels):
    Image.fromarray(pixels).save(path, format="PNG")


def test_the_base_is_abstract(tmp_path):
    with pytest.raises(TypeError, match="abstract"):
        SegmentationDataset(tmp_path, "train")


def test_items(generated, kind):
    for split, count in [("train", 3), ("val", 2)]:
        dataset = DATASETS[kind](str(generated / kind), split)
        assert len(dataset) == len(dataset.image_paths) == len(dataset.label_paths) == count
        assert dataset.image_paths == sorted(dataset.image_paths)
        items = list(dataset)
        assert len(items) == count
        for image, label in items:
            assert isinstance(image, tv_tensors.Image)
            assert isinstance(label, tv_tensors.Mask)
            assert image.dtype == torch.uint8
            assert label.dtype == torch.int64
            assert image.shape == (3, *label.shape)
            classes = set(label.unique().tolist())
            assert 255 in classes
            assert len(classes) > 1
            assert classes <= {*range(dataset.num_classes), 255}


def test_classes_have_names_and_colours(generated, kind):
    dataset = DATASETS[kind](generated / kind, "val")
    assert dataset.num_classes == len(dataset.class_names) == len(set(dataset.class_names))
    assert dataset.palette.shape == (dataset.num_classes, 3)
    assert dataset.palette.dtype == torch.uint8
    assert len(dataset.palette.unique(dim=0)) == dataset.num_classes


def test_unknown_split(generated, kind):
    with pytest.raises(ValueError, match=r"split: expected one of \('train', .* got '\.\.'"):
        DATASETS[kind](generated / kind, "..")


def test_missing_folders(own, kind):
    image, label = first(own, kind)
    for folder in {image.parent, label.parent, own}:
        moved = folder.with_name("moved")
        folder.rename(moved)
        with pytest.raises((FileNotFoundError, ValueError), match=re.escape(str(folder.parent))):
            DATASETS[kind](own, "train")
        moved.rename(folder)
    assert len(DATASETS[kind](own, "train")) == 3


def test_missing_label(own, kind):
    image, label = first(own, kind)
    label.unlink()
    expected = f"root: expected {label}, the label of {image}"
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        DATASETS[kind](own, "train")


def test_image_and_label_of_different_sizes(own, kind):
    dataset = DATASETS[kind](own, "train")
    image, label = dataset.image_paths[0], dataset.label_paths[0]
    height, width = dataset[0][1].shape
    save(label, np.zeros((4, 5), dtype=np.uint8))
    expected = re.escape(f"[{height}, {width}] in {image} and [4, 5] in {label}")
    with pytest.raises(ValueError, match=expected):
        dataset[0]


def test_a_value_that_is_no_class(own, kind):
    image, label = first(own, kind)
    values = np.zeros(Image.open(image).size[::-1], dtype=np.uint8)
    values[3, 4] = UNKNOWN[kind]
    save(label, values)
    expected = re.escape(f"{label}: ") + rf"\w+: expected .*, got {UNKNOWN[kind]}$"
    with pytest.raises(ValueError, match=expected):
        DATASETS[kind](own, "train")[0]
    values[3, 4] = HIGHEST[kind]
    save(label, values)
    assert DATASETS[kind](own, "train")[0][1].shape == values.shape


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [
        (np.zeros((2, 3, 3), dtype=np.uint8), "RGB"),
        (np.zeros((2, 3), dtype=np.uint16), "I;16"),
        (np.zeros((2, 3), dtype=bool), "1"),
    ],
)
def test_label_of_another_mode(own, kind, pixels, mode):
    label = first(own, kind)[1]
    save(label, pixels)
    expected = re.escape(str(label)) + f": expected 8-bit values, .* got mode {mode}$"
    with pytest.raises(ValueError, match=expected):
        DATASETS[kind](own, "train")[0]


@pytest.mark.parametrize("kind", ["ade20k", "cityscapes"])
def test_palette_indices_only_where_the_format_has_them(own, kind):
    label = first(own, kind)[1]
    Image.open(label).convert("P").save(label)
    with pytest.raises(ValueError, match=re.escape(str(label)) + ": .* mode L, got mode P$"):
        DATASETS[kind](own, "train")[0]


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_values_of_few_bits_are_not_stretched(own, kind, bits):
    label = first(own, kind)[1]
    label.write_bytes(grey_png(2, 3, bits, lines=2 * b"\0\0\0"[: 1 + -(-3 * bits // 8)]))
    expected = f"{label}: expected 8-bit grey values, got {bits} bits"
    with pytest.raises(ValueError, match=re.escape(expected)):
        DATASETS[kind](own, "train")[0]


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
@pytest.mark.parametrize("which", [0, 1], ids=["image", "label"])
def test_unreadable_file(own, kind, which, spoil):
    path = first(own, kind)[which]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(OSError, match=re.escape(f"{path}: expected a readable PNG")):
        DATASETS[kind](own, "train")[0]


@pytest.mark.parametrize("form", ["BMP", "GIF", "TIFF"])
def test_other_formats_are_not_opened(own, kind, form):
    for path in first(own, kind):
        content = path.read_bytes()
        Image.open(path).convert("L").save(path, format=form)
        with pytest.raises(OSError, match=re.escape(f"{path}: expected a readable PNG")):
            DATASETS[kind](own, "train")[0]
        path.write_bytes(content)


def test_images_are_png_or_jpeg_whatever_their_name_and_labels_png(own, kind):
    image, label = first(own, kind)
    shape = DATASETS[kind](own, "train")[0][0].shape
    for form in ("JPEG", "PNG"):
        Image.open(image).save(image, format=form)
        assert DATASETS[kind](own, "train")[0][0].shape == shape
    Image.open(label).convert("L").save(label, format="JPEG")
    with pytest.raises(OSError, match=re.escape(f"{label}: expected a readable PNG image, got")):
        DATASETS[kind](own, "train")[0]


def test_grey_and_transparent_images_become_rgb(own, kind):
    image = first(own, kind)[0]
    original = Image.open(image).copy()
    for mode in ("L", "LA", "RGBA", "P"):
        original.convert(mode).save(image, format="PNG")
        assert DATASETS[kind](own, "train")[0][0].shape[0] == 3


def test_grey_images_of_16_bits_are_not_cut_off(own, kind):
    image = first(own, kind)[0]
    save(image, np.full((2, 3), 300, dtype=np.uint16))
    expected = re.escape(f"{image}: expected 8-bit colours, got mode I;16")
    with pytest.raises(ValueError, match=expected):
        DATASETS[kind](own, "train")[0]


def test_headers_of_good_files(own, kind):
    for split in ("train", "val"):
        dataset = DATASETS[kind](own, split)
        for index in range(len(dataset)):
            assert dataset.check_headers(index) == dataset[index][1].shape
            dataset.check_labels(index)


def test_headers_need_no_pixels(own, kind):
    """The pixels are broken, which is for others to find."""
    dataset = DATASETS[kind](own, "train")
    size = dataset[0][1].shape
    for path in (dataset.image_paths[0], dataset.label_paths[0]):
        path.write_bytes(
            SPOILERS["corrupt" if path.suffix == ".png" else "truncated"](path.read_bytes())
        )
    assert dataset.check_headers(0) == size
    with pytest.raises(OSError, match=re.escape(f"{dataset.label_paths[0]}: expected a readable")):
        dataset.check_labels(0)


def test_headers_tell_other_kinds_of_files(own, kind):
    """Each check finds what loading the item would, in the same words."""
    dataset = DATASETS[kind](own, "train")
    image, label = dataset.image_paths[0], dataset.label_paths[0]
    height, width = dataset[0][1].shape
    faults = {
        image: [
            grey_png(height, width, 16, b"\0"),
            grey_png(height, width + 1, 8, (height * (width + 2)) * b"\0"),
            b"",
            b"BM",
        ],
        label: [
            grey_png(height, width, 16, (height * (2 * width + 1)) * b"\0"),
            grey_png(height, width, 4, (height * (width + 1)) * b"\0"),
            grey_png(height + 1, width, 8, ((height + 1) * (width + 1)) * b"\0"),
            b"",
            b"BM",
        ],
    }
    for path, contents in faults.items():
        good = path.read_bytes()
        for content in contents:
            path.write_bytes(content)
            with pytest.raises((OSError, ValueError), match=re.escape(str(path))) as checked:
                dataset.check_headers(0)
            with pytest.raises((OSError, ValueError)) as loaded:
                dataset.load(0)
            assert str(checked.value) == str(loaded.value)
            path.write_bytes(good)
    assert dataset.check_headers(0) == (height, width)


def test_labels_are_checked_alone(own, kind):
    dataset = DATASETS[kind](own, "train")
    height, width = dataset[0][1].shape
    save(dataset.label_paths[0], np.full((height, width), UNKNOWN[kind], dtype=np.uint8))
    assert dataset.check_headers(0) == (height, width)
    expected = re.escape(f"{dataset.label_paths[0]}: ") + rf".*, got {UNKNOWN[kind]}$"
    with pytest.raises(ValueError, match=expected):
        dataset.check_labels(0)


def test_more_pixels_than_may_be(own, kind):
    dataset = DATASETS[kind](own, "train")
    height, width = dataset[0][1].shape
    assert DATASETS[kind](own, "train", max_pixels=height * width).check_headers(0)
    small = DATASETS[kind](own, "train", max_pixels=height * width - 1)
    expected = f"{dataset.image_paths[0]}: expected .* at most {height * width - 1} pixels"
    for read in (small.load, small.check_headers):
        with pytest.raises(OSError, match=expected):
            read(0)
    save(dataset.image_paths[0], np.zeros((1, 1, 3), dtype=np.uint8))
    for read in (small.load, small.check_headers, small.check_labels):
        with pytest.raises(OSError, match=f"{dataset.label_paths[0]}: .* at most"):
            read(0)
    with pytest.raises(ValueError, match=r"^max_pixels: expected at least 1, got 0$"):
        DATASETS[kind](own, "train", max_pixels=0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), which=st.integers(0, 1))
def test_a_changed_byte_is_read_or_named(own, kind, place, byte, which):
    dataset = DATASETS[kind](own, "train")
    path = (dataset.image_paths[0], dataset.label_paths[0])[which]
    content = path.read_bytes()
    changed = bytearray(content)
    changed[int(place * len(content))] = byte
    path.write_bytes(changed)
    problem = None
    try:
        image, label = dataset[0]
    except (OSError, ValueError) as error:
        problem = str(error)
    finally:
        path.write_bytes(content)
    if problem is None:
        assert image.shape == (3, *label.shape)
        assert set(label.unique().tolist()) <= {*range(dataset.num_classes), 255}
    else:
        assert str(path) in problem


def test_a_seed_determines_the_augmentation_and_leaves_global_randomness_alone(generated, kind):
    dataset = DATASETS[kind](generated / kind, "train", transform=train_transform(32))
    state = torch.get_rng_state()
    image, label = dataset[0, 5]
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    assert label.dtype == torch.int64
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, label_again = dataset[0, 5]
    assert torch.equal(image, again)
    assert torch.equal(label, label_again)
    assert any(not torch.equal(image, dataset[0, seed][0]) for seed in range(6, 12))


def test_workers_load_what_one_process_does(generated, kind):
    dataset = DATASETS[kind](generated / kind, "train", transform=train_transform(32))

    def batches(num_workers):
        sampler = SeededSampler(len(dataset), num_samples=6, seed=0)
        return list(DataLoader(dataset, 2, sampler=sampler, num_workers=num_workers))

    for (image, label), (image_again, label_again) in zip(batches(0), batches(2), strict=True):
        assert image.shape == (2, 3, 32, 32)
        assert torch.equal(image, image_again)
        assert torch.equal(label, label_again)

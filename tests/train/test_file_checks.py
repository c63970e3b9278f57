"""What is wrong with the files of a data set is said before the first iteration."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dyngraph.data import generate_coco, generate_folder
from dyngraph.models import Segmenter
from dyngraph.train import (
    DetectionDataModule,
    SegmentationDataModule,
    SegmentationTask,
    fit,
    image_data_module,
)


class Untrainable(SegmentationTask):
    """A task that says when it takes its first step."""

    def __init__(self):
        super().__init__(Segmenter(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)), num_classes=6)

    def training_step(self, batch, batch_idx):
        raise AssertionError("trained")


@pytest.fixture
def root(tmp_path):
    generate_folder(tmp_path / "set", num_train=5, num_val=3, progress=False)
    return tmp_path / "set"


@pytest.fixture
def coco(tmp_path):
    pytest.importorskip("pycocotools")
    generate_coco(tmp_path / "set", num_train=3, num_val=2, progress=False)
    return tmp_path / "set"


def module(root, **options):
    return SegmentationDataModule(
        root, "folder", **{"crop_size": 16, "batch_size": 2, "num_workers": 0} | options
    )


def start(root, folder):
    """Starts a run, as far as it gets."""
    options = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    fit(Untrainable(), module(root), folder, max_steps=2, **options)


def last(root, kind, split):
    """The last file of a split."""
    return max((root / kind / split).iterdir())


def spoil(path):
    """Makes a mask of no class, of the same size."""
    with Image.open(path) as mask:
        values = np.array(mask)
    values[0, 0] = 77
    Image.fromarray(values).save(path)


def cut(path):
    """Takes a column off an image."""
    with Image.open(path) as image:
        smaller = image.crop((0, 0, image.width - 1, image.height))
    smaller.save(path)


def same_sizes(root):
    for path in root.glob("*/val/*.png"):
        with Image.open(path) as image:
            cropped = image.crop((0, 0, 100, 80))
        cropped.save(path)


@pytest.mark.filterwarnings("ignore:::lightning")
def test_a_run_on_good_files_starts(root, tmp_path):
    with pytest.raises(AssertionError, match=r"^trained$"):
        start(root, tmp_path / "run")


@pytest.mark.filterwarnings("ignore:::lightning")
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("fault", [spoil, cut], ids=["value", "size"])
def test_a_run_on_a_broken_mask_does_not_start(root, tmp_path, split, fault):
    mask = last(root, "masks", split)
    fault(mask)
    with pytest.raises(ValueError, match=re.escape(str(mask))):
        start(root, tmp_path / "run")


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_headers_are_always_checked(root, split, num_workers):
    cut(last(root, "images", split))
    with pytest.raises(ValueError, match=r"expected image and label of one size, got .* in .* and"):
        module(root, check=False, num_workers=num_workers).check()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("check", "small", "noticed"),
    [(None, 8, True), (None, 7, False), (True, 7, True), (False, 8, False)],
)
def test_when_labels_are_checked(root, monkeypatch, split, check, small, noticed):
    """By default in sets of few images: here there are five and three."""
    monkeypatch.setattr(image_data_module, "_SMALL", small)
    mask = last(root, "masks", split)
    spoil(mask)
    data = module(root, check=check)
    if noticed:
        with pytest.raises(ValueError, match=rf"^{re.escape(str(mask))}: values: .* got 77$"):
            data.check()
    else:
        data.check()


def test_each_file_is_checked_once(root, monkeypatch):
    """Those of both splits, when both are trained on too."""
    seen = []
    kind = type(module(root).load("val", augmented=False))
    for name in ("check_headers", "check_labels"):
        original = getattr(kind, name)

        def check(dataset, index, name=name, original=original):
            seen.append((name, dataset.image_paths[index]))
            return original(dataset, index)

        monkeypatch.setattr(kind, name, check)
    images = sorted(root.glob("images/*/*.png"))
    for train_split in ("train", "trainval"):
        module(root, train_split=train_split).check()
        assert sorted(seen) == [
            (name, path) for name in ("check_headers", "check_labels") for path in images
        ]
        seen.clear()


def test_validation_images_of_different_sizes(root):
    data = module(root, val_batch_size=2)
    data.setup("fit")
    first, second = data.val.image_paths[:2]
    sizes = []
    for path in (first, second):
        with Image.open(path) as image:
            sizes.append([image.height, image.width])
    expected = (
        "val_batch_size: expected 1 for validation images of different sizes, got 2 for "
        f"{first}, {sizes[0]}, and {second}, {sizes[1]}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        data.check()
    module(root, val_batch_size=1).check()


def test_validation_images_of_one_size(root):
    same_sizes(root)
    data = module(root, val_batch_size=2)
    data.check()
    assert [len(image) for image, _ in data.val_dataloader()] == [2, 1]


def test_too_many_pixels(root):
    image = last(root, "images", "val")
    Image.new("L", (500, 300)).save(image)
    with pytest.raises(OSError, match=rf"{image}: .* at most 149999 pixels, as max_pixels says"):
        module(root, max_pixels=300 * 500 - 1).check()


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_of_coco(coco, split):
    DetectionDataModule(coco, num_workers=0, val_batch_size=2).check()
    image = max((coco / f"{split}2017").iterdir())
    cut(image)
    with pytest.raises(ValueError, match=f"^{re.escape(str(image))}: expected height and width"):
        DetectionDataModule(coco, num_workers=0).check()


@pytest.mark.parametrize("split", ["train", "val"])
def test_segmentations_of_coco(coco, split):
    path = coco / f"annotations/instances_{split}2017.json"
    content = json.loads(path.read_text())
    content["annotations"][-1]["segmentation"] = [[1.0, 2.0]]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: annotations, id .*segmentat"):
        DetectionDataModule(coco, num_workers=0).check()
    DetectionDataModule(coco, num_workers=0, check=False).check()


def test_bars_are_for_terminals(root, capfd):
    module(root).check()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name", ["batch_size", "val_batch_size", "max_pixels", "num_workers", "seed"]
)
@pytest.mark.parametrize("data_class", [SegmentationDataModule, DetectionDataModule])
def test_numbers_of_the_data(data_class, name):
    least = 0 if name in ("num_workers", "seed") else 1
    data_class(**{name: least})
    expected = rf"^{name}: expected at least {least}, got {least - 1}$"
    with pytest.raises(ValueError, match=expected):
        data_class(**{name: least - 1})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"max_steps": 0}, "max_steps: expected at least 1, got 0"),
        ({"max_steps": -1}, "max_steps: expected at least 1, got -1"),
        ({"checkpoint_every": 0}, "checkpoint_every: expected at least 1, got 0"),
        ({"validate_every": 0}, "validate_every: expected at least 1, got 0"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches: expected at least 1, got 0"),
        ({"gradient_clip_val": -0.5}, "gradient_clip_val: expected at least 0, got -0.5"),
        ({"log_every_n_steps": -1}, "log_every_n_steps: expected at least 0, got -1"),
        ({"min_epochs": -1}, "min_epochs: expected at least 0, got -1"),
        ({"min_steps": -1}, "min_steps: expected at least 0, got -1"),
        ({"max_epochs": 0}, "max_epochs: expected a positive number, .* got 0"),
        ({"limit_train_batches": 0.0}, "limit_train_batches: expected a positive number, .* got 0"),
    ],
)
def test_numbers_of_a_run(root, tmp_path, option, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        fit(Untrainable(), module(root), tmp_path / "run", **{"max_steps": 1} | option)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:::lightning")
def test_no_validation(root, tmp_path):
    torch.manual_seed(0)
    network = Segmenter(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1))
    scores = fit(
        SegmentationTask(network, num_classes=6),
        module(root),
        tmp_path / "run",
        max_steps=1,
        limit_val_batches=0,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    assert scores == {}
    assert (tmp_path / "run/last.ckpt").exists()

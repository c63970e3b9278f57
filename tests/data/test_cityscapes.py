import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from broken_files import SPOILERS
from cityscapesscripts.helpers import labels as official
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from dyngraph.data import (
    CLASS_NAMES,
    ID_TO_TRAIN_ID,
    IGNORE,
    PALETTE,
    TRAIN_ID_TO_ID,
    CityscapesSegmentation,
    SeededSampler,
    decode_labels,
    encode_labels,
    train_transform,
)

IDS = np.array([[7, 0, 26], [33, 1, 23]], dtype=np.uint8)
NAMES = ["bonn_000000_000019", "aachen_000002_000019", "aachen_000001_000019"]


def paths(root, name, split="train"):
    city = name.split("_")[0]
    return (
        root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png",
        root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png",
    )


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for name in NAMES:
        image, label = paths(tmp_path, name)
        save(image, rng.integers(0, 256, (2, 3, 3), dtype=np.uint8))
        save(label, IDS)
    return tmp_path


def test_items_without_a_transform(root):
    dataset = CityscapesSegmentation(root, "train")
    assert len(dataset) == 3
    assert [path.name for path in dataset.image_paths] == [
        "aachen_000001_000019_leftImg8bit.png",
        "aachen_000002_000019_leftImg8bit.png",
        "bonn_000000_000019_leftImg8bit.png",
    ]
    assert [path.name for path in dataset.label_paths] == [
        "aachen_000001_000019_gtFine_labelIds.png",
        "aachen_000002_000019_gtFine_labelIds.png",
        "bonn_000000_000019_gtFine_labelIds.png",
    ]
    image, label = dataset[1]
    assert isinstance(image, tv_tensors.Image)
    assert isinstance(label, tv_tensors.Mask)
    assert image.dtype == torch.uint8
    assert label.dtype == torch.int64
    assert label.tolist() == [[0, 255, 13], [18, 255, 10]]
    pixels = np.asarray(Image.open(dataset.image_paths[1]))
    assert torch.equal(image, torch.from_numpy(pixels.copy()).permute(2, 0, 1))


def test_iterating_ends(root):
    assert len(list(CityscapesSegmentation(str(root), "train"))) == 3


def test_label_is_int64_after_a_transform(root):
    dataset = CityscapesSegmentation(root, "train", transform=train_transform(4))
    image, label = dataset[0]
    assert image.shape == (3, 4, 4)
    assert image.dtype == torch.float32
    assert label.dtype == torch.int64


def test_grey_images_become_rgb(root):
    save(paths(root, NAMES[0])[0], np.full((2, 3), 9, dtype=np.uint8))
    image, _ = CityscapesSegmentation(root, "train")[2]
    assert (image == 9).all()
    assert image.shape == (3, 2, 3)


def test_unknown_split(root):
    with pytest.raises(ValueError, match=r"split: expected one of .* got 'training'"):
        CityscapesSegmentation(root, "training")


@pytest.mark.parametrize("missing", ["", "leftImg8bit/train", "gtFine/train"])
def test_missing_folder(root, missing):
    folder = root / missing if missing else root / "elsewhere"
    if missing:
        folder.rename(root / "moved")
    with pytest.raises(FileNotFoundError, match=re.escape(str(folder)) + ","):
        CityscapesSegmentation(root if missing else folder, "train")


def test_archives_are_not_extracted(tmp_path):
    for name in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="leftImg8bit"):
        CityscapesSegmentation(tmp_path, "train")


def test_no_images(tmp_path):
    for folder in ("leftImg8bit", "gtFine"):
        (tmp_path / folder / "val" / "bonn").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"expected images in .*val, got none"):
        CityscapesSegmentation(tmp_path, "val")


def test_missing_label(root):
    for name in NAMES[:2]:
        paths(root, name)[1].unlink()
    image, label = paths(root, NAMES[1])
    with pytest.raises(FileNotFoundError, match=re.escape(f"{label}, the label of {image}")):
        CityscapesSegmentation(root, "train")


def test_sizes_differ(root):
    image, label = paths(root, NAMES[0])
    save(label, np.zeros((4, 5), dtype=np.uint8))
    expected = re.escape(f"[2, 3] in {image} and [4, 5] in {label}")
    with pytest.raises(ValueError, match=expected):
        CityscapesSegmentation(root, "train")[2]


def test_id_outside_the_table(root):
    label = paths(root, NAMES[0])[1]
    save(label, np.full((2, 3), 34, dtype=np.uint8))
    with pytest.raises(ValueError, match=re.escape(f"{label}: ids: ") + ".* got 34$"):
        CityscapesSegmentation(root, "train")[2]


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [(np.zeros((2, 3, 3), dtype=np.uint8), "RGB"), (np.zeros((2, 3), dtype=np.uint16), "I;16")],
)
def test_label_of_another_mode(root, pixels, mode):
    label = paths(root, NAMES[0])[1]
    save(label, pixels)
    with pytest.raises(ValueError, match=re.escape(str(label)) + f": .* got mode {mode}"):
        CityscapesSegmentation(root, "train")[2]


@pytest.mark.parametrize("which", [0, 1], ids=["image", "label"])
@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_unreadable_file(root, which, spoil):
    path = paths(root, NAMES[0])[which]
    noise = np.random.default_rng(0).integers(0, 30, (32, 32), dtype=np.uint8)
    save(path, noise)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(OSError, match=re.escape(f"{path}: expected a readable PNG")):
        CityscapesSegmentation(root, "train")[2]


def test_other_formats_are_not_opened(root):
    path = paths(root, NAMES[0])[0]
    Image.new("RGB", (3, 2)).save(path, format="BMP")
    with pytest.raises(OSError, match=re.escape(str(path))):
        CityscapesSegmentation(root, "train")[2]


def test_a_seed_determines_the_augmentation_and_leaves_global_randomness_alone(root):
    dataset = CityscapesSegmentation(root, "train", transform=train_transform(6))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    image, label = dataset[0, 5]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    again, label_again = dataset[0, 5]
    assert torch.equal(image, again)
    assert torch.equal(label, label_again)
    assert any(not torch.equal(image, dataset[0, seed][0]) for seed in range(6, 12))
    assert any(not torch.equal(image, dataset[0][0]) for _ in range(6))


def test_a_resumed_run_sees_the_same_batches(root):
    dataset = CityscapesSegmentation(root, "train", transform=train_transform(6))

    def batches(start):
        sampler = SeededSampler(len(dataset), num_samples=12, seed=0, start=start)
        return list(DataLoader(dataset, batch_size=2, sampler=sampler))

    run, tail = batches(0), batches(8)
    assert len(run) == 6
    assert len(tail) == 2
    assert type(run[0][0]) is torch.Tensor
    for (image, label), (image_again, label_again) in zip(run[4:], tail, strict=True):
        assert torch.equal(image, image_again)
        assert torch.equal(label, label_again)


@pytest.mark.slow
def test_dyngraph_itself_needs_no_torchvision():
    code = "import sys, dyngraph; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0


OFFICIAL = [label for label in official.labels if label.id >= 0]


def test_tables_are_those_of_the_official_judge():
    assert len(OFFICIAL) == 34
    for label in OFFICIAL:
        assert ID_TO_TRAIN_ID[label.id] == label.trainId
        if label.trainId != IGNORE:
            assert TRAIN_ID_TO_ID[label.trainId] == label.id
            assert CLASS_NAMES[label.trainId] == label.name
            assert tuple(PALETTE[label.trainId].tolist()) == label.color
    assert len(CLASS_NAMES) == len(PALETTE) == 19
    assert (ID_TO_TRAIN_ID[34:] == IGNORE).all()
    assert ID_TO_TRAIN_ID.dtype == TRAIN_ID_TO_ID.dtype == PALETTE.dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_encode_labels(dtype):
    ids = torch.tensor([[7, 0, 33], [26, 29, 11]], dtype=dtype)
    train_ids = encode_labels(ids)
    assert train_ids.dtype == torch.uint8
    assert train_ids.tolist() == [[0, 255, 18], [13, 255, 2]]


def test_decode_labels_is_the_inverse_and_turns_ignored_into_unlabeled():
    train_ids = torch.tensor([*range(19), 255])
    ids = decode_labels(train_ids)
    assert ids.dtype == torch.uint8
    assert encode_labels(ids).tolist() == train_ids.tolist()
    assert ids[-1] == 0


def test_no_labels():
    assert encode_labels(torch.empty(0, 3, dtype=torch.uint8)).shape == (0, 3)


@pytest.mark.parametrize("unknown", [-1, 34, 255, 256, 10**12])
def test_encode_labels_names_an_unknown_id(unknown):
    with pytest.raises(ValueError, match=rf"ids: expected Cityscapes ids .* got {unknown}$"):
        encode_labels(torch.tensor([7, unknown, 8]))


@pytest.mark.parametrize("unknown", [-1, 19, 254, 256])
def test_decode_labels_names_an_unknown_train_id(unknown):
    with pytest.raises(ValueError, match=rf"train_ids: .* got {unknown}$"):
        decode_labels(torch.tensor([0, unknown]))


@pytest.mark.parametrize("function", [encode_labels, decode_labels])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_labels_must_be_integers(function, dtype):
    with pytest.raises(TypeError, match="expected integers"):
        function(torch.ones(2, dtype=dtype))
